"""Numbers and findings in plain words, for the report. Pure text work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"


def minus(text: str) -> str:
    """A hyphen before a digit becomes a true minus sign."""
    return text.replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A change with its sign; nothing that rounds to zero is called negative."""
    return minus(f"{_tidy(value, digits):+.{digits}f}")


def plain(value: float, digits: int) -> str:
    """A number with so many digits after the point."""
    return minus(f"{_tidy(value, digits):.{digits}f}")


def _tidy(value: float, digits: int) -> float:
    return round(value, digits) + 0.0


def bounds(found: Mapping[str, float], scale: float, digits: int, *, sign: bool = True) -> str:
    """`[low, high]` of an interval."""
    show = signed if sign else plain
    return f"[{show(scale * found['low'], digits)}, {show(scale * found['high'], digits)}]"


def points(found: Mapping[str, float]) -> str:
    """A change of accuracy: `−12.0 points [−15, −9]`."""
    return f"{signed(100 * found['estimate'], 1)} points {bounds(found, 100, 1)}"


def bits(found: Mapping[str, float], unit: str = "bits") -> str:
    """A change of NLL: `+5.27 bits [+4.70, +5.84]`."""
    digits = 2 if unit == "bits" else 3
    return f"{signed(found['estimate'], digits)} {unit} {bounds(found, 1, digits)}"


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


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 question`, `3 questions`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def sureness(found: Mapping[str, float], *, worse_above: bool) -> str:
    """How sure a change for the worse is, by its 95 % interval."""
    low, high = found["low"], found["high"]
    worse, better = (low > 0, high < 0) if worse_above else (high < 0, low > 0)
    if worse:
        return "its whole 95 % interval is a loss"
    return "its whole 95 % interval is a gain" if better else "its 95 % interval includes no change"


def worst_nll(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row whose answer NLL rose most, of those where it rose beyond doubt if there is one, else of all."""
    sure = [row for row in rows if nll_change(row["versus"])["low"] > 0]
    return max(sure or rows, key=lambda row: nll_change(row["versus"])["estimate"])


def worst_accuracy(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row whose accuracy fell most, of those where it fell beyond doubt if there is one, else of all."""
    sure = [row for row in rows if row["versus"]["accuracy_difference"]["high"] < 0]
    return min(sure or rows, key=lambda row: row["versus"]["accuracy_difference"]["estimate"])


def worst_loss(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where most was lost over all models, by how much, and how sure that is; "" where nothing was compared.

    By accuracy, unless no loss of accuracy is beyond doubt while one of answer NLL is: so it is where a model is at
    chance, and has no accuracy to lose.
    """
    own = [row for row in rows if row["versus"] is not None]
    if not own:
        return ""
    row, nll = worst_accuracy(own), worst_nll(own)
    change, rise = row["versus"]["accuracy_difference"], nll_change(nll["versus"])
    if change["high"] >= 0 and rise["low"] > 0:
        return (
            "No loss of accuracy is beyond doubt, but right answers became less likely: "
            f"most by {nll['model']} in {task_name(nll)}, {bits(rise, 'bits per byte')}."
        )
    if change["estimate"] >= 0:
        return "No accuracy was lost in any domain, by the estimates."
    return (
        f"{row['model']} loses most accuracy in {task_name(row)}: {points(change)}; "
        f"{sureness(change, worse_above=False)}."
    )


def summary(rows: Sequence[Mapping[str, Any]], model: str) -> str:
    """Where one model lost most, by accuracy and by answer NLL, and in how many rows that is beyond doubt; or ""."""
    own = [row for row in rows if row["model"] == model and row["versus"] is not None]
    if not own:
        return ""
    accuracy, nll = worst_accuracy(own), worst_nll(own)
    fell = accuracy["versus"]["accuracy_difference"]["estimate"] < 0
    rose = nll["versus"]["answer_nll_bits_difference"]["estimate"] > 0
    if fell and rose and accuracy is nll:
        told = f"{model} loses most in {task_name(nll)}, by accuracy and by answer NLL."
    elif fell and rose:
        told = f"{model} loses most accuracy in {task_name(accuracy)}; right answers suffer most in {task_name(nll)}."
    elif rose:
        told = f"{model} loses no accuracy, but right answers become less likely, most in {task_name(nll)}."
    elif fell:
        told = f"{model} loses most accuracy in {task_name(accuracy)}, but right answers become no less likely."
    else:
        told = f"{model} loses nothing by the estimates."
    sure = (
        sum(row["versus"]["accuracy_difference"]["high"] < 0 for row in own),
        sum(row["versus"]["answer_nll_bits_difference"]["low"] > 0 for row in own),
    )
    of = counted(len(own), "row")
    return f"{told} A loss of accuracy is beyond doubt in {sure[0]} of {of}, a loss by answer NLL in {sure[1]}."


def first_losses(curve: Mapping[str, Any], *, what: str) -> str:
    """At which size a sweep's task loses beyond doubt for the first time, in one sentence.

    Args:
        curve: one of sweep.json's `curves`.
        what: `accuracy_difference` or `answer_nll_bits_difference`, intervals of its points.
    """
    worse_above = what == "answer_nll_bits_difference"
    cut = [p for p in curve["points"] if p["size"] > 0 and p.get(what)]
    if not cut:
        return ""
    noun = "right answers become less likely" if worse_above else "accuracy falls"
    words = bits if worse_above else points
    first = onset(curve, what=what)
    if first is None:
        return f"{noun} beyond doubt at no size up to {cut[-1]['size']}"
    point = next(p for p in cut if p["size"] == first)
    return f"{noun} beyond doubt from {counted(first, 'layer')} on ({words(point[what])})"


def onset(curve: Mapping[str, Any], *, what: str) -> int | None:
    """The smallest size whose whole interval is a loss, None where there is none; arguments as of `first_losses`."""
    for point in curve["points"]:
        found = point.get(what) if point["size"] > 0 else None
        if found and (found["low"] > 0 if what == "answer_nll_bits_difference" else found["high"] < 0):
            return int(point["size"])
    return None


def clipped(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
