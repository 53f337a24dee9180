"""From documents of results to the whole report: which sections there are, and how it was all measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.reports.comparison import (
    domains_section,
    flips,
    interactions_section,
    prose_section,
    tasks_section,
    thinking_section,
)
from eval.reports.flips import FlipGroup
from eval.reports.model import Report, Section
from eval.reports.sweep import curves_section, map_section, sweep_prose_section
from eval.reports.text import counted, listed, plain
from eval.reports.verdict import comparison_top, sweep_top

Document = Mapping[str, Any]
_IDENTITY = ("config_sha256", "shards", "content_sha256")  # two models of one shape differ in the last alone


def build(comparison: Document | None, sweep: Document | None = None, flipped: Sequence[FlipGroup] = ()) -> Report:
    """The report of a comparison, of a sweep, or of both; a section without data is left out.

    Args:
        comparison: the document of comparison.json, or None.
        sweep: the document of sweep.json, or None.
        flipped: of the comparison, as `read_flips` gives them.

    Raises:
        ValueError: neither a comparison nor a sweep.
    """
    main = comparison or sweep
    if main is None:
        raise ValueError("a report needs a comparison or a sweep")
    sections: list[Section | None] = []
    if comparison is not None:
        full, *others = [model["label"] for model in comparison["models"]]
        sections += [domains_section(comparison), interactions_section(comparison), prose_section(comparison)]
        title = f"What the cut costs: {listed(others)} against {full}" if others else f"What {full} scores"
        top = comparison_top(comparison)
    if sweep is not None:
        sections += [curves_section(sweep), map_section(sweep), sweep_prose_section(sweep)]
    if comparison is None and sweep is not None:
        title, top = "What each size of cut costs", sweep_top(sweep)
    if comparison is not None:
        sections += [thinking_section(comparison), tasks_section(comparison)]
    if comparison is not None and sweep is not None and _unlike(comparison, sweep):
        name = (sweep["provenance"].get("model") or {}).get("model", "a model")
        top = replace(top, warnings=(*top.warnings, f"the sweep below is of {name}, whose weights are not {full}'s"))
    shown = tuple(section for section in sections if section is not None)
    return Report(
        title=title,
        subtitle=_subtitle(main),
        top=top,
        sections=shown,
        flips=flips(flipped),
        settings=tuple(_settings(main)),
        facts=tuple(_facts(main)),
        hashes=tuple(_hashes(main)),
        notes=tuple(_notes(main)),
        glossary=tuple(_glossary(shown)),
    )


def _glossary(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """What the columns of the first table mean."""
    tables = [table for section in sections for table in section.tables if table.key in ("domains", "sizes")]
    return [(column.name, f"{column.hint}.") for table in tables[:1] for column in table.columns if column.hint]


def _unlike(comparison: Document, sweep: Document) -> bool:
    """Whether the sweep is of another model than the comparison's full one, where both say what they are."""
    one, other = comparison["models"][0], (sweep.get("provenance") or {}).get("model") or {}
    return any(one.get(key) and other.get(key) and one[key] != other[key] for key in _IDENTITY)


def _subtitle(main: Document) -> str:
    rows = [row for row in main.get("rows") or [] if not row.get("versus")]
    tasks = rows or [task for task in main.get("tasks") or [] if "domain" in task]  # a comparison's are of lm-eval
    asked = sum(task["n"] for task in tasks)
    domains = list(dict.fromkeys(task["domain"] for task in tasks))
    if not domains:
        return ""
    return f"{counted(asked, 'question')} in {counted(len(domains), 'domain')}: {listed(domains)}"


def _facts(main: Document) -> list[tuple[str, str]]:
    """Command, prose, time and versions as names and values."""
    provenance = main.get("provenance") or {}
    found = [("command", provenance["command"])] if provenance.get("command") else []
    found += [("held-out prose", str(one.get("source", name))) for name, one in _texts(main)]
    found += _measured(main)
    versions = provenance.get("versions") or {}
    if versions:
        found.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items())))
    return found


def _settings(main: Document) -> list[tuple[str, str]]:
    """What was set, as names and values; what was left unset is left out."""
    settings = main.get("settings") or (main.get("models") or [{}])[0].get("settings") or {}
    return [(name.replace("_", " "), _plain_value(value)) for name, value in settings.items() if _is_set(value)]


def _is_set(value: Any) -> bool:
    return value is not None and value != [] and value != {}


def _texts(main: Document) -> list[tuple[str, Mapping[str, Any]]]:
    """The texts whose loss was measured, by their names: one, a list, or named."""
    text = (main.get("provenance") or {}).get("text")
    if not text:
        return []
    if isinstance(text, Mapping) and "sha256" in text:
        return [("prose", text)]
    named = text.items() if isinstance(text, Mapping) else enumerate(text)
    return [(str(name), one) for name, one in named if isinstance(one, Mapping)]


def _measured(main: Document) -> list[tuple[str, str]]:
    measured = main.get("measured")
    if isinstance(measured, list):
        told = [
            f"{one['model']} {plain(one['seconds'], 0)} s for {_answered(one)}"
            for one in measured
            if one.get("seconds") is not None and one.get("tokens") is not None
        ]
        return [("time", "; ".join(told))] if told else []
    if isinstance(measured, Mapping):
        return [(name.replace("_", " "), _plain_value(value)) for name, value in measured.items() if value is not None]
    return []


def _answered(one: Mapping[str, Any]) -> str:
    """`5 requests (1200 tokens), 300 known from before`; an old document does not count requests."""
    if one.get("asked") is None:
        return f"{one['tokens']} tokens"
    told = f"{counted(one['asked'], 'request')} ({one['tokens']} tokens)"
    return f"{told}, {one['known']} known from before" if one.get("known") else told


def _plain_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain_value(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list | tuple):
        return ", ".join(_plain_value(one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _hashes(main: Document) -> list[tuple[str, str]]:
    """What was read, and its SHA-256: models, questions, prose."""
    provenance = main.get("provenance") or {}
    found = []
    models = list(main.get("models") or [])
    if not models and isinstance(provenance.get("model"), Mapping):
        models = [provenance["model"]]
    for model in models:
        name = model.get("label") or model.get("model") or "model"
        if model.get("commit"):
            found.append((f"{name}: commit", str(model["commit"])))
        if model.get("config_sha256"):
            found.append((f"{name}: config.json", str(model["config_sha256"])))
        if model.get("content_sha256"):
            found.append((f"{name}: weights, config and tokenizer", str(model["content_sha256"])))
        found += [(f"{name}: header of {shard}", str(sha)) for shard, sha in (model.get("shards") or {}).items()]
    questions = provenance.get("questions")
    if isinstance(questions, Mapping):
        found += [(str(name), str(sha)) for name, sha in questions.items()]
    found += [(str(one.get("source", name)), str(one["sha256"])) for name, one in _texts(main) if one.get("sha256")]
    return found


def _notes(main: Document) -> list[str]:
    found = [f"{model['label']}: {note}" for model in main.get("models") or [] for note in model.get("notes") or []]
    found += [str(note) for note in main.get("notes") or []]
    truncated = main.get("truncated")
    cut = truncated if isinstance(truncated, Mapping) else {"": truncated} if truncated else {}
    for label, number in cut.items():
        if number:
            told = f"the start of {counted(number, 'request')} was cut to fit the context"
            found.append(f"{label}: {told}" if label else told)
    return list(dict.fromkeys(found))
