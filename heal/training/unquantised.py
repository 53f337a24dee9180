"""Whether healing paid: the adapter on the unquantised cut against that cut alone, on held-out text.

While an adapter trains on a base in 4 bits, it is measured on that base, whose rounding alone costs loss. A user who
merges it wants to know whether the result is better than the cut was before it was quantised.
"""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING, Any

from prune.common.errors import first_line
from prune.common.processes import sharded

if TYPE_CHECKING:
    from heal.text.sources import HeldOut
    from heal.training.plan import HealPlan

_ROOM = 1.3  # times the weights, for loading and for states


def compare_with_cut(plan: HealPlan, held_out: HeldOut, document: dict[str, Any]) -> dict[str, Any]:
    """Held-out losses for heal.json, in nats per token: of the unquantised cut, and of what can be merged from it.

    No failure is raised: the adapter in `plan.out` is finished.

    Args:
        held_out: the rows that the adapter was measured on.
        document: its heal.json.

    Returns:
        `cut`; `original` and `dequantised`: the adapter on the cut's own weights and on the quantised ones (the latter
        as measured at the end of training; absent for 16 bits); `better`: whether one of them is below `cut`. Or
        `not_compared` and why.
    """
    after = document["held_out_loss"]["after"]
    if plan.settings.bits == 16:
        return _facts(document["held_out_loss"]["before"], original=after)
    if sharded():
        return {"not_compared": "the base stood in shards"}
    try:
        losses = _losses(plan, held_out)
    except Exception as error:
        return {"not_compared": first_line(error)}
    if losses is None:
        return {"not_compared": "the unquantised cut does not fit in memory"}
    if not all(map(math.isfinite, losses)):
        return {"not_compared": "a loss is not finite"}
    return _facts(losses[0], original=losses[1], dequantised=after)


def compared_line(facts: dict[str, Any]) -> str:
    """The comparison in words, with a warning where healing was no better than the cut."""
    if "not_compared" in facts:
        return f"not compared with the unquantised cut: {facts['not_compared']}"
    losses = f"healed {facts['original']:.4f}"
    if "dequantised" in facts:
        losses += f" on the cut's own weights, {facts['dequantised']:.4f} on the quantised ones"
    words = f"held-out loss: unquantised cut {facts['cut']:.4f}, {losses} (nats per token)"
    if facts["better"]:
        return words
    return f"{words}\nwarning: the healed model is no better than the cut; use more --tokens, or other --text"


def _facts(cut: float, **healed: float) -> dict[str, Any]:
    return {"cut": cut, **healed, "better": min(healed.values()) < cut, "unit": "nats per token"}


def _losses(plan: HealPlan, held_out: HeldOut) -> tuple[float, float] | None:
    """Of the cut and of the adapter on it, in the dtype of the training; None where it does not fit in memory."""
    from peft import PeftModel

    from heal.models.held_out import mean_loss
    from heal.models.quantise import compute_dtype
    from prune.checkpoint.headers import read_checkpoint
    from prune.common.memory import available
    from prune.models.loading import load_model

    dtype = compute_dtype(plan.settings.dtype)
    gc.collect()  # the model that was trained
    _empty_cache(plan.device)
    values = sum(math.prod(tensor.shape) for tensor in read_checkpoint(plan.model.folder).tensors())
    if values * dtype.itemsize * _ROOM > available(plan.device):
        return None
    rows, batch = held_out.rows, plan.settings.batch_size
    base = load_model(plan.model, dtype=dtype, device=plan.device).eval()
    cut = mean_loss(base, rows, batch_size=batch)
    PeftModel.from_pretrained(base, str(plan.out)).eval()  # puts the adapter into `base`
    return cut, mean_loss(base, rows, batch_size=batch)


def _empty_cache(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
