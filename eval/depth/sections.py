"""The sections of a depth run's report: the map by removal, the answers in words, and the tables behind them."""

from __future__ import annotations

from eval.depth.document import DepthRecord
from eval.depth.showing import agreement_table, blocks_table, disagreement_table, full_table, thirds_tables
from eval.reports.comparison import thinking_section
from eval.reports.model import PageTop, Section


def top(document: DepthRecord) -> PageTop:
    """The top of the page."""
    blocks = len(document.variants) - 1
    return PageTop(
        "open",
        f"{blocks} blocks of layers, each taken out by itself, on the same questions.",
        warnings=document.warnings,
    )


def sections(document: DepthRecord) -> tuple[Section, ...]:
    """All sections that the document has data for."""
    made = [_map(document), _thinking(document), _disagreements(document)]
    return tuple(section for section in made if section is not None)


def _map(document: DepthRecord) -> Section:
    measured = {row.measure for row in document.rows if row.change is not None}
    shown = [measure for measure in document.measures if measure in measured]
    return Section(
        key="removal",
        title="What each block is for",
        lead="The model without one block of layers, on the same questions: how much less likely right answers become at "
        "once (fast) and after a worked solution (using), and how much harder worked solutions are to write (writing). "
        "The control is another question's solution beside this question: what its rise has in common with that of "
        "writing is the cost of the text, and what writing loses beyond it is the tie between question and solution "
        "(informed).",
        tables=(full_table(document), *thirds_tables(document), *(blocks_table(document, name) for name in shown)),
        short="Removal",
    )


def _thinking(document: DepthRecord) -> Section | None:
    if not document.thinking:
        return None
    rows = document.to_json()["thinking"]
    return thinking_section({"thinking": rows, "thinking_interactions": [], "models": [{"label": "full"}]})


def _disagreements(document: DepthRecord) -> Section | None:
    if not document.disagreements:
        return None
    return Section(
        key="likelihood",
        title="Likelihood against written answers",
        lead="Likelihood can hide what generation shows. Of each block whose model wrote answers: the change of the right "
        "answer's NLL, and that of accuracy, on the same questions.",
        tables=(disagreement_table(document), agreement_table(document)),
        short="Likelihood",
    )
