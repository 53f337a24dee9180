"""How many texts are written at a time: as many as a GPU has memory for, each with its keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune.common.machine.memory import available
from prune.models.loading import text_config
from prune.models.memory.kv_cache import LayerCache, cache_bytes, full_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST = 256  # rows; beyond, a step takes longer in proportion, and all wait for the longest answer
_SHARE = 0.8  # of free memory: the rest is lost to fragments, and to caches that are copied as they grow
_DRAWN = 32  # bytes for each word of the vocabulary and row: logits in fp32, sorted, with places, summed and masked


def usual_cache(config: Any, itemsize: int) -> list[LayerCache]:
    """What all layers keep, were each of them to attend to every token.

    Args:
        config: of the text decoder.
        itemsize: bytes of a value.
    """
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    pairs = getattr(config, "num_key_value_heads", None) or heads
    return [full_attention(pairs, width, itemsize)] * int(config.num_hidden_layers)


def row_bytes(config: Any, itemsize: int, tokens: int, *, logits: int = 1) -> int:
    """Bytes of one row that is read and written: its cache, one layer at work on all its tokens, and its logits.

    Args:
        tokens: of the prompt and its answer.
        logits: positions whose logits stand at once.
    """
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    at_work = (4 * config.hidden_size + 3 * inner) * itemsize
    kept = cache_bytes(usual_cache(config, itemsize), tokens)
    return int(kept + tokens * at_work + logits * _DRAWN * config.vocab_size)


def rows_at_once(model: PreTrainedModel, tokens: int, *, usual: int, logits: int = 1, most: int = MOST) -> int:
    """Rows of so many tokens that are written at a time: a power of two on a GPU, `usual` on all else.

    Args:
        tokens, logits: see `row_bytes`.
        usual: what is as fast as more on a CPU; its results were made with that.
    """
    if model.device.type != "cuda":
        return usual
    import torch

    unused = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = available(str(model.device)) + unused
    return fitting_rows(free, row_bytes(text_config(model.config), model.dtype.itemsize, tokens, logits=logits), most)


def fitting_rows(free: int, row: int, most: int = MOST) -> int:
    """The largest power of two of rows that fit into free memory, from 1 to `most`."""
    fit = max(1, min(most, int(_SHARE * free) // max(1, row)))
    return 1 << (fit.bit_length() - 1)
