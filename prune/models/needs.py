"""What a model takes that is loaded and asked, layer by layer: weights, keys and values, work. No weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune.common.errors import CheckpointError, UsageError
from prune.models.kv_cache import LayerCache, cache_bytes, layer_caches
from prune.models.loading import text_config
from prune.models.weights import Weights, loaded_weights, packed_weights, stored_dtype
from prune.models.work import Work, prompt_work

if TYPE_CHECKING:
    from prune.checkpoint.headers import Checkpoint
    from prune.checkpoint.source import Source

BITS = (16, 8, 4)  # 16: as stored


@dataclass(frozen=True)
class Asked:
    """How a model is to be run: tokens of each sequence, sequences at once, bits, tokens of a prompt read at a time.

    `chunk` is None where a prompt is read in one pass, as `generate` does.
    """

    context: int
    sequences: int = 1
    bits: int = 16
    chunk: int | None = None


@dataclass(frozen=True)
class Taken:
    """Bytes of weights, of keys and values (and other states), and of work."""

    weights: int
    cache: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work


@dataclass(frozen=True)
class Needs:
    """What each layer of a model takes, and what stands outside them; `work` has what 8 or 4 bits add (`unpacking`)."""

    asked: Asked
    weights: Weights
    caches: tuple[LayerCache, ...]
    work: Work
    unpacking: int = 0

    @property
    def layers(self) -> int:
        """L."""
        return len(self.caches)

    def of(self, kept: Sequence[int]) -> Taken:
        """Bytes of the model that has these of its layers (0-based)."""
        return Taken(
            weights=self.weights.outside + sum(self.weights.layers[layer] for layer in kept),
            cache=cache_bytes((self.caches[layer] for layer in kept), self.asked.context, self.asked.sequences),
            work=self.work.peak(kept) + self.unpacking,
        )


def read_needs(
    source: Source,
    checkpoint: Checkpoint,
    asked: Asked,
    *,
    layer_of: Callable[[str], int | None],
    layers: int,
    trust_remote_code: bool = False,
) -> Needs:
    """What a model takes, from its config and the headers of its weights.

    Args:
        layer_of: from a tensor's name to its layer, None outside the layers.
        layers: L.

    Raises:
        UsageError: more tokens than the model can read, or 8 or 4 bits of weights that are stored quantised.
        CheckpointError: the model cannot be told, see `layer_caches` and `prompt_work`.
    """
    import torch

    from prune.models.skeleton import read_config, skeleton

    config = read_config(source.folder, source.name, trust_remote_code=trust_remote_code)
    check_context(config, asked.context, source.name)
    packed = getattr(config, "quantization_config", None) is not None
    if packed and asked.bits < 16:
        raise UsageError(f"{source.name} is stored quantised already: --bits {asked.bits} has no say; leave it out")
    dtype = stored_dtype(checkpoint, config)
    if asked.bits < 16 and dtype == torch.float32:
        dtype = torch.bfloat16  # what bitsandbytes does not take is in 16 bits
    model = skeleton(config, dtype, source.name, trust_remote_code=trust_remote_code)
    caches = layer_caches(model, source.name, tokens=asked.context)
    if len(caches) != layers:
        raise CheckpointError(f"{source.name}: its class has {len(caches)} layers, but the weights hold {layers}")
    work = prompt_work(model, source.name, caches, tokens=asked.context, sequences=asked.sequences, chunk=asked.chunk)
    weights = packed_weights(checkpoint, layer_of, layers) if packed else loaded_weights(model, asked.bits)
    read_at_once = min(asked.chunk or asked.context, asked.context) * asked.sequences
    return Needs(asked, weights, caches, work, _unpacking(weights, asked.bits, read_at_once))


def _unpacking(weights: Weights, bits: int, tokens: int) -> int:
    """Bytes of one product's factors: a matrix of 4 bits is unpacked to 16; for 8 bits the states are rounded, and the
    result stands in 32 bits before it is scaled.
    """
    if bits == 4:
        return 2 * weights.largest
    return tokens * (weights.largest_inputs + 4 * weights.largest_outputs) if bits == 8 else 0


def longest_context(config: Any) -> int | None:
    """How many tokens a model was made to read; None where its config sets no bound."""
    text = text_config(config)
    named = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    bound = next((value for value in named if type(value) is int and value > 0), None)
    rope = getattr(text, "rope_parameters", None)
    stretched = []
    for part in (rope, *(rope.values() if isinstance(rope, dict) else ())):
        if isinstance(part, dict) and part.get("factor") and part.get("original_max_position_embeddings"):
            stretched.append(int(part["factor"] * part["original_max_position_embeddings"]))
    return None if bound is None else max([bound, *stretched])


def check_context(config: Any, tokens: int, name: str) -> None:
    """
    Raises:
        UsageError: the model cannot read so many tokens.
    """
    bound = longest_context(config)
    if bound is not None and tokens > bound:
        raise UsageError(f"--context {tokens} is beyond the {bound} tokens that {name} can read")
