"""What a report is made of, before it becomes HTML."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from prune.common.screen.tables import Table


@dataclass(frozen=True)
class Key:
    """One line of a legend: the sample of a series and its name."""

    label: str
    sample: Markup


@dataclass(frozen=True)
class Figure:
    """A drawing with its heading (`under` in small letters); `facts` are short lines below it."""

    heading: str
    drawing: Markup
    facts: tuple[str, ...] = ()
    under: str = ""


@dataclass(frozen=True)
class Section:
    """What it shows, findings in sentences, a legend, figures, and the tables behind them.

    `short` is its name in the navigation, `small` says that its figures stand many to a row.
    """

    key: str
    title: str
    lead: str
    findings: tuple[str, ...] = ()
    legend: tuple[Key, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    small: bool = False
    short: str = ""


@dataclass(frozen=True)
class Tile:
    """One number to see at a glance."""

    label: str
    value: str
    note: str
    interval: str
    look: str = ""


STATES = {
    "go": "Verdict: GO, the loss is within the limit",
    "no-go": "Verdict: NO-GO, the loss is beyond the limit",
    "inconclusive": "Verdict: INCONCLUSIVE, the questions cannot decide",
    "open": "Verdict",  # no limit was set
}


@dataclass(frozen=True)
class ModelTop:
    """What a model gives and costs, one line each ("" for none), and numbers."""

    label: str
    gain: str
    cost: str
    tiles: tuple[Tile, ...] = ()


@dataclass(frozen=True)
class PageTop:
    """The top of the page: `state` is one of `STATES`."""

    state: str
    headline: str
    sentences: tuple[str, ...] = ()
    models: tuple[ModelTop, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """A question that flipped. `choices`: (text, marks), marks of `right`, `before`, `after`."""

    question: str
    where: str
    choices: tuple[tuple[str, tuple[str, ...]], ...]
    answer: str
    before: str
    after: str


@dataclass(frozen=True)
class Flips:
    """Examples of one task and model, and how many there are in all."""

    title: str
    n: int
    lost: int
    gained: int
    lost_examples: tuple[Example, ...]
    gained_examples: tuple[Example, ...]


@dataclass(frozen=True)
class Report:
    """The whole page."""

    title: str
    subtitle: str
    top: PageTop
    sections: tuple[Section, ...]
    flips: tuple[Flips, ...]
    settings: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    hashes: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    glossary: tuple[tuple[str, str], ...]
