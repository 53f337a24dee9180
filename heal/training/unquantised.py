"""Whether healing paid: the adapter on the unquantised cut against that cut alone, on held-out text.

While an adapter trains on a base in 4 bits, it is measured on that base, whose rounding alone costs loss. A user who
merges it wants to know whether the result is better than the cut was before it was quantised. Where that does not fit,
both are run layer by layer from the cut's files.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from heal.result import NATS, HeldOutLoss, Unquantised
from prune.common.errors import first_line
from prune.common.machine.memory import give_back
from prune.common.machine.processes import sharded
from prune.common.screen.terminal import screen

if TYPE_CHECKING:
    from heal.text.sources import HeldOut
    from heal.training.plan import HealPlan
    from prune.models.walks.layerwise import Layerwise


def compare_with_cut(plan: HealPlan, held_out: HeldOut, trained: HeldOutLoss) -> Unquantised:
    """Held-out losses of the unquantised cut, and of what can be merged from it.

    No failure is raised: the adapter in `plan.out` is finished.

    Args:
        held_out: the rows that the adapter was measured on.
        trained: its losses on the base in the training precision.
    """
    if plan.settings.bits == 16:
        return _unquantised(trained.before, trained.after)
    if sharded():
        return Unquantised(not_compared="the base stood in shards")
    try:
        losses = _losses(plan, held_out)
    except Exception as error:
        return Unquantised(not_compared=first_line(error))
    if losses is None:
        return Unquantised(not_compared="the unquantised cut does not fit in memory")
    if not all(map(math.isfinite, losses)):
        return Unquantised(not_compared="a loss is not finite")
    return _unquantised(*losses, trained.after)


def compared_line(losses: Unquantised) -> str:
    """The comparison in words, with a warning where healing was no better than the cut."""
    if losses.not_compared is not None:
        return f"not compared with the unquantised cut: {losses.not_compared}"
    healed = f"healed {losses.original:.4f}"
    if losses.dequantised is not None:
        healed += f" on the cut's own weights, {losses.dequantised:.4f} on the quantised ones"
    words = f"held-out loss: unquantised cut {losses.cut:.4f}, {healed} (nats per token)"
    if losses.better:
        return words
    return f"{words}\nwarning: the healed model is no better than the cut; use more --tokens, or other --text"


def _unquantised(cut: float, original: float, dequantised: float | None = None) -> Unquantised:
    best = original if dequantised is None else min(original, dequantised)
    return Unquantised(cut=cut, original=original, dequantised=dequantised, better=best < cut, unit=NATS)


def _losses(plan: HealPlan, held_out: HeldOut) -> tuple[float, float] | None:
    """Of the cut and of the adapter on it, in the dtype of the training.

    None where it does not fit in memory, and is not run layer by layer.
    """
    from peft import PeftModel

    from heal.models.from_files import layer_files
    from heal.models.held_out import mean_loss
    from heal.models.quantise import compute_dtype
    from prune.models.loading import load_model

    give_back()  # the model that was trained
    dtype, run = compute_dtype(plan.settings.dtype), plan.run
    if files := layer_files(plan.model, dtype, run.device, run.max_memory):
        return _losses_from_files(plan, held_out, files)
    rows, batch = held_out.rows, plan.schedule.batch_size
    base = load_model(plan.model, dtype=dtype, device=run.device).eval()
    cut = mean_loss(base, rows, batch_size=batch)
    PeftModel.from_pretrained(base, str(plan.out)).eval()  # puts the adapter into `base`
    return cut, mean_loss(base, rows, batch_size=batch)


def _losses_from_files(plan: HealPlan, held_out: HeldOut, files: Layerwise) -> tuple[float, float] | None:
    from heal.merging.tensors import as_trained
    from heal.models.from_files import PLAIN, losses_from_files

    adapted = as_trained(plan.out, 16, ())
    if not adapted.fits(files):
        return None
    if plan.run.show_progress:
        screen().print("The unquantised cut does not fit in memory: measuring it layer by layer from its files.")
    versions = {"cut": PLAIN, "adapted": adapted}
    losses = losses_from_files(files, held_out.rows, versions, batch_size=plan.schedule.batch_size)
    return losses["cut"], losses["adapted"]
