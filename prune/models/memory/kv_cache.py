"""What each layer keeps of the tokens before: keys and values, windows of them, states of linear attention.

The bytes are transformers' own: `layer_caches` runs a model without values (`prune.models.memory.skeleton`) on a few
tokens, and looks at the cache that it fills. So latent attention, layers that share their keys and values, and kinds of
cache that are new count as the installed transformers has them. `LayerCache` is pure arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune.common.errors import CheckpointError
from prune.models.loading import answered_cache, decoder_layers

if TYPE_CHECKING:
    import torch

_LENGTHS = (16, 24, 37)  # tokens of the passes that tell what grows
_BOUNDED = (".keys", ".values")  # of these a layer with a window keeps its last tokens alone
_LAYER = re.compile(r"\.?(?:layers|linear_cache|rnn_state)(?:\[|\.)(\d+)")


@dataclass(frozen=True)
class LayerCache:
    """What one layer keeps of one sequence.

    Attributes:
        kind: in words: full attention, window of 4096, state, ...
        token: bytes a token, of all tokens.
        window: so many of the last tokens `windowed` counts; 0 for none.
        windowed: bytes a token within the window.
        state: bytes whatever the length.
    """

    kind: str
    token: int = 0
    window: int = 0
    windowed: int = 0
    state: int = 0

    def bytes(self, tokens: int, sequences: int = 1) -> int:
        """Bytes of so many sequences of so many tokens each."""
        return sequences * (self.token * tokens + self.windowed * min(tokens, self.window) + self.state)


def cache_bytes(layers: Iterable[LayerCache], tokens: int, sequences: int = 1) -> int:
    """Bytes that layers keep of so many sequences of so many tokens each."""
    return sum(layer.bytes(tokens, sequences) for layer in layers)


def full_attention(pairs: int, width: int, itemsize: int = 2) -> LayerCache:
    """A layer that keeps every key and value.

    Args:
        pairs: heads of keys and values. width: values of a head. itemsize: bytes of a value.
    """
    return LayerCache("full attention", token=2 * pairs * width * itemsize)


def layer_caches(model: Any, name: str, *, tokens: int | None = None) -> tuple[LayerCache, ...]:
    """What each decoder layer of a model keeps, as transformers' own cache has it, in the model's dtype.

    Args:
        model: without values, from `prune.models.memory.skeleton.skeleton`.
        name: for messages.
        tokens: the length that is asked for. A cache that grows in steps (DeepSeek V4's, which sums up tokens) is told
            for that length alone; without it such a model is refused.

    Raises:
        CheckpointError: the model keeps its states in no cache that can be told apart by layers.
    """
    count = len(decoder_layers(model))
    passes = [_kept(model, name, length, count) for length in _LENGTHS]
    layers = [_layer(*(kept[number] for kept in passes)) for number in range(count)]
    if None in layers:
        if tokens is None:
            raise CheckpointError(
                f"{name}: what layer {layers.index(None)} keeps grows neither evenly nor up to a window, so it cannot "
                "be told for any length"
            )
        there = _kept(model, name, tokens, count)
        stepwise = [LayerCache("grows in steps", state=sum(kept.sizes.values())) for kept in there]
        return tuple(layer or other for layer, other in zip(layers, stepwise, strict=True))
    return tuple(layer for layer in layers if layer is not None)


@dataclass(frozen=True)
class _Kept:
    """Of one layer: the tensors that it keeps, path in the cache -> bytes; and its window, None for none."""

    sizes: Mapping[str, int]
    window: int | None


def _kept(model: Any, name: str, tokens: int, count: int) -> list[_Kept]:
    """What each of `count` layers keeps of so many tokens."""
    import torch

    from prune.models.memory.skeleton import without_values

    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    with without_values(name, "what it keeps of each token"):
        answer = model(input_ids=ids, use_cache=True)
    cache = cache_of(answer)
    if cache is None or not any(True for _ in tensors_in(cache)):
        raise CheckpointError(
            f"{name}: {type(model).__name__} answers with no cache of keys and values, so what it keeps of each token "
            "cannot be told"
        )
    layers = getattr(cache, "layers", [])
    a_layer = max(1, len(layers) // count)  # parts of a layer that attend, each with a cache
    sizes: list[dict[str, int]] = [{} for _ in range(count)]
    for path, tensor in tensors_in(cache):
        match = _LAYER.match(path)
        number = int(match[1]) // a_layer if match else count
        if tensor.dim() == 0 or (not match and tensor.numel() == 1):
            continue  # a count of tokens
        if number >= count:
            raise CheckpointError(f"{name}: its cache does not tell which layer keeps what ({path})")
        sizes[number][path] = tensor.nbytes
    windows = [getattr(layer, "sliding_window", None) for layer in layers[::a_layer]]
    windows += [None] * (count - len(windows))
    return [_Kept(size, window) for size, window in zip(sizes, windows, strict=True)]


def cache_of(answer: Any) -> Any:
    """The cache of the decoder's own layers in what a model answers; None where there is none."""
    cache = answered_cache(answer)
    return getattr(cache, "self_attention_cache", cache)


def _layer(first: _Kept, second: _Kept, third: _Kept) -> LayerCache | None:
    """What three lengths tell of a layer; None where it grows otherwise than evenly, and up to a window."""
    few, more, most = _LENGTHS
    token = windowed = state = 0
    bound = 0 if third.window is None else third.window - 1  # beside the token that comes
    for path, size in third.sizes.items():
        before, between = first.sizes.get(path, 0), second.sizes.get(path, 0)
        if third.window is not None and path.endswith(_BOUNDED):
            each = size // max(1, min(most, bound))
            if (before, between, size) != tuple(each * min(length, bound) for length in _LENGTHS):
                return None
            windowed += each
        else:
            each = (between - before) // (more - few)
            if (between - before, size - between) != (each * (more - few), each * (most - more)):
                return None
            token += each
            state += before - each * few
    return LayerCache(_words(token, windowed, state, third.window), token, bound, windowed, state)


def _words(token: int, windowed: int, state: int, window: int | None) -> str:
    parts = ["full attention"] * bool(token) + [f"window of {window}"] * bool(windowed) + ["state"] * bool(state)
    return " and ".join(parts) or "none of its own"


def tensors_in(cache: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that a cache holds, once, with its path in it."""
    import torch

    seen: set[int] = set()

    def walk(held: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
        if id(held) in seen or isinstance(held, type):
            return
        if isinstance(held, torch.Tensor):
            seen.add(id(held))
            yield path, held
        elif isinstance(held, Mapping):
            seen.add(id(held))
            for key, part in held.items():
                yield from walk(part, f"{path}.{key}")
        elif isinstance(held, list | tuple):
            seen.add(id(held))
            for place, part in enumerate(held):
                yield from walk(part, f"{path}[{place}]")
        elif type(held).__module__.startswith("transformers") and hasattr(held, "__dict__"):
            seen.add(id(held))
            for key, part in vars(held).items():
                if key != "config":
                    yield from walk(part, f"{path}.{key}")

    yield from walk(cache, "")
