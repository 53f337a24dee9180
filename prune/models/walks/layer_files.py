"""A model's weights, read from its safetensors files a layer at a time: the tree of modules itself holds none."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from prune.checkpoint.headers import Checkpoint, Shard, Tensor, read_checkpoint
from prune.checkpoint.source import Source
from prune.checkpoint.tensors import FLOATS, read_into, torch_dtype
from prune.common.errors import CheckpointError, RegrowthError, first_line
from prune.common.machine.memory import available
from prune.models.at_once import WEIGHTS_SHARE
from prune.models.loading import decoder_layers, read_config, stored_dtype, text_config
from prune.models.memory.shapes import HEADS
from prune.models.walks.hooks import decoder_of

_ALIGN = 64
_REFUSED = (
    "so this family is not run layer by layer; run it where its weights fit, or say with --max-memory that they do"
)


def fits(source: Source, dtype: Any, device: str, cap: int | None) -> bool:
    """Whether the weights, in the type they are loaded in, fit in the memory of `device` or under `cap` (bytes)."""
    return weights_fit(read_checkpoint(source.folder), dtype, device, cap)


def weights_fit(checkpoint: Checkpoint, dtype: Any, device: str, cap: int | None) -> bool:
    """As `fits`, by the headers alone: of a model on the hub no weights are fetched for it."""
    width = None if dtype == "auto" else dtype.itemsize
    size = sum(t.size if width is None or t.dtype not in FLOATS else t.elements * width for t in checkpoint.tensors())
    return size <= WEIGHTS_SHARE * (available(device) if cap is None else cap)


class StoredTensors:
    """The tensors of a checkpoint by name, read at their bytes; no file stays open."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.base = ""  # what the model's class calls its base model
        self.places: dict[str, tuple[Shard, Tensor]] = {
            tensor.name: (shard, tensor) for shard in checkpoint.shards for tensor in shard.tensors
        }

    def find(self, name: str) -> str | None:
        """The name that a parameter is stored under: its own, with the base model's prefix or without."""
        for stored in (name, f"{self.base}.{name}", name.removeprefix(f"{self.base}.")):
            if stored in self.places:
                return stored
        return None

    def read(self, name: str, into: torch.Tensor) -> torch.Tensor:
        """One tensor in its stored type, its bytes in `into` (uint8, of its size)."""
        shard, tensor = self.places[name]
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{shard.path}: {name} is of type {tensor.dtype}, which is not run layer by layer")
        read_into(shard, tensor, memoryview(into.numpy()))  # type: ignore[arg-type]
        return into.view(torch_dtype(tensor)).view(tensor.shape)

    def load(self, name: str) -> torch.Tensor:
        return self.read(name, torch.empty(self.places[name][1].size, dtype=torch.uint8))


class LayerFiles:
    """A causal language model without weights, and what brings them: one layer, the embeddings or the head at a time.

    Attributes:
        model: on the meta device, but for buffers that are computed and not stored, and for what is loaded right now.
        layers: its decoder layers.
        decoder: the part of it that holds them, but not the head.
        dtype, device: those it runs in.
    """

    def __init__(
        self, source: Source, *, dtype: torch.dtype | str, device: str, trust_remote_code: bool = False
    ) -> None:
        """
        Args:
            dtype: as `prune.models.precision.pick_dtype` gives it: "auto" is the checkpoint's own.

        Raises:
            CheckpointError: transformers cannot make a causal language model of the folder's config.
        """
        self.name, self.device = source.name, device
        checkpoint = read_checkpoint(source.folder)
        try:
            self.model, self.dtype = _without_weights(source, checkpoint, dtype, trust_remote_code)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise CheckpointError(
                f"{source.name} cannot be made a causal language model ({first_line(error)})"
            ) from error
        self.decoder, self.layers = decoder_of(self.model), list(decoder_layers(self.model))
        self.weights = StoredTensors(checkpoint)
        self.weights.base = getattr(self.model, "base_model_prefix", "")
        self.names = {id(module): name for name, module in self.model.named_modules()}
        for module in self.model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[name] = buffer.to(device)

    def check(self) -> None:
        """Find every layer's weights in the files, and read none.

        Raises:
            CheckpointError: a layer's weights are stored in a form other than the model's own.
        """
        for index in range(len(self.layers)):
            self.stored_names(index)

    @contextmanager
    def embeddings(self) -> Iterator[None]:
        """While the block runs, the embeddings have their weights; and from then on, so has what else is no layer."""
        inside = {id(p) for layer in self.layers for p in layer.parameters()}
        for module in self.decoder.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) not in inside:
                    self._load(module, name, parameter)
        try:
            yield
        finally:
            _empty(self.model.get_input_embeddings())

    @contextmanager
    def head(self) -> Iterator[None]:
        """While the block runs, the head has its weights: its own, or where it is tied to them the embeddings'."""
        head = self.model.get_output_embeddings()
        if head is None:
            raise RegrowthError(f"{type(self.model).__name__} has no head that can be told, {_REFUSED}")
        for name, parameter in list(head.named_parameters(recurse=False)):
            self._load(head, name, parameter)
        try:
            yield
        finally:
            _empty(head)

    def each(self, indices: Iterable[int]) -> Generator[tuple[int, Any]]:
        """Some layers in turn, 0-based, each with its weights for as long as it is the one; the next is read beside.

        Raises:
            CheckpointError: weights are not stored under the layer's own names.
        """
        indices = list(indices)
        slots = _Slots(self, indices)
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(slots.read, 0) if indices else None
            for turn, index in enumerate(indices):
                assert coming is not None
                coming.result()
                layer = self.layers[index]
                slots.place(turn, layer)
                coming = reader.submit(slots.read, turn + 1) if turn + 1 < len(indices) else None
                try:
                    yield index, layer
                finally:
                    _empty(layer)

    def stored_names(self, index: int) -> dict[str, str]:
        """Of layer `index`, every parameter (and stored buffer) and the name of its tensor in the files."""
        prefix, names = self.names[id(self.layers[index])], {}
        for name in self.layers[index].state_dict():
            stored = self.weights.find(f"{prefix}.{name}")
            if stored is None:
                raise CheckpointError(f"{prefix}.{name} is not stored under its own name, {_REFUSED}")
            if (kind := self.weights.places[stored][1].dtype) not in FLOATS:
                raise CheckpointError(f"{prefix}.{name} is stored as {kind}, {_REFUSED}")
            names[name] = stored
        return names

    def _load(self, module: Any, name: str, parameter: Any) -> None:
        if parameter.device.type != "meta":
            return
        stored = self._stored(module, name)
        if stored is None:
            raise RegrowthError(f"{self.names[id(module)]}.{name} is not among the stored tensors, {_REFUSED}")
        loaded = self.weights.load(stored).to(self.device, self.dtype)
        setattr(module, name, torch.nn.Parameter(loaded, requires_grad=False))

    def _stored(self, module: Any, name: str) -> str | None:
        """Where a parameter outside the layers is stored; of a tied pair, one stands for both."""
        table, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        names = [f"{self.names[id(module)]}.{name}".removeprefix(".")]
        if name == "weight" and head is not None and module in (table, head):
            of_head = [f"{self.names[id(head)]}.weight", *HEADS]
            tied = getattr(text_config(self.model.config), "tie_word_embeddings", False)
            if module is head:
                names += [*of_head, f"{self.names[id(table)]}.weight"] if tied else of_head
            elif tied:
                names += of_head
        return next(filter(None, map(self.weights.find, names)), None)


def _without_weights(
    source: Source, checkpoint: Checkpoint, dtype: torch.dtype | str, trust_remote_code: bool
) -> tuple[Any, torch.dtype]:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    config = read_config(source.folder, source.name, trust_remote_code=trust_remote_code)
    picked = dtype if isinstance(dtype, torch.dtype) else stored_dtype(checkpoint, config)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=picked, trust_remote_code=trust_remote_code)
    return model.eval(), picked


class _Slots:
    """Room for two layers, and what stands in which. `read` runs in a thread of its own."""

    def __init__(self, files: LayerFiles, indices: list[int]) -> None:
        self.files, self.weights = files, files.weights
        self.names = [files.stored_names(index) for index in indices]
        size = max((sum(self._room(stored) for stored in names.values()) for names in self.names), default=0)
        self.slots = [torch.empty(size, dtype=torch.uint8) for _ in range(min(2, len(indices)))]
        self.held: dict[int, dict[str, torch.Tensor]] = {}

    def _room(self, stored: str) -> int:
        return -(-self.weights.places[stored][1].size // _ALIGN) * _ALIGN

    def read(self, turn: int) -> None:
        """Bring a layer into its slot."""
        slot, offset, held = self.slots[turn % len(self.slots)], 0, {}
        for name, stored in self.names[turn].items():
            size = self.weights.places[stored][1].size
            held[name] = self.weights.read(stored, slot[offset : offset + size])
            offset += self._room(stored)
        self.held[turn] = held

    def place(self, turn: int, layer: Any) -> None:
        """Give the layer its weights, in the type and on the device that it runs in."""
        files = self.files
        held = {name: tensor.to(files.device, files.dtype) for name, tensor in self.held.pop(turn).items()}
        for name, tensor in layer.state_dict().items():
            if held[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{self.names[turn][name]} has the shape {list(held[name].shape)}, and config.json asks for "
                    f"{list(tensor.shape)}; get the files again, or correct config.json"
                )
        layer.load_state_dict(held, strict=True, assign=True)


def _empty(module: Any) -> None:
    """Let go of a module's weights; buffers that are computed stay."""
    stored = set(module.state_dict())
    for path, part in module.named_modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            part._parameters[name] = torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        for name, buffer in list(part.named_buffers(recurse=False)):
            if f"{path}.{name}".removeprefix(".") in stored:
                part._buffers[name] = torch.empty_like(buffer, device="meta")
