"""heal.json of a run that trains: what it was asked, what it read, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from heal.result import FORMAT
from heal.text.sources import HELD_OUT_SHARE, HeldOut
from prune.common.memory import peak_memory
from prune.common.processes import gather
from prune.common.provenance import provenance

if TYPE_CHECKING:
    from heal.training.loop import Trained
    from heal.training.plan import HealPlan, Student


def heal_document(
    plan: HealPlan, student: Student, held_out: HeldOut, trained: Trained, ended: Sequence[str], facts: dict[str, Any]
) -> dict[str, Any]:
    """The document. Every process must call this: the peaks of all are in it.

    Args:
        ended: the texts that ended before the budget was spent.
        facts: `base` and `text`, the identities of the model and of all text.
    """
    settings = plan.settings
    return {
        "format": FORMAT,
        "method": plan.method if plan.method != "qlora" or settings.bits < 16 else "lora",
        **_outcome(trained, plan, list(ended)),
        "settings": {**asdict(settings), "alpha": settings.lora_alpha, **plan.schedule.to_json()},
        "from_budget": list(plan.from_budget),
        "adapted": list(student.targets.modules),
        "quantised": student.quantised,
        **student.facts,
        "base": facts["base"],
        "held_out": {
            "tokens": sum(row.targets for row in held_out.rows),
            "limit": plan.text.limit,
            "sha256": held_out.sha256,
            "share": None if plan.text.held_out else 1 / HELD_OUT_SHARE,
            "texts": [
                {"name": one.name, "source": one.source, "domain": one.domain, "tokens": one.targets}
                for one in held_out.texts
            ],
        },
        "provenance": provenance(device=plan.device, **facts["text"]),
    }


def _outcome(trained: Trained, plan: HealPlan, ended: list[str]) -> dict[str, Any]:
    peaks, curve, schedule = gather(peak_memory(plan.device)), trained.curve, plan.schedule
    tokens = trained.steps * schedule.tokens_per_step
    kept = next(point for point in curve.points if point.step == trained.kept_step)
    return {
        "tokens": tokens,
        "curve": [asdict(point) for point in curve.points],
        "held_out_loss": {
            "before": curve.points[0].held_out_loss,
            "after": kept.held_out_loss,
            "unit": "nats per token",
        },
        "ended": {
            "by": trained.ended,
            "step": trained.steps,
            "kept_step": trained.kept_step,
            "texts": ended,
        },
        "resumed": curve.resumed,
        "tokens_per_second": curve.steps_per_second(trained.steps) * schedule.tokens_per_step,
        "training_seconds": curve.seconds,
        "peak_memory": {name: max(one[name] for one in peaks) for name in peaks[0]},
    }
