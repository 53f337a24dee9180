"""What a model takes, reckoned from its config and the headers of its weights: `prune.models.memory.needs` of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prune.common.errors import CheckpointError, UsageError
from prune.models.loading import longest_context, read_config, stored_dtype
from prune.models.memory.kv_cache import layer_caches
from prune.models.memory.needs import Load, Needs
from prune.models.memory.weights import Weights, loaded_weights, packed_weights

if TYPE_CHECKING:
    from prune.checkpoint.headers import Checkpoint
    from prune.checkpoint.source import Source


def read_needs(
    source: Source,
    checkpoint: Checkpoint,
    asked: Load,
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

    from prune.models.memory.skeleton import skeleton
    from prune.models.memory.work import prompt_work

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
    return Needs(asked, weights, caches, work, _unpacking(weights, asked.bits, read_at_once), packed)


def _unpacking(weights: Weights, bits: int, tokens: int) -> int:
    """Bytes of one product's factors: a matrix of 4 bits is unpacked to 16; for 8 bits the states are rounded, and the
    result stands in 32 bits before it is scaled.
    """
    if bits == 4:
        return 2 * weights.largest
    return tokens * (weights.largest_inputs + 4 * weights.largest_outputs) if bits == 8 else 0


def check_context(config: Any, tokens: int, name: str) -> None:
    """Refuse a context beyond what the model of this config was made for.

    Raises:
        UsageError: the model cannot read so many tokens.
    """
    bound = longest_context(config)
    if bound is not None and tokens > bound:
        raise UsageError(f"--context {tokens} is beyond the {bound} tokens that {name} can read")
