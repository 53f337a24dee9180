"""heal.json of a run that trains: what it was asked, what it read, what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from heal.result import RECORD_FILE, HealRecord
from heal.text.sources import HELD_OUT_SHARE, HeldOut
from prune.common.files.formats import HEAL
from prune.common.machine.processes import gather
from prune.models.spread import peak_over

if TYPE_CHECKING:
    from heal.text.ahead import Rows
    from heal.training.loop import Trained
    from heal.training.plan import HealPlan, Student


def heal_record(
    plan: HealPlan, student: Student, held_out: HeldOut, trained: Trained, rows: Rows, facts: dict[str, Any]
) -> HealRecord:
    """The record. Every process must call this: the peaks, chats and texts of all are in it.

    Args:
        rows: what was trained on, in this process.
        facts: `base`, `provenance`, and what the method adds.
    """
    settings, schedule, curve = plan.settings, plan.schedule, trained.curve
    told = gather((peak_over(plan.run.device), rows.counts, rows.ended))
    peaks, ended = [peak for peak, _, _ in told], dict.fromkeys(name for _, _, names in told for name in names)
    chats: Counter[str] = Counter()
    for _, counts, _ in told:
        chats.update(counts)
    kept = next(point for point in curve.points if point.step == trained.kept_step)
    document = {
        "format": HEAL,
        "method": plan.method if plan.method != "qlora" or settings.bits < 16 else "lora",
        "tokens": trained.steps * schedule.tokens_per_step,
        "loss_tokens": curve.loss_tokens,
        "loss_on": plan.text.loss_on if rows.chats or plan.text.loss_on != "answers" else None,
        "mix": plan.text.mix,
        "chats": dict(chats) or None,
        "settings": {**asdict(settings), "alpha": settings.lora_alpha, **schedule.to_json()},
        "from_budget": plan.from_budget,
        "free_memory": plan.free_memory,
        "curve": [point.model_dump() for point in curve.points],
        "held_out_loss": {"before": curve.points[0].held_out_loss, "after": kept.held_out_loss},
        "held_out": {
            "tokens": sum(row.targets for row in held_out.rows),
            "limit": plan.text.limit,
            "sha256": held_out.sha256,
            "share": None if plan.text.held_out else 1 / HELD_OUT_SHARE,
            "texts": [
                {"name": text.name, "source": text.source, "domain": text.domain, "tokens": text.targets}
                for text in held_out.texts
            ],
        },
        "ended": {"by": trained.ended, "step": trained.steps, "kept_step": trained.kept_step, "texts": list(ended)},
        "resumed": curve.resumed,
        "tokens_per_second": curve.steps_per_second(trained.steps) * schedule.tokens_per_step,
        "training_seconds": curve.seconds,
        "peak_memory": {name: max(peak[name] for peak in peaks) for name in peaks[0]},
        "adapted": student.targets.modules,
        "quantised": student.quantised,
        **facts,
    }
    return HealRecord.parse(document, RECORD_FILE)
