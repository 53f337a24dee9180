"""The sections of a depth run's report: removal, contrasts of domains, answers in words, likeness of states."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from eval.depth.contrasting.contrasts import Interaction, in_words
from eval.depth.document import DepthRecord, MeasureRow
from eval.depth.pages.figures import AlikeCurve, RemovalCurve, alike_section, contrast_section, removal_section
from eval.depth.pages.showing import (
    agreement_table,
    blocks_table,
    disagreement_table,
    events_table,
    full_table,
    interactions_table,
    measure_interactions_table,
    similarity_table,
    thirds_tables,
)
from eval.depth.similarity.fast_slow import SimilarityCurve
from eval.reports.model import PageTop, Section
from eval.reports.sections.comparison import thinking_section
from prune.common.intervals import Interval
from prune.common.sizes import counted

_MEASURES = {
    "fast": "the answer at once",
    "using": "the answer after a worked solution",
    "writing": "the worked solution",
    "control": "another question's solution",
    "informed": "what the question tells of its solution",
}
_MOST_DRAWN = 8  # contrasts with a figure each; all stand in the table


def top(document: DepthRecord) -> PageTop:
    """The top of the page: how much was measured, and the answers to the questions asked of it, in words."""
    blocks = len(document.variants) - 1
    headline = f"{blocks} blocks of layers, each taken out by itself, on the same questions."
    clearest = sorted(_contrasts(document), key=lambda named: -_clearness(named[0].relative.value))
    told = tuple(f"{name}: {in_words(found)}" for found, name in clearest)
    return PageTop("open", headline, told[:4], warnings=document.warnings)


def _clearness(value: Interval | None) -> float:
    """How many half-widths of its interval a contrast is from 0."""
    if value is None or value.high <= value.low:
        return 0.0
    return abs(value.estimate) / ((value.high - value.low) / 2)


def sections(document: DepthRecord) -> tuple[Section, ...]:
    """All sections that the document has data for."""
    made = [
        _removal(document),
        _contrast(document),
        _thinking(document),
        _events(document),
        _likelihood(document),
        _alike(document),
    ]
    return tuple(section for section in made if section is not None)


def _removal(document: DepthRecord) -> Section | None:
    curves = list(_removed(document))
    if not curves:
        return None
    measured = {row.measure for row in document.rows if row.change is not None}
    shown = [measure for measure in document.measures if measure in measured]
    drawn = removal_section(curves)
    return replace(
        drawn,
        lead=f"{drawn.lead} Another question's solution beside this question is the control: what its loss has in "
        "common with that of the question's own is the cost of such text, and what is lost beyond it is the tie "
        "between question and solution.",
        tables=(full_table(document), *thirds_tables(document), *(blocks_table(document, name) for name in shown)),
    )


def _removed(document: DepthRecord) -> Iterator[RemovalCurve]:
    """What each measure loses, block by block; a fall of `informed` is a loss."""
    variants = {variant.label: variant for variant in document.variants}
    groups: dict[tuple[str, int, str], list[MeasureRow]] = {}
    for row in document.rows:
        if row.change is not None:
            key = (row.measure, variants[row.variant].n, f"{row.domain} {row.protocol}")
            groups.setdefault(key, []).append(row)
    for measure in document.measures:
        for size in document.sizes:
            for (of, n, domain), rows in groups.items():
                if (of, n) == (measure, size):
                    yield RemovalCurve(
                        domain=domain,
                        measure=_MEASURES[measure],
                        unit=rows[0].unit,
                        size=size,
                        starts=[variants[row.variant].start or 0 for row in rows],
                        costs=[_loss(row) for row in rows],
                    )


def _loss(row: MeasureRow) -> Interval:
    assert row.change is not None
    return row.change.negated if row.measure == "informed" else row.change


def _contrasts(document: DepthRecord) -> list[tuple[Interaction, str]]:
    """All contrasts, each with its name: those of domains first, by size and measure."""
    named = [
        (row.found, f"{_MEASURES[row.measure]}, {row.protocol}, {counted(row.size, 'layer')}")
        for row in document.interactions
    ]
    named += [
        (row.found, f"{row.domain} {row.protocol}, {counted(row.size, 'layer')}")
        for row in document.measure_interactions
    ]
    return named


def _contrast(document: DepthRecord) -> Section | None:
    named = _contrasts(document)
    if not named:
        return None
    tables = [interactions_table(document), measure_interactions_table(document)]
    drawn = [(found, name) for found, name in named if found.profile][:_MOST_DRAWN]
    if not drawn:
        return Section(
            key="contrast",
            title="Where two domains differ",
            lead="A block's cost relative to the domain's mean block, first domain less second.",
            tables=tuple(table for table in tables if table.rows),
            short="Contrast",
        )
    section = contrast_section([found for found, _ in drawn], [name for _, name in drawn])
    return replace(section, tables=tuple(table for table in tables if table.rows))


def _thinking(document: DepthRecord) -> Section | None:
    if not document.thinking:
        return None
    rows = document.to_json()["thinking"]
    return thinking_section({"thinking": rows, "thinking_interactions": [], "models": [{"label": "full"}]})


def _events(document: DepthRecord) -> Section | None:
    if not document.events:
        return None
    return Section(
        key="events",
        title="What goes first as layers go",
        lead="Growing blocks at the deepest place. Larger models overthink less, and hardly correct more; read "
        "backwards, overthinking would rise before correction falls, and knowledge fall before reasoning.",
        tables=(events_table(document),),
        short="Order",
    )


def _likelihood(document: DepthRecord) -> Section | None:
    if not document.disagreements:
        return None
    return Section(
        key="likelihood",
        title="Likelihood against written answers",
        lead="Likelihood can hide what generation shows. Of each block whose model wrote answers: the change of the "
        "right answer's NLL, and that of accuracy, on the same questions.",
        tables=(disagreement_table(document), agreement_table(document)),
        short="Likelihood",
    )


def _alike(document: DepthRecord) -> Section | None:
    found = document.similarity
    if found is None:
        return None
    curves = [
        AlikeCurve(domain=curve.domain or "all", panel=f"{curve.protocol} prompts, last token", values=values)
        for curve in (*found.domains, *found.over_all)
        if (values := _values(curve))
    ]
    if not curves:
        return None
    return replace(alike_section(curves), tables=(similarity_table(document),))


def _values(curve: SimilarityCurve) -> list[Interval]:
    """x[1] .. x[L], the outputs of the layers; [] where one is not known, as of too few questions."""
    bounds = list(zip(curve.estimate, curve.low, curve.high, strict=True))[1:]
    return [] if any(map(math.isnan, sum(bounds, ()))) else [Interval(*each) for each in bounds]
