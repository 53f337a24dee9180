"""What a policy says of each loss and of each gain, as a table and in a line for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.billing.judging.losses import IN_POINTS
from eval.billing.judging.policy import SMALLER_IS_BETTER
from eval.billing.judging.verdict import GO, NO_GO, rounded_up
from eval.reports.model import Section
from eval.reports.wording.tables import field
from eval.reports.wording.text import NONE, bounds
from prune.common.screen.numbers import plain
from prune.common.screen.tables import Cell, Table
from prune.common.thinking import MODES

Record = Mapping[str, Any]

_LOOKS = {GO: "better", NO_GO: "worse"}
_WORDS = {
    "accuracy": "accuracy, points",
    "answer_bits_per_byte": "answers, bits per byte",
    "a_fast": "A_fast, points",
    "a_slow": "A_slow, points",
    "needle_recall": "recall, points",
    "prose_bits_per_byte": "bits per byte",
    "kv_bytes": "KV bytes a token",
    "prefill": "prefill speed",
    "decode": "decode speed",
}


def verdict_lines(verdict: Record) -> list[str]:
    """The verdict on each model, where there are several."""
    models = verdict["models"]
    return [f"{one['model']}: {one['sentence']}." for one in models] if len(models) > 1 else []


def limits_table(verdict: Record) -> Table:
    """Each loss that a policy limits, and each gain that it asks for."""
    rows = [*map(_loss, verdict["losses"]), *map(_gain, verdict["gains"])]
    return Table.from_records("Limits, and what was measured", rows, _TABLE, shared=0, key="limits")


def limits_section(comparison: Record) -> Section | None:
    """The verdict limit by limit; None without one."""
    verdict = comparison["verdict"]
    if verdict is None or not (verdict["losses"] or verdict["gains"]):
        return None
    lead = (
        "Each limit, and the loss with its 95 % interval that was measured against it. A loss under `must` has to be "
        "within its limit for certain, one under `should` must not be beyond it for certain; `told` never decides."
    )
    table = limits_table(verdict)
    return Section("limits", "Limits", lead, tuple(verdict_lines(verdict)), tables=(table,), short="Limits")


def _loss(loss: Record) -> Record:
    scale, digits = (100, 1) if loss["measure"] in IN_POINTS else (1, 3)
    found = loss["loss"]
    task = " ".join(part for part in (loss["domain"], loss["protocol"]) if part)
    mode = loss["measure"].removeprefix("a_")
    return {
        "what": f"{task} ({mode} thinking)" if mode in MODES else task,
        "measure": _WORDS[loss["measure"]],
        "model": loss["model"],
        "tier": loss["tier"],
        "limit": Cell(f"{scale * loss['limit']:g}", sort=loss["limit"]),
        "measured": Cell(
            plain(scale * found["estimate"], digits),
            bounds(found, scale, digits, sign=False) + (" noise" if loss["noise"] else ""),
            found["estimate"],
        ),
        "decision": loss["decision"],
        "more": loss["more_questions"],
    }


def _gain(gain: Record) -> Record:
    ratio, side = gain["ratio"], "at most" if gain["name"] in SMALLER_IS_BETTER else "at least"
    measured = Cell(NONE)
    if ratio is not None:
        scatter = bounds(ratio, 1, 2, sign=False) if ratio["low"] < ratio["high"] else ""
        measured = Cell(f"{plain(ratio['estimate'], 2)}x", scatter, ratio["estimate"])
    return {
        "what": "gain",
        "measure": _WORDS.get(gain["name"], gain["name"].replace("_", " ")),
        "model": gain["model"],
        "tier": "must",
        "limit": Cell(f"{side} {gain['limit']:g}x", sort=gain["limit"]),
        "measured": measured,
        "decision": gain["decision"],
        "more": None,
    }


def _decision(row: Record) -> Cell:
    if row["decision"] is None:
        return Cell("not judged")
    return Cell(row["decision"], look=_LOOKS.get(row["decision"], "") if row["tier"] != "told" else "")


_TABLE = (
    field("What", "", lambda row: Cell(row["what"]), words=True),
    field("Measure", "what a limit is of, and its unit", lambda row: Cell(row["measure"]), words=True),
    field("Model", "", lambda row: Cell(row["model"]), words=True),
    field("Tier", "must hold, should hold, or told", lambda row: Cell(row["tier"]), words=True),
    field("Limit", "the most that may be lost, or the gain that is asked for", lambda row: row["limit"]),
    field(
        "Measured",
        "loss with its 95 % interval, or gain as a multiple of the full model's",
        lambda row: row["measured"],
    ),
    field("Decision", "not judged where the full model is not above chance, or by less than the limit", _decision),
    field(
        "More",
        "about how many questions more would decide, in four of five such comparisons",
        lambda row: Cell(NONE) if not row["more"] else Cell(f"{rounded_up(row['more'])}", sort=row["more"]),
    ),
)


def shown_limits(document: Record) -> Sequence[Table]:
    """The table for comparison.md; none without a verdict."""
    verdict = document["verdict"]
    return [limits_table(verdict)] if verdict and (verdict["losses"] or verdict["gains"]) else []
