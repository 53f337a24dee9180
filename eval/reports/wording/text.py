"""Numbers and findings in plain words, for the report. Pure text work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prune.common.screen.numbers import bracketed, signed
from prune.common.sizes import counted

NONE = "–"


def bounds(interval: Mapping[str, float], scale: float, digits: int, *, sign: bool = True) -> str:
    """`[low, high]` of an interval."""
    return bracketed(scale * interval["low"], scale * interval["high"], digits, "+" if sign else "")


def points(interval: Mapping[str, float]) -> str:
    """A change of accuracy: `−12.0 points [−15, −9]`."""
    return f"{signed(100 * interval['estimate'], 1)} points {bounds(interval, 100, 1)}"


def bits(interval: Mapping[str, float], unit: str = "bits") -> str:
    """A change of NLL: `+5.27 bits [+4.70, +5.84]`."""
    digits = 2 if unit == "bits" else 3
    return f"{signed(interval['estimate'], digits)} {unit} {bounds(interval, 1, digits)}"


def nll_change(versus: Mapping[str, Any]) -> Mapping[str, float]:
    """The change of answer NLL by which domains are compared: per byte of the right answers, whose lengths differ."""
    change: Mapping[str, float] = versus["answer_nll_bits_per_byte_difference"]
    return change


def p_value(p: float) -> str:
    """Three digits, and no zero that is none."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def task_name(row: Mapping[str, Any]) -> str:
    """`math generation`: what a row was measured on."""
    return f"{row['domain']} {row['protocol']}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def comparison_title(comparison: Mapping[str, Any]) -> str:
    """The heading of a comparison's page and of its Markdown."""
    full, *others = [model["label"] for model in comparison["models"]]
    given = "gives and " if comparison["gains"] else ""
    return f"What the cut {given}costs: {listed(others)} against {full}" if others else f"What {full} scores"


def larger(interval: Mapping[str, float]) -> int:
    """1 where a difference is above 0 beyond doubt, -1 where it is below, 0 where none can tell."""
    return int(interval["low"] > 0) - int(interval["high"] < 0)


def certain(versus: Mapping[str, Any], name: str) -> int:
    """As `larger`, of one of the differences; 0 where it is within the noise floor, or where there is none."""
    return 0 if name in (versus.get("noise") or ()) or versus[name] is None else larger(versus[name])


ACCURACY, PER_BYTE = "accuracy_difference", "answer_nll_bits_per_byte_difference"


def worst_nll(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row whose answer NLL rose most, of those where it rose beyond doubt if there is one, else of all.

    None where no row's answers were scored.
    """
    scored = [row for row in rows if row["versus"][PER_BYTE] is not None]
    sure = [row for row in scored if certain(row["versus"], PER_BYTE) > 0]
    return max(sure or scored, key=lambda row: nll_change(row["versus"])["estimate"], default=None)


def worst_accuracy(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row whose accuracy fell most, of those where it fell beyond doubt if there is one, else of all."""
    sure = [row for row in rows if certain(row["versus"], ACCURACY) < 0]
    return min(sure or rows, key=lambda row: row["versus"][ACCURACY]["estimate"])


def worst_loss(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where most was lost over all models, by how much, and how sure that is; "" where nothing was compared.

    By accuracy, unless no loss of accuracy is beyond doubt while one of answer NLL is: so it is where a model is at
    chance, and has no accuracy to lose.
    """
    compared = [row for row in rows if row["versus"]]
    if not compared:
        return ""
    row, nll = worst_accuracy(compared), worst_nll(compared)
    change = row["versus"][ACCURACY]
    fell = certain(row["versus"], ACCURACY) < 0
    if not fell and nll is not None and certain(nll["versus"], PER_BYTE) > 0:
        return (
            "No loss of accuracy is beyond doubt, but right answers became less likely: "
            f"most by {nll['model']} in {task_name(nll)}, {bits(nll_change(nll['versus']), 'bits per byte')}."
        )
    if change["estimate"] >= 0:
        return "No accuracy was lost in any domain, by the estimates."
    if ACCURACY in (row["versus"].get("noise") or ()):
        sure = "it is noise, no larger than where the full model is asked twice"
    else:
        sure = f"its {'whole 95 % interval is a loss' if fell else '95 % interval includes no change'}"
    return f"{row['model']} loses most accuracy in {task_name(row)}: {points(change)}; {sure}."


def first_losses(curve: Mapping[str, Any], *, what: str) -> str:
    """At which size a sweep's task loses beyond doubt for the first time, in one sentence.

    `what`: `accuracy_difference` or `answer_nll_bits_difference`, the interval of each point of the curve.
    """
    cuts = {point["size"]: point[what] for point in curve["points"] if point["size"] > 0 and point[what]}
    if not cuts:
        return ""
    rises = what == "answer_nll_bits_difference"
    noun = "right answers become less likely" if rises else "accuracy falls"
    first = onset(curve, what=what)
    if first is None:
        return f"{noun} beyond doubt at no size up to {max(cuts)}"
    change = bits(cuts[first]) if rises else points(cuts[first])
    return f"{noun} beyond doubt from {counted(first, 'layer')} on ({change})"


def onset(curve: Mapping[str, Any], *, what: str) -> int | None:
    """The smallest size whose whole interval is a loss, None where there is none; arguments as of `first_losses`."""
    loss = 1 if what == "answer_nll_bits_difference" else -1
    sizes = (p["size"] for p in curve["points"] if p["size"] > 0 and p[what] and larger(p[what]) == loss)
    return next(sizes, None)


def clipped(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
