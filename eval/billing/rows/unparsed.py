"""Answers that could not be parsed count as wrong; where they are many, a loss is of form too, and proves no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MANY = 0.2  # share of answers

_MODES = {"a_fast": ("fast",), "a_slow": ("slow",), "delta": ("fast", "slow")}


def unread(row: Mapping[str, Any], measure: str) -> bool:
    """Whether too many answers behind a measure (`a_fast`, `a_slow`, `delta`) of a row of thinking were not parsed."""
    return any(row[f"unparseable_{mode}"] > MANY for mode in _MODES[measure])


def unread_pair(
    rows: Iterable[Mapping[str, Any]], interaction: Mapping[str, Any], full: str, measure: str
) -> list[str]:
    """Domains of an interaction in which too many answers, of its model or of the `full` one, were not parsed."""
    models, protocol = (interaction["model"], full), interaction["protocol"]
    asked = [row for row in rows if row["model"] in models and row["protocol"] == protocol]
    domains = {row["domain"] for row in asked if unread(row, measure)}
    return [domain for domain in interaction["domains"] if domain in domains]


def unparsed_warnings(rows: Sequence[Mapping[str, Any]], thinking: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each model that gave too many answers without an option or number in them."""
    shares = [(row, _percent(row["unparseable"])) for row in rows if row["unparseable"] > MANY]
    modes = [(row, _percent(row["unparseable_fast"]), _percent(row["unparseable_slow"])) for row in thinking]
    shares += [(row, f"{fast} fast, {slow} slow") for row, fast, slow in modes if unread(row, "delta")]
    tasks: dict[str, list[str]] = {}
    for row, share in shares:
        tasks.setdefault(row["model"], []).append(f"{row['domain']} {row['protocol']}: {share}")
    return [
        f"{model}: many answers could not be parsed ({'; '.join(where)}); they count as wrong, so a loss there is one "
        "of form too, and no proof of lost knowledge"
        for model, where in tasks.items()
    ]


def unparsed_mark(row: Mapping[str, Any]) -> str:
    """Where there is little room, fast before slow: `unparsed 94 / 88 %`."""
    return f"unparsed {100 * row['unparseable_fast']:.0f} / {100 * row['unparseable_slow']:.0f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
