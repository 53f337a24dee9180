"""From documents of results to the whole report: which sections there are, and how it was all measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.reports.model import Flips, PageTop, Report, Section
from eval.reports.sections.comparison import (
    domains_section,
    interactions_section,
    needles_section,
    prose_section,
    tasks_section,
    thinking_section,
)
from eval.reports.sections.gains import gains_section
from eval.reports.sections.limits import limits_section
from eval.reports.sections.noise import floors, noise_section
from eval.reports.sections.sweep import curves_section, map_section, sweep_prose_section
from eval.reports.sections.verdict import comparison_top, sweep_top
from eval.reports.wording.text import listed, plain
from eval.reports.wording.weights import weights_line
from prune.common.sizes import counted

Document = Mapping[str, Any]
_IDENTITY = ("config_sha256", "shards", "content_sha256")  # two models of one shape differ in the last alone


def build(comparison: Document | None, sweep: Document | None = None, flips: Sequence[Flips] = ()) -> Report:
    """The report of a comparison, of a sweep, or of both (a ValueError for none); no section without data.

    `comparison` and `sweep` are the documents of comparison.json and sweep.json; `flips` are what `read_flips` gives.
    """
    main = comparison or sweep
    if main is None:
        raise ValueError("a report needs a comparison or a sweep")
    sections: list[Section | None] = []
    if comparison is not None:
        full, *others = [model["label"] for model in comparison["models"]]
        sections += [
            gains_section(comparison),
            domains_section(comparison),
            interactions_section(comparison),
            prose_section(comparison),
        ]
        sections += [needles_section(comparison)]
        given = "gives and " if comparison["gains"] else ""
        title = f"What the cut {given}costs: {listed(others)} against {full}" if others else f"What {full} scores"
        top = comparison_top(comparison)
    if sweep is not None:
        noise = _floors(comparison, sweep)
        sections += [curves_section(sweep, noise), map_section(sweep), sweep_prose_section(sweep)]
    if comparison is None and sweep is not None:
        title, top = "What each size of cut costs", sweep_top(sweep)
    if comparison is not None:
        sections += [thinking_section(comparison), tasks_section(comparison)]
        sections += [noise_section(comparison), limits_section(comparison)]
    if comparison is not None and sweep is not None and _unlike(comparison, sweep):
        name = sweep["provenance"]["model"]["model"]
        top = replace(top, warnings=(*top.warnings, f"the sweep below is of {name}, whose weights are not {full}'s"))
    return with_facts(main, title, top, [section for section in sections if section is not None], flips)


def with_facts(
    main: Document, title: str, top: PageTop, sections: Sequence[Section], flips: Sequence[Flips] = ()
) -> Report:
    """A report of these sections, and how it was all measured, which the document `main` says."""
    shown = tuple(sections)
    return Report(
        title=title,
        subtitle=_subtitle(main),
        top=top,
        sections=shown,
        flips=tuple(flips),
        settings=tuple(_settings(main)),
        facts=tuple(_facts(main)),
        hashes=tuple(_hashes(main)),
        notes=tuple(_notes(main)),
        glossary=tuple(_glossary(shown)),
    )


def _floors(comparison: Document | None, sweep: Document) -> dict[str, Mapping[str, Any]]:
    """The noise floor by task, for the curves of a sweep of the same model."""
    return {} if comparison is None or _unlike(comparison, sweep) else floors(comparison, "rows")


def _glossary(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """What the columns of the first table mean."""
    tables = [table for section in sections for table in section.tables if table.key in ("domains", "sizes")]
    return [(column.name, f"{column.hint}.") for table in tables[:1] for column in table.columns if column.hint]


def _unlike(comparison: Document, sweep: Document) -> bool:
    """Whether the sweep is of another model than the comparison's full one, where both say what they are."""
    full, swept = comparison["models"][0], sweep["provenance"]["model"]
    return any(full.get(key) and swept.get(key) and full[key] != swept[key] for key in _IDENTITY)


def _subtitle(main: Document) -> str:
    tasks = [row for row in main["rows"] if not row["versus"]] if "models" in main else main["tasks"]
    domains = list(dict.fromkeys(task["domain"] for task in tasks))
    if not domains:
        return ""
    questions = counted(sum(task["n"] for task in tasks), "question")
    return f"{questions} in {counted(len(domains), 'domain')}: {listed(domains)}"


def _facts(main: Document) -> list[tuple[str, str]]:
    """Command, prose, time and versions as names and values."""
    provenance = main["provenance"]
    command, versions = provenance.get("command"), provenance.get("versions")
    return [
        *([("command", command)] if command else []),
        *(("held-out prose", str(text.get("source", name))) for name, text in _texts(main)),
        ("weights", weights_line(main)),
        *_measured(main),
        *([("versions", _plain_value(versions))] if versions else []),
    ]


def _settings(main: Document) -> list[tuple[str, str]]:
    """What was set, as names and values; what was left unset is left out."""
    settings = main["settings"] if "settings" in main else main["models"][0]["settings"]
    unset: tuple[Any, ...] = (None, [], {})
    return [(name.replace("_", " "), _plain_value(value)) for name, value in settings.items() if value not in unset]


def _texts(main: Document) -> list[tuple[str, Document]]:
    """The texts whose loss was measured, by their names: one alone, or named."""
    text = main["provenance"].get("text") or {}
    return [("prose", text)] if "sha256" in text else list(text.items())


def _measured(main: Document) -> list[tuple[str, str]]:
    measured = main["measured"]
    if isinstance(measured, Mapping):
        return [(name.replace("_", " "), _plain_value(value)) for name, value in measured.items() if value is not None]
    told = (f"{effort['model']} {plain(effort['seconds'], 0)} s for {_answered(effort)}" for effort in measured)
    return [("time", "; ".join(told))]


def _answered(effort: Document) -> str:
    """`5 requests (1,200 tokens), 300 known from before`."""
    told = f"{counted(effort['asked'], 'request')} ({effort['tokens']:,} tokens)"
    return f"{told}, {effort['known']:,} known from before" if effort["known"] else told


def _plain_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain_value(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _hashes(main: Document) -> list[tuple[str, str]]:
    """What was read, and its SHA-256: models, questions, prose."""
    provenance = main["provenance"]
    hashes: list[tuple[str, str | None]] = []
    for model in main["models"] if "models" in main else [provenance["model"]]:
        name = model.get("label") or model["model"]
        hashes.append((f"{name}: commit", model.get("commit")))
        hashes.append((f"{name}: config.json", model.get("config_sha256")))
        hashes.append((f"{name}: weights, config and tokenizer", model.get("content_sha256")))
        hashes += [(f"{name}: header of {shard}", sha) for shard, sha in (model.get("shards") or {}).items()]
    hashes += (provenance.get("questions") or {}).items()
    hashes += [(str(text.get("source", name)), text["sha256"]) for name, text in _texts(main)]
    return [(name, sha) for name, sha in hashes if sha]


def _notes(main: Document) -> list[str]:
    """What happened on the way. A sweep's notes tell of cut prompts themselves."""
    if "models" not in main:
        return list(main["notes"])
    notes = [f"{model['label']}: {note}" for model in main["models"] for note in model["notes"]]
    notes += [
        f"{label}: the start of {counted(number, 'request')} was cut to fit the context"
        for label, number in main["truncated"].items()
        if number
    ]
    return list(dict.fromkeys(notes))
