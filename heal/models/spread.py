"""One model over several GPUs: its decoder layers are dealt out in their order, all else is on the first.

For a model in training that one card does not hold, such as a 70B to distil on cards of 24 to 48 GB. The cards work one
after the other, at the speed of one. The other way would be one tree of modules for teacher and student, with adapters
that are switched off for the teacher, so that FSDP can shard it: all cards work at once. It was not taken, as teacher
and student are two trees over one copy of the weights (`heal.models.student`): that is what lets the student have
patched tensors of its own, start behind the cut and keep its dropout while the teacher runs. Layers in several places
change none of it: a layer and its twin in the other tree share their weights, so they share their place.

What enters a layer is brought to its place by a hook of torch's own kind, which a twin inherits with its layer.
accelerate's hooks are taken off: they hold on to the module that they were made for, and not to its twin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError, UsageError
from prune.common.processes import rank_and_world
from prune.models.loading import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FOR_THE_LOSS = 2 << 30  # bytes that pieces of the logits and what libraries take for themselves may need
# What masks and rotary tables became elsewhere: every layer of a place is given the same ones.
_BROUGHT: Any = WeakIdKeyDictionary()


def check_spread(device_map: str | None, device: str) -> None:
    """
    Raises:
        UsageError: a map that is unknown, or that does not go with the device or a launcher.
    """
    if device_map is None:
        return
    if device_map != "auto":
        raise UsageError(f"--device-map {device_map} is unknown; auto spreads the layers over all GPUs")
    if rank_and_world()[1] > 1:
        raise UsageError("--device-map spreads the model of one process; leave it out, or start without a launcher")
    if device not in ("auto", "cuda"):
        raise UsageError(f"--device-map auto takes all GPUs, and --device {device} names one device; leave one out")
    if len(gpus()) < 2:
        raise UsageError(f"--device-map auto spreads a model over GPUs, and there are {len(gpus())}; leave it out")


def gpus() -> list[tuple[str, int]]:
    """Every GPU and its free bytes."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [(f"cuda:{number}", int(torch.cuda.mem_get_info(number)[0])) for number in range(count)]


def place_layers(source: Source, *, bits: int, dtype: torch.dtype) -> dict[str, str]:
    """Where each part of a model goes: module -> GPU, as `from_pretrained(device_map=)` takes it.

    Raises:
        RegrowthError: the GPUs together have no room for its weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source.folder))
    layers, places = decoder_layers(skeleton), gpus()
    value = dtype.itemsize if bits == 16 else bits / 8 * 1.04  # with scales
    size = max(int(value * sum(weight.numel() for weight in layer.parameters())) for layer in layers)
    others = sum(weight.numel() for weight in skeleton.parameters()) - sum(w.numel() for w in layers.parameters())
    rooms = [free for _, free in places]
    rooms[0] -= others * dtype.itemsize + _FOR_THE_LOSS
    shares = share_layers(len(layers), size, rooms)
    if shares is None:
        weights = len(layers) * size + others * dtype.itemsize
        raise RegrowthError(
            f"the {weights / 2**30:.1f} GiB of {source.name} do not fit on {len(places)} GPUs with "
            f"{sum(free for _, free in places) / 2**30:.1f} GiB free; use fewer --bits or more GPUs"
        )
    homes = [device for (device, _), share in zip(places, shares, strict=True) for _ in range(share)]
    numbers = {layer: number for number, layer in enumerate(layers)}
    return {name: homes[numbers[part]] if part in numbers else places[0][0] for name, part in _parts(skeleton, layers)}


def share_layers(count: int, size: int, rooms: Sequence[int]) -> list[int] | None:
    """How many layers go to each place, by the room there: what stays free takes activations, which go by layers too.

    Args:
        size: bytes of a layer's weights.
        rooms: bytes in each place; may be negative.

    Returns:
        None where there is no room for all.
    """
    most = [max(0, room) // size for room in rooms]
    if sum(most) < count:
        return None
    total = sum(max(0, room) for room in rooms)
    shares = [min(bound, count * max(0, room) // total) for bound, room in zip(most, rooms, strict=True)]
    while (left := count - sum(shares)) > 0:
        free = [room - share * size for room, share in zip(rooms, shares, strict=True)]
        place = max((index for index, bound in enumerate(most) if shares[index] < bound), key=lambda index: free[index])
        shares[place] += min(1, left)
    return shares


def carry_states(model: PreTrainedModel) -> None:
    """Let every part of a model bring what enters it to where its weights are."""
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)
    for module in model.modules():
        forward = vars(module).get("forward")
        if getattr(forward, "__func__", None) is type(module).forward:
            del module.forward  # what accelerate puts back, bound to this module: a twin would run it, not its own
    first = model.get_input_embeddings()
    for _, part in _parts(model, decoder_layers(model)):
        weighted = next(part.parameters(), None) is not None  # a norm may have no weights
        part.register_forward_pre_hook(_bring_inputs if weighted else _bringing_to(first), with_kwargs=True)


def _parts(root: torch.nn.Module, layers: torch.nn.ModuleList, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The decoder layers, and the largest modules and single parameters beside them, by their names."""
    for name, _ in (*root.named_parameters(recurse=False), *root.named_buffers(recurse=False)):
        yield prefix + name, torch.nn.Module()
    for name, child in root.named_children():
        if child is not layers and any(module is layers for module in child.modules()):
            yield from _parts(child, layers, f"{prefix}{name}.")
        elif child is layers:
            yield from ((f"{prefix}{name}.{number}", layer) for number, layer in enumerate(layers))
        else:
            yield prefix + name, child


def _bring_inputs(module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    place = _place(module)
    return _bring(args, place), _bring(kwargs, place)


def _bringing_to(first: torch.nn.Module) -> Any:
    return lambda _module, args, kwargs: _bring_inputs(first, args, kwargs)


def _place(module: torch.nn.Module) -> Any:
    return next(module.parameters()).device


def _bring(value: Any, place: Any) -> Any:
    """A tensor, or a tuple, list or dictionary of such, at the place; anything else, such as a cache, as it is."""
    if isinstance(value, torch.Tensor):
        return _carry(value, place)
    if type(value) in (tuple, list):
        return type(value)(_bring(part, place) for part in value)
    if type(value) is dict:
        return {name: _bring(part, place) for name, part in value.items()}
    return value


def _carry(tensor: torch.Tensor, place: Any) -> torch.Tensor:
    if tensor.device == place:
        return tensor
    if tensor.requires_grad:
        return tensor.to(place)
    known = _BROUGHT.setdefault(tensor, {})
    if place not in known:
        known[place] = tensor.to(place)
    brought: torch.Tensor = known[place]
    return brought
