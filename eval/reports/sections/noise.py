"""The noise floor in words, as a table, and as the grey bands of the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.billing.noise import band
from eval.billing.statistics import Interval
from eval.reports.model import Section
from eval.reports.wording.tables import QUESTIONS, change, count, field, score, within
from eval.reports.wording.text import task_name
from prune.common.screen.numbers import plain, signed
from prune.common.screen.tables import Cell, Table

Document = Mapping[str, Any]


def noise_line(document: Document) -> str:
    """How the full model was asked again, and how large a change is noise; "" where it was not."""
    noise = document.get("noise")
    if not noise:
        return ""
    first, second = noise["first"], noise["second"]
    ways = [f"batch size {second['batch_size']} after {first['batch_size']}"]
    if second["dtype"] != first["dtype"]:
        ways.append(f"{second['dtype']} after {first['dtype']}")
    told = f"Noise floor: {document['models'][0]['label']} was asked again in {' and '.join(ways)}."
    if not noise["rows"]:
        return told
    flips = sum(row["lost"] + row["gained"] for row in noise["rows"])
    asked = sum(row["n"] for row in noise["rows"])
    changes = [
        _range([scale * row[key]["band"] for row in noise["rows"]], digits, unit)
        for key, scale, digits, unit in (("accuracy", 100, 1, "points"), ("answer_nll_bits", 1, 3, "bits per answer"))
    ]
    return f"{told} {flips} of {asked} verdicts flipped; a change of at most {' or '.join(changes)} may be noise."


def _range(values: Sequence[float], digits: int, unit: str) -> str:
    low, high = (plain(end(values), digits) for end in (min, max))
    return f"{low if low == high else f'{low} to {high}'} {unit}"


def nothing_lost(document: Document, label: str) -> str:
    """The sentence on a model whose every change is noise; "" for any other."""
    noise = document.get("noise")
    changes = [row["versus"] for key in ("rows", "thinking") for row in document[key] if row["model"] == label]
    if not noise or not changes or not all(map(_all_noise, changes)):
        return ""
    others = [row for key in ("prose", "needles") for row in document[key] if row["model"] == label]
    if not all(_all_noise(row) for row in others):
        return ""
    return f"{label}: every change is noise, no larger than where {document['models'][0]['label']} is asked twice."


def _all_noise(holder: Mapping[str, Any] | None) -> bool:
    """Whether all differences that have a floor are within it."""
    if holder is None:
        return False
    floored = [name for name in holder if isinstance(holder[name], Mapping) and name not in _NO_FLOOR]
    return not floored or (holder.get("noise") is not None and all(within(holder, name) for name in floored))


_NO_FLOOR = ("accuracy_raw_difference", "retained_interval", "recall", "answered")


def floors(document: Document | None, key: str) -> dict[str, Mapping[str, Any]]:
    """Task -> its row of the noise floor; `key`: rows or thinking."""
    noise = (document or {}).get("noise") or {}
    return {task_name(row): row for row in noise.get(key, ())}


def band_over(floor: Mapping[str, Any], measure: str, questions: int) -> float:
    """The band of a measure over so many questions."""
    return band(Interval(**floor[measure]["shift"]), floor["n"], max(questions, floor["n"]))


def _half(key: str, scale: float, digits: int) -> Any:
    return lambda row: Cell(f"±{plain(scale * row[key]['band'], digits)}", sort=row[key]["band"])


_TABLE = (
    QUESTIONS,
    field("Asked again", "questions that the full model was asked twice", lambda row: count(row["n"])),
    field("Flips, %", "verdicts that changed, either way, with the 95 % interval", lambda row: score(row["flips"])),
    field(
        "Shift, points",
        "change of accuracy from the first asking to the second",
        lambda row: change(row["accuracy"]["shift"], 100, 1, worse_above=False, plain_look=True),
    ),
    field("Noise, points", "a change of accuracy of at most so much is called noise", _half("accuracy", 100, 1)),
    field(
        "Shift, bits",
        "the same of the answer NLL",
        lambda row: change(row["answer_nll_bits"]["shift"], 1, 4, worse_above=True, plain_look=True),
    ),
    field("Noise, bits", "a change of answer NLL of at most so much is called noise", _half("answer_nll_bits", 1, 4)),
)


def noise_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What the full model's scores move by where it is asked twice."""
    return Table.from_records("The full model asked twice", rows, _TABLE, shared=1, key="noise")


def noise_section(document: Document) -> Section | None:
    """The noise floor; None where it was not measured."""
    noise = document.get("noise")
    if not noise or not noise["rows"]:
        return None
    others = [
        f"{kind} {_named(row)}: {signed(row[key]['shift']['estimate'], 4)}, noise up to {plain(row[key]['band'], 4)} "
        f"{unit}."
        for kind, group, key, unit in (
            ("Prose", "prose", "bits_per_byte", "bits per byte"),
            ("Needle recall,", "needles", "recall", "of 1"),
        )
        for row in noise[group]
    ]
    thought = [
        f"{task_name(row)}, slow thinking: {plain(100 * row['flips_slow']['estimate'], 1)} % of the verdicts flipped, "
        f"noise up to {plain(100 * row['a_slow']['band'], 1)} points."
        for row in noise["thinking"]
    ]
    return Section(
        key="noise",
        title="The noise floor",
        lead="The same model, asked the same again in other batches, gives other last digits, and so other answers to "
        "close questions. What moves by that says nothing of a cut: a change within the grey bands is called noise.",
        findings=(noise_line(document), *thought, *others),
        tables=(noise_table(noise["rows"]),),
        short="Noise",
    )


def _named(row: Mapping[str, Any]) -> str:
    if "text" in row:
        return str(row["text"])
    return "all lengths" if row["length"] is None else f"{row['length']} tokens"
