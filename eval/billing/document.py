"""run.json: one model's scores, and what a reader must see before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.billing.bill import FEW, DomainRow, bill, bill_prose
from eval.billing.tasks import bill_tasks
from eval.billing.thinking import bill_thinking
from eval.billing.unparsed import unparsed_warnings
from eval.runs.files import harness_results, measured, passed_names, write_samples
from eval.runs.samples import RunResult
from prune.common.outputs import staged_directory, write_json
from prune.common.provenance import provenance


def warn(rows: Sequence[DomainRow], runs: Sequence[RunResult]) -> list[str]:
    """What a reader must see before the numbers: few questions, prompts that lost their start, memory that ran out."""
    found = [
        f"{row.domain} {row.protocol} has {row.n} questions; below {FEW} an interval says little"
        for row in rows
        if row.few and row.versus is None
    ]
    found += _unlike(runs)
    found += [f"{r.label}: the start of {_cut(r.truncated)} was cut to fit the context" for r in runs if r.truncated]
    return found + [f"{r.label}: {note}" for r in runs for note in r.notes]


def _unlike(runs: Sequence[RunResult]) -> list[str]:
    """What was not the same for all models, and so may be a part of their differences; what only some were asked."""
    found = []
    for name in ("dtype", "backend", "max_length"):
        values = {r.label: str(r.settings.get(name)) for r in runs}
        if len(set(values.values())) > 1:
            each = ", ".join(f"{value} ({label})" for label, value in values.items())
            found.append(f"not the same {name} for all models: {each}; a part of the differences may be its")
    own = {task.name for task in runs[0].tasks}
    for result in runs[1:]:
        if more := [task.name.removeprefix("regrowth_") for task in result.tasks if task.name not in own]:
            found.append(f"{result.label} was asked {', '.join(more)} too, and {runs[0].label} was not: left out")
    return found


def _cut(requests: int) -> str:
    """A question with choices is one request for each of them, so there are more of these than prompts."""
    return f"{requests} {'request' if requests == 1 else 'requests'}"


def describe_run(result: RunResult) -> dict[str, Any]:
    """What `evaluate run --json` prints: scores per domain and protocol, without comparing to anything."""
    rows = [bill(t, result.label, result.of(t), None) for t in result.tasks if t.thinking is None]
    return {
        "format": "regrowth.run/1",
        "model": {"label": result.label, **result.identity},
        "settings": result.settings,
        "asked": [
            {
                "task": t.name,
                "domain": t.domain,
                "protocol": t.protocol,
                "thinking": t.thinking,
                "slow_tokens": t.slow_tokens,
            }
            for t in result.tasks
        ],
        "passed": passed_names(result),
        "rows": (shown := [asdict(row) for row in rows]),
        "thinking": (thinking := [row.as_document() for row in bill_thinking([result])]),
        "prose": [asdict(bill_prose(result.label, name, prose, None)) for name, prose in result.prose.items()],
        "tasks": [asdict(row) for row in bill_tasks([result])],
        "windows": {
            name: {"sha256": prose.sha256, "windows": [[w.nats, w.tokens, w.bytes] for w in prose.windows]}
            for name, prose in result.prose.items()
        },
        "warnings": [*warn(rows, [result]), *unparsed_warnings(shown, thinking)],
        "truncated": result.truncated,
        "notes": list(result.notes),
        "measured": measured(result),
        "provenance": provenance(),
    }


def write_run(result: RunResult, out: str | Path, *, overwrite: bool = False) -> None:
    """Write results.json, run.json and the samples of one model to the folder `out`, whole or not at all."""
    with staged_directory(out, overwrite=overwrite) as stage:
        write_json(stage / "results.json", harness_results([result]))
        write_json(stage / "run.json", describe_run(result))
        write_samples([result], stage)
