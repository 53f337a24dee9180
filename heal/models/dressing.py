"""What a layer that was read from its files wears for a while: weights in 4 or 8 bits, a LoRA adapter, other values.

So the versions of a model that healing compares share one walk through its files (`prune.models.walks.layerwise`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from heal.models.quantise import quantised_twin
from prune.models.walks.layerwise import Layerwise

Pairs = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # module -> A of shape (r, in), B of shape (out, r)
Values = Callable[[str], "torch.Tensor | None"]  # name of a stored tensor -> what it is now; None: as it is stored


@dataclass(frozen=True)
class Dressing:
    """What makes a version of a model of its layers as they are stored.

    bits: 4 or 8, in which the modules `quantised` (by their names in the model) are held; 16: none is.
    pairs, scaling: the adapter, beside the weights, as peft runs it. values: what stands in the place of stored values.
    """

    bits: int = 16
    quantised: Collection[str] = ()
    pairs: Pairs | None = None
    scaling: float = 1.0
    values: Values | None = None
    changed: Collection[str] = ()  # names of the stored tensors that `values` has something for

    def first(self, files: Layerwise) -> int:
        """The first layer (0-based) that this changes; the number of layers if it changes none."""
        return next((i for i in range(len(files.layers)) if self._reaches(files, i)), len(files.layers))

    def fits(self, files: Layerwise) -> bool:
        """Whether all that this changes stands in the layers."""
        stored = {name for index in range(len(files.layers)) for name in files.stored_names(index).values()}
        prefixes = tuple(f"{files.names[id(layer)]}." for layer in files.layers)
        return stored.issuperset(self.changed) and all(name.startswith(prefixes) for name in self._modules())

    @contextmanager
    def worn(self, files: Layerwise, index: int, layer: Any) -> Iterator[None]:
        """While the block runs, layer `index`, which has its weights, is this version's."""
        prefix = files.names[id(layer)]
        before: list[tuple[Any, str, Any]] = []
        with ExitStack() as hooks:
            try:
                for name, stored in files.stored_names(index).items():
                    value = self.values(stored) if self.values is not None and stored in self.changed else None
                    if value is not None:
                        owner, _, own = name.rpartition(".")
                        _swap(before, layer.get_submodule(owner), own, _parameter(value, files))
                for path, module in list(layer.named_modules()):
                    name = f"{prefix}.{path}"
                    held = module
                    if name in self.quantised:
                        owner, _, own = path.rpartition(".")
                        held = quantised_twin(module, bits=self.bits)
                        _swap(before, layer.get_submodule(owner), own, held)
                    if self.pairs and name in self.pairs:
                        adding = _adding(self.pairs[name], self.scaling, files.device, early=held is not module)
                        hooks.callback(held.register_forward_hook(adding).remove)
                yield
            finally:
                for owner_module, own, old in reversed(before):
                    setattr(owner_module, own, old)

    def _modules(self) -> set[str]:
        return {*self.quantised, *(self.pairs or ())}

    def _reaches(self, files: Layerwise, index: int) -> bool:
        prefix = f"{files.names[id(files.layers[index])]}."
        if any(name.startswith(prefix) for name in self._modules()):
            return True
        return not set(files.stored_names(index).values()).isdisjoint(self.changed)


def _swap(before: list[tuple[Any, str, Any]], owner: Any, name: str, new: Any) -> None:
    before.append((owner, name, getattr(owner, name)))
    setattr(owner, name, new)


def _parameter(value: torch.Tensor, files: Layerwise) -> torch.nn.Parameter:
    return torch.nn.Parameter(value.to(files.device, files.dtype), requires_grad=False)


def _adding(pair: tuple[torch.Tensor, torch.Tensor], scaling: float, device: str, *, early: bool) -> Any:
    """A hook that adds what an adapter gives. Its products are fp32, as in peft.

    Args:
        early: peft rounds what it adds to the dtype of products before it adds it to a quantised layer's output; to
            another's it adds it in fp32.
    """
    down, up = (matrix.to(device, torch.float32) for matrix in pair)

    def add(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        extra = torch.nn.functional.linear(torch.nn.functional.linear(inputs[0].float(), down), up) * scaling
        return output + extra.to(output.dtype) if early else (output + extra).to(output.dtype)

    return add
