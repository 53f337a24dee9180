"""Which projection takes a fold, and whether the family's residual path allows it: found by trying, not by name.

A fold needs a linear map whose output joins the residual stream times one constant. Most families end a layer so,
attention before the feed-forward part or beside it. A norm after the feed-forward part, or gates of experts, forbid it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from heal.patching.passing import NoPatchError
from prune.models.walks.hooks import hooked, state_of

_TOLERANCE = 1e-3  # of the effect of a trial change, in float32
_HARMLESS = (torch.nn.Dropout, torch.nn.Identity)


@dataclass(frozen=True)
class Place:
    """A projection that takes a fold.

    layer: 0-based. path: of the module below its layer. scale: c, by which its output is multiplied on the way to the
    residual stream. bias: whether it has one. transposed: stored (in, out), as GPT-2's are.
    """

    layer: int
    path: str
    scale: float
    bias: bool
    transposed: bool

    def module(self, layers: Any) -> Any:
        return layers[self.layer].get_submodule(self.path)

    def featured(self, inputs: torch.Tensor) -> torch.Tensor:
        """The projection's inputs (..., F), with a 1 appended where it has a bias: (..., F + 1)."""
        return torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1) if self.bias else inputs

    def matrix(self, layers: Any) -> torch.Tensor:
        """The projection's weight, (D, F), in float64; its bias is the last column, where it has one."""
        module = self.module(layers)
        return self.joined(module.weight.detach(), module.bias.detach() if self.bias else None)

    def joined(self, stored: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`matrix` of a weight as the model stores it, and of its bias where it has one."""
        weight = (stored.T if self.transposed else stored).double()
        return weight if bias is None else torch.cat([weight, bias.double()[:, None]], 1)

    def effect(self, change: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What a change of the matrix, (D, F), adds to the layer's output: (..., D), in the features' dtype."""
        wide = torch.promote_types(features.dtype, torch.float32)
        return (self.scale * (features.to(wide) @ change.to(wide).T)).to(features.dtype)

    def write(self, layers: Any, matrix: torch.Tensor) -> None:
        """Put a changed matrix into the model, in the model's dtype."""
        module = self.module(layers)
        weight = matrix[:, :-1] if self.bias else matrix
        module.weight.data.copy_(weight.T if self.transposed else weight)
        if self.bias:
            module.bias.data.copy_(matrix[:, -1])


def find_place(model: Any, layers: Any, layer: int, ids: torch.Tensor) -> Place:
    """The projection of `layer` (0-based) that takes a fold: the last one run whose output joins the layer's linearly.

    Args:
        ids: (1, T), token ids to try it on.

    Raises:
        NoPatchError: there is none; the message says what stands in the way.
    """
    arguments, order = _observed(model, layers[layer], ids)
    found = place_in(model, layers[layer], layer, arguments, order)
    weight = found.module(layers).weight
    if sum(parameter is weight for _, parameter in model.named_parameters(remove_duplicate=False)) > 1:
        raise NoPatchError(
            f"{type(model).__name__} takes no fold at layer {layer}: {found.path} is shared with another layer"
        )
    return found


def place_in(model: Any, module: Any, layer: int, arguments: Any, order: list[tuple[str, Any]]) -> Place:
    """As `find_place`, of a layer's module that has its weights.

    Args:
        arguments: positional and named ones that it is called with.
        order: (path, module) of its parts as they run.
    """
    trial = copy.deepcopy(module).float()
    arguments = _widened(arguments)
    names = [name for name, _ in order]
    found = None
    for place in reversed(range(len(order))):
        path, part = order[place]
        if not _is_projection(part, _width(arguments)) or path in names[place + 1 :]:
            continue
        with _whole_float32():
            scale = _scale(trial, path, arguments)
        if scale is not None:
            found = Place(layer, path, scale, part.bias is not None, not isinstance(part, torch.nn.Linear))
            break
    if found is None:
        raise NoPatchError(
            f"{type(model).__name__} takes no fold at layer {layer}: {_reason(order, _width(arguments))}"
        )
    return found


@torch.no_grad()
def _observed(model: Any, layer: Any, ids: torch.Tensor) -> tuple[Any, list[tuple[str, Any]]]:
    """The arguments that `layer` is called with, and (path, module) of its parts in the order they run."""
    arguments: list[Any] = []

    def before(_module: Any, args: Any, kwargs: Any) -> None:
        arguments.append((args, dict(kwargs)))

    handle = layer.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with in_order(layer) as order:
            model.get_decoder()(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return arguments[0], order


@contextmanager
def in_order(layer: Any) -> Iterator[list[tuple[str, Any]]]:
    """While the block runs, (path, module) of a layer's parts are appended to the list as they run."""
    order: list[tuple[str, Any]] = []
    paths = {module: path for path, module in layer.named_modules() if path and not any(module.children())}
    handles = [
        module.register_forward_pre_hook(lambda module, _: order.append((paths[module], module))) for module in paths
    ]
    try:
        yield order
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _scale(layer: Any, path: str, arguments: Any) -> float | None:
    """c, where a change D of the projection's weight changes the layer's output by c D h; None where it does not."""
    projection = layer.get_submodule(path)
    weight = projection.weight
    trial = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    trial = trial.to(weight.device) * weight.std()
    inputs: list[torch.Tensor] = []
    with hooked({projection: inputs.append}, {}):
        plain = _output(layer, arguments)
    with _added(weight, trial):
        difference = (_output(layer, arguments) - plain).flatten()
    effect = (inputs[0] @ (trial.T if isinstance(projection, torch.nn.Linear) else trial)).flatten()
    if effect.shape != difference.shape:
        return None
    power = float(effect @ effect)
    scale = float(effect @ difference) / power if power > 0 else 0.0
    apart = torch.linalg.vector_norm(difference - scale * effect)
    sound = abs(scale) > 1e-6 and float(apart) <= _TOLERANCE * abs(scale) * math.sqrt(power)
    return float(f"{scale:.5g}") if sound else None  # families write such constants in a few digits


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Keep a GPU from rounding float32 products to TF32, which misses the tolerance."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _added(weight: torch.Tensor, trial: torch.Tensor) -> Iterator[None]:
    weight.data += trial
    try:
        yield
    finally:
        weight.data -= trial


def _output(layer: Any, arguments: Any) -> torch.Tensor:
    args, kwargs = arguments
    return state_of(layer(*args, **kwargs))


def _widened(value: Any) -> Any:
    """Tensors of any floating-point type as float32, wherever in arguments they stand."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_widened(entry) for entry in value)
    if isinstance(value, dict):
        return {name: _widened(entry) for name, entry in value.items()}
    return value


def _width(arguments: Any) -> int:
    args, kwargs = arguments
    hidden = args[0] if args else kwargs["hidden_states"]
    return int(hidden.shape[-1])


def _is_projection(module: Any, width: int) -> bool:
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return int(module.weight.shape[1]) == width
    return isinstance(module, torch.nn.Linear) and module.out_features == width


def _reason(order: list[tuple[str, Any]], width: int) -> str:
    places = [place for place, (_, module) in enumerate(order) if _is_projection(module, width)]
    if not places:
        return "it has no linear projection that ends in the residual stream"
    last = places[-1]
    after = [path for path, module in order[last + 1 :] if not isinstance(module, _HARMLESS)]
    if any("expert" in path for path in after):
        return "its feed-forward part is a mixture of experts, whose gates weigh every token differently"
    if after:
        return f"{after[0]} stands between {order[last][0]} and the residual stream, and is no constant factor"
    return f"what {order[last][0]} gives does not join the residual stream linearly"
