"""A scan of a model whose weights do not fit: layer by layer from its safetensors files, all samples at each layer.

The model is built without weights. The embedding is loaded, gives x[0] of every batch, and goes. Then two slots of
one layer's size take turns: while the batches run through the layer in the one, a thread reads the next layer into
the other. The model's own forward pass supplies masks and positions; the layers it would run are passed over.
Hidden states are kept in memory while they fit, else in a memory map of a temporary file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prune.checkpoint.headers import Checkpoint, Shard, Tensor, read_checkpoint
from prune.checkpoint.source import Source
from prune.checkpoint.tensors import FLOATS, read_into, torch_dtype
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.common.memory import available
from prune.common.terminal import progress, screen
from prune.models.batches import padded
from prune.models.hooks import decoder_of, state_of
from prune.models.loading import decoder_layers, text_config
from prune.models.precision import pick_dtype
from prune.models.walking import Call, standing_in
from prune.scanning.samples import Samples, batch_budget, own_batches
from prune.scanning.settings import ScanSettings
from prune.scanning.states import BatchStates
from prune.scanning.sums import ScanSums

_ALIGN = 64
_ROOM = 0.9  # of the memory there is, for weights; the rest is for a batch
_STATES_SHARE = 0.25  # of the memory there is, for hidden states; beyond, they go to a file


@dataclass
class Timing:
    """Seconds of one streamed pass: reading layers, computing, and all of it."""

    read: float = 0.0
    compute: float = 0.0
    wall: float = 0.0


def fits(source: Source, dtype: Any, device: str, cap: int | None) -> bool:
    """Whether the weights, in the type they are loaded in, fit in the memory of `device` or under `cap` (bytes)."""
    checkpoint = read_checkpoint(source.folder)
    width = None if dtype == "auto" else dtype.itemsize
    size = sum(t.size if width is None or t.dtype not in FLOATS else t.elements * width for t in checkpoint.tensors())
    return size <= _ROOM * (available(device) if cap is None else cap)


def measure_streamed(
    source: Source,
    samples: Samples,
    settings: ScanSettings,
    *,
    trust_remote_code: bool = False,
    show_progress: bool = False,
    timing: Timing | None = None,
) -> ScanSums:
    """As `prune.scanning.scan.measure_in_memory`, layer by layer from the model's files; equal to it but for rounding.

    Args:
        timing: filled in, where given.

    Raises:
        UsageError: with `tokens` "all", states of all layers that do not fit.
        CheckpointError: weights stored in a form other than the model's own.
    """
    if show_progress:
        screen().print(
            "The weights do not fit in memory: running the model layer by layer from its files. "
            "If such a scan is interrupted, it begins anew."
        )
    began = time.monotonic()
    timing = timing if timing is not None else Timing()
    device = settings.device
    files = _Files(read_checkpoint(source.folder))
    model, dtype = _without_weights(source, files, settings, trust_remote_code)
    decoder, layers = decoder_of(model), list(decoder_layers(model))
    memory = available(device) if settings.max_memory is None else settings.max_memory
    width = text_config(model.config).hidden_size
    share = own_batches(samples.windows, settings.batch_size, batch_budget(device))
    batches = [padded([samples.windows[i] for i in batch]) for _, batch in share]
    bytes_of_states = sum(ids.numel() for ids, _ in batches) * width * dtype.itemsize
    if settings.tokens == "all" and bytes_of_states * (len(layers) + 1) > memory * _STATES_SHARE:
        most = int(len(samples.windows) * memory * _STATES_SHARE / (bytes_of_states * (len(layers) + 1)))
        raise UsageError(f"--tokens all keeps every layer's states: here only {most} samples fit; try --samples {most}")
    with torch.no_grad(), ExitStack() as stack:
        bar = stack.enter_context(progress("Scanning (layers)", len(layers), shown=show_progress))
        shell = _Shell()
        stack.enter_context(standing_in(layers, shell.answer))
        shapes = [(*ids.shape, width) for ids, _ in batches]
        store = stack.enter_context(_states(shapes, dtype, bytes_of_states > memory * _STATES_SHARE))
        taken = [
            BatchStates(mask.bool(), batch, layers=len(layers), tokens=settings.tokens)
            for (_, mask), (_, batch) in zip(batches, share, strict=True)
        ]
        _embed(model, files, dtype, device)
        for number, (ids, mask) in enumerate(batches):
            shell.begin(None, -1)
            decoder(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
            store[number].copy_(shell.seen)
            taken[number].take(0, store[number], None)
        model.get_input_embeddings().to("meta")
        reader = stack.enter_context(ThreadPoolExecutor(1))
        slots = _Slots(files, model, dtype, device)
        coming = reader.submit(slots.read, 0)
        for index, layer in enumerate(layers):
            timing.read += coming.result()
            slots.place(index, layer)
            if index + 1 < len(layers):
                coming = reader.submit(slots.read, index + 1)
            started = time.monotonic()
            for number, (_, mask) in enumerate(batches):
                before = store[number].to(device)
                shell.begin(before, index)
                blank = torch.zeros(1, dtype=dtype, device=device).expand(before.shape)
                decoder(inputs_embeds=blank, attention_mask=mask.to(device), use_cache=False)
                taken[number].take(index + 1, shell.seen, taken[number].real(before))
                store[number].copy_(shell.seen)
            timing.compute += time.monotonic() - started
            layer.to("meta")
            bar.advance(1)
        sums = ScanSums.empty(len(layers), dtype)
        for (number, batch), states in zip(share, taken, strict=True):
            sums.add(number, batch, states.result(), samples.labels)
    timing.wall = time.monotonic() - began
    return sums


class _Shell:
    """Stands for the layers: one of them runs, on a state of ours; the others hand on what they are given."""

    def __init__(self) -> None:
        self.index, self.state, self.seen = -1, torch.empty(0), torch.empty(0)

    def begin(self, state: torch.Tensor | None, index: int) -> None:
        """The next pass runs layer `index` on `state`; with -1, it runs none and shows the first one's input."""
        self.index = index
        self.state = state if state is not None else torch.empty(0)

    def answer(self, call: Call, state: torch.Tensor) -> torch.Tensor:
        if self.index == -1 and call.layer == 0:
            self.seen = state
        if call.layer == self.index:
            self.seen = state_of(call.run(self.state))
        return state


@contextmanager
def _states(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, spilled: bool) -> Iterator[list[torch.Tensor]]:
    """A tensor of each shape, in memory, or in the map of a temporary file that goes with the block."""
    if not spilled:
        yield [torch.empty(shape, dtype=dtype) for shape in shapes]
        return
    sizes = [torch.Size(shape).numel() for shape in shapes]
    with tempfile.TemporaryDirectory(prefix="regrowth-states-") as folder:
        whole = torch.from_file(str(Path(folder) / "states"), shared=True, size=sum(sizes), dtype=dtype)
        yield [part.view(shape) for part, shape in zip(whole.split(sizes), shapes, strict=True)]
        del whole


class _Files:
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


class _Slots:
    """Room for two layers, and what stands in which. `read` runs in a thread of its own."""

    def __init__(self, files: _Files, model: Any, dtype: torch.dtype, device: str) -> None:
        self.files, self.dtype, self.device = files, dtype, device
        prefixes = {id(module): name for name, module in model.named_modules()}
        layers = list(decoder_layers(model))
        self.names = [self._names_of(layer, prefixes[id(layer)]) for layer in layers]
        size = max(sum(self._room(stored) for stored in names.values()) for names in self.names)
        self.slots = [torch.empty(size, dtype=torch.uint8) for _ in range(min(2, len(layers)))]
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def _room(self, stored: str) -> int:
        return -(-self.files.places[stored][1].size // _ALIGN) * _ALIGN

    def _names_of(self, layer: Any, prefix: str) -> dict[str, str]:
        names = {}
        for name in layer.state_dict():
            stored = self.files.find(f"{prefix}.{name}")
            if stored is None:
                raise CheckpointError(
                    f"{prefix}.{name} is not stored under its own name, so this family is not run layer by layer; "
                    "scan it where its weights fit, or with --load-in-4bit"
                )
            names[name] = stored
        return names

    def read(self, index: int) -> float:
        """Bring a layer into its slot; returns the seconds that it took."""
        began = time.monotonic()
        slot, offset, weights = self.slots[index % len(self.slots)], 0, {}
        for name, stored in self.names[index].items():
            size = self.files.places[stored][1].size
            weights[name] = self.files.read(stored, slot[offset : offset + size])
            offset += self._room(stored)
        self.weights[index] = weights
        return time.monotonic() - began

    def place(self, index: int, layer: Any) -> None:
        """Give the layer its weights, in the type and on the device that it runs in."""
        weights = {name: tensor.to(self.device, self.dtype) for name, tensor in self.weights.pop(index).items()}
        layer.load_state_dict(weights, strict=True, assign=True)


def _without_weights(
    source: Source, files: _Files, settings: ScanSettings, trust_remote_code: bool
) -> tuple[Any, torch.dtype]:
    """The model on the meta device, but for buffers that are computed and not stored; and the type it runs in."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=trust_remote_code)
    asked = pick_dtype(settings.dtype, device=settings.device)
    stored = text_config(config).dtype or config.dtype or torch.float32
    dtype = asked if isinstance(asked, torch.dtype) else stored
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    model.eval()
    files.base = getattr(model, "base_model_prefix", "")
    return model, dtype


def _embed(model: Any, files: _Files, dtype: torch.dtype, device: str) -> None:
    """Load what stands outside the layers and is run before or after them: embeddings and norms, not the head."""
    decoder = decoder_of(model)
    inside = {id(p) for layer in decoder_layers(model) for p in layer.parameters()}
    names = {id(module): name for name, module in model.named_modules()}
    prefix = names.get(id(decoder), "")
    for name, parameter in list(decoder.named_parameters()):
        if id(parameter) in inside or parameter.device.type != "meta":
            continue
        stored = files.find(f"{prefix}.{name}" if prefix else name)
        if stored is None:
            raise RegrowthError(f"{name} is not among the stored tensors, so this family is not run layer by layer")
        owner = decoder.get_submodule(name.rpartition(".")[0])
        loaded = files.load(stored).to(device, dtype)
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(loaded, requires_grad=False))
    for module in decoder.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = buffer.to(device)
