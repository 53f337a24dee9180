"""`evaluate compare`: the same questions to the full model and to others, and the bill with its error bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.artefacts import harness_results, write_samples
from eval.bill import ProseRow, Row, bill, bill_prose
from eval.running import RunResult, name_of, run
from eval.tasks import plan_tasks
from eval.thinking_bill import ThinkingRow, bill_thinking
from prune.errors import UsageError
from prune.models import locate
from prune.outputs import check_free, staged_directory, write_json, write_text
from prune.provenance import file_sha256, provenance
from prune.text import text_identity

FORMAT = "regrowth.comparison/1"


@dataclass(frozen=True)
class Comparison:
    """The whole bill: one row per domain, protocol and model, the full model first in each group."""

    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    prose: tuple[ProseRow, ...]
    runs: tuple[RunResult, ...]
    thinking: tuple[ThinkingRow, ...] = ()

    def as_document(self, **facts: Any) -> dict[str, Any]:
        """The JSON of comparison.json; everything but `measured` and `provenance` hangs on the inputs alone."""
        return {
            "format": FORMAT,
            "models": [
                {"label": r.label, **r.identity, "settings": r.settings, "notes": list(r.notes)} for r in self.runs
            ],
            "rows": [asdict(row) for row in self.rows],
            "prose": [asdict(row) for row in self.prose],
            "thinking": [row.as_document() for row in self.thinking],
            "truncated": {r.label: r.truncated for r in self.runs},
            "measured": [{"label": r.label, "seconds": round(r.seconds, 1), "tokens": r.tokens} for r in self.runs],
            "provenance": provenance(**facts),
        }


def compare(
    full: str | Path,
    others: Sequence[str | Path],
    *,
    data: str | Path,
    domains: str | Iterable[str],
    out: str | Path,
    limit: int | None = None,
    seed: int = 0,
    sets: Iterable[str] | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    text: str | None = None,
    field: str = "text",
    labels: Sequence[str] | None = None,
    overwrite: bool = False,
    shown: bool = True,
) -> dict[str, Any]:
    """Run each model on the same questions, one after the other, and write the bill to the folder `out`.

    `out` appears whole or not at all: results.json, samples_<model>_<task>.jsonl, comparison.json, comparison.md,
    comparison.png. Options are those of `run`; `labels` name the models, full first (their folder names if None).

    Returns:
        The document of comparison.json.

    Raises:
        UsageError: no other model, labels that do not fit, an unknown domain.
        RegrowthError: anything that `run` raises; models that were not asked the same questions in the same words.
    """
    models = [full, *others]
    if len(models) < 2:
        raise UsageError("compare needs the full model and one other at least")
    names = unique_labels(models, labels)
    out = check_free(out, overwrite=overwrite)
    sets = None if sets is None else list(sets)
    plans = plan_tasks(data, domains, limit=limit, seed=seed, sets=sets)  # all inputs are checked before the first run
    for model in models:
        locate(model)
    runs = [
        run(
            model,
            data=data,
            domains=domains,
            limit=limit,
            seed=seed,
            sets=sets,
            batch_size=batch_size,
            max_length=max_length,
            dtype=dtype,
            device=device,
            text=text,
            field=field,
            label=name,
            shown=shown,
        )
        for model, name in zip(models, names, strict=True)
    ]
    found = bill_runs(runs)
    document = found.as_document(
        questions={path: file_sha256(Path(data) / path) for path in sorted({f"{p.domain}.jsonl" for p in plans})},
        text=None if text is None else text_identity(text, field),
        limit=limit,
        seed=seed,
        sets=sets,
    )
    write_comparison(found, document, out, overwrite=overwrite)
    return document


def bill_runs(runs: Sequence[RunResult]) -> Comparison:
    """Pair every run with the first (the full model) and sum up."""
    first = runs[0]
    rows = [
        bill(t.domain, t.protocol, r.label, t.chance, r.of(t), None if r is first else first.of(t))
        for t in first.tasks
        if t.thinking is None
        for r in runs
    ]
    prose = [bill_prose(r.label, r.prose, None if r is first else first.prose) for r in runs if r.prose is not None]
    thinking = tuple(bill_thinking(runs))
    return Comparison(tuple(r.label for r in runs), tuple(rows), tuple(prose), tuple(runs), thinking)


def unique_labels(models: Sequence[str | Path], labels: Sequence[str] | None = None) -> list[str]:
    """Names for the models: as given, else their folders' names, numbered where two are alike.

    Raises:
        UsageError: labels that are not one each, not unique, or that a file name cannot hold.
    """
    if labels is not None:
        if len(labels) != len(models):
            raise UsageError(f"--labels names {len(labels)} models, but there are {len(models)}")
        if len(set(labels)) < len(labels) or not all(label.strip() and "/" not in label for label in labels):
            raise UsageError("--labels must be unlike each other, not empty and without a slash")
        return list(labels)
    names: list[str] = []
    for model in models:
        base, number = name_of(model), 2
        name = base
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def write_comparison(found: Comparison, document: dict[str, Any], out: str | Path, *, overwrite: bool = False) -> None:
    """Write all files of a comparison into a staged folder, which then becomes `out`."""
    from eval.plots import plot_comparison
    from eval.tables import markdown

    with staged_directory(out, overwrite=overwrite) as stage:
        write_json(stage / "results.json", harness_results(found.runs))
        write_samples(found.runs, stage)
        write_json(stage / "comparison.json", document)
        write_text(stage / "comparison.md", markdown(found))
        plot_comparison(found, stage / "comparison.png")
