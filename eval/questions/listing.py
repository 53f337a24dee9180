"""`evaluate domains`: which domains there are, with counts, protocols, sets and licences."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from eval.questions.declaration import read_declaration
from eval.questions.domains import DomainPart, declared, files_of
from eval.questions.loaded import LICENCES
from eval.questions.schema import cluster_of, read_questions
from eval.settings import PLAIN
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError
from prune.common.files.artefact import Artefact, Part
from prune.common.screen.tables import Cell, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from eval.questions.preparation import Manifest


class ListedDomain(Part):
    """A domain of the folder, or one that is declared."""

    domain: str = Field(description="its name")
    there: bool = Field(description="whether its questions are in the folder")
    own: bool = Field(description="whether you declared it")
    description: str = Field(description="what its YAML says of it")
    questions: int = Field(description="how many; 0 where they are not there")
    protocols: dict[str, int] = Field(description="protocol -> questions")
    passages: int = Field(description="passages that several questions share; those are not independent")
    rationales: int = Field(description="questions that have one")
    sets: dict[str, int] = Field(description="set -> questions")
    subjects: dict[str, int] = Field(description="set -> how many subjects")
    licences: tuple[str, ...] = Field(description="of its questions")


class Domains(Artefact):
    """The domains of a folder, or those that are declared."""

    AGAIN: ClassVar[str] = "list them again with `evaluate domains`"

    format: Literal["regrowth.domains/1"] = "regrowth.domains/1"
    data: str | None = Field(description="the folder; null for the declared domains")
    domains: tuple[ListedDomain, ...] = Field(description="the declared ones first")


@checks_arguments
def list_domains(data: str | Path | None = None) -> Domains:
    """The domains of a folder of questions, or those that are declared where no folder is named.

    Every file is read and checked. Of a domain that is not there, the sets and licences it is made of are told.

    Raises:
        RegrowthError: the folder does not exist, or a file breaks the schema (file and line are named).
    """
    listed = {name: _declared(name, parts) for name, parts in declared().items()}
    if data is not None:
        folder = Path(data)
        if not folder.is_dir():
            raise RegrowthError(f"--data {folder} does not exist; make it with `evaluate prepare --data {folder}`")
        for name, path in files_of(folder).items():
            listed[name] = _there(name, path)
    return Domains(data=None if data is None else str(data), domains=tuple(listed.values()))


def _declared(name: str, parts: tuple[DomainPart, ...]) -> ListedDomain:
    return ListedDomain(
        domain=name,
        there=False,
        own=False,
        description="",
        questions=0,
        protocols=dict.fromkeys(PLAIN, 0),
        passages=0,
        rationales=0,
        sets={part.set: 0 for part in parts},
        subjects={part.set: len(part.subjects) for part in parts if part.subjects},
        licences=tuple(sorted({LICENCES[part.set] for part in parts})),
    )


def _there(name: str, path: Path) -> ListedDomain:
    questions = read_questions(path)
    passages = Counter(map(cluster_of, questions))
    beside = path.with_suffix(".yaml")
    protocols = Counter(question.protocol for question in questions)
    return ListedDomain(
        domain=name,
        there=True,
        own=name not in declared(),
        description=read_declaration(beside).description if beside.exists() else "",
        questions=len(questions),
        protocols={protocol: protocols[protocol] for protocol in PLAIN},
        passages=sum(count > 1 for count in passages.values()),
        rationales=sum(question.rationale is not None for question in questions),
        sets=dict(sorted(Counter(question.source for question in questions).items())),
        subjects={
            name: len({q.subject for q in questions if q.source == name}) for name in {q.source for q in questions}
        },
        licences=tuple(sorted({question.licence for question in questions})),
    )


def domains_table(listed: Domains) -> Table:
    """The domains for a terminal."""
    rows: list[tuple[str | Cell, ...]] = []
    for row in listed.domains:
        counts = [f"{row.protocols[name]:,}" if row.there else "–" for name in PLAIN]
        sets = ", ".join(f"{name} {count:,}" if row.there else name for name, count in row.sets.items())
        name = Cell(row.domain + " (own)" * row.own, look="" if row.there else "faint")
        rows.append((name, *counts, sets, ", ".join(row.licences)))
    caption = (
        "Choice: the option whose text is likeliest. Generation: a number, written and compared exactly. "
        "--thinking fast,slow asks the questions of both by generation, with the options shown."
    )
    if listed.data is None:
        caption += " Counts: evaluate domains --data DIR."
    elif any(not row.there for row in listed.domains):
        caption += " –: not there; `evaluate prepare` makes it."
    title = "Domains" if listed.data is None else f"Domains in {listed.data}"
    head = ("domain", *PLAIN, "sets", "licences")
    return Table.of(title, head, rows, words=("domain", "sets", "licences"), caption=caption)


def manifest_table(manifest: Manifest) -> RenderableType:
    """What `evaluate prepare` made, for a terminal: per domain its questions, per set what was read and left out."""
    from rich.console import Group

    domains, sets = [], []
    for name, entry in manifest.domains.items():
        counts = [f"{entry.protocols[protocol]:,}" for protocol in PLAIN]
        there = ", ".join(f"{key} {count:,}" for key, count in entry.sets.items())
        without = f" (without {', '.join(entry.sets_absent)})" if entry.sets_absent else ""
        domains.append((name, *counts, f"{entry.repeats_dropped:,}", there + without))
    for name, read in manifest.sets.items():
        reasons = [f"{why}: {count:,}" for why, count in read.left_out.items()]
        reasons += [f"other splits: {', '.join(read.passed_over)}"] if read.passed_over else []
        sets.append((name, f"{read.rows:,}", f"{read.questions:,}", read.licence, "; ".join(reasons)))
    why = "left out, and why"
    return Group(
        Table.of("Domains", ("domain", *PLAIN, "repeats dropped", "sets"), domains, words=("domain", "sets")),
        Table.of("Sets", ("set", "rows", "questions", "licence", why), sets, words=("set", "licence", why)),
    )
