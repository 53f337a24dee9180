"""Files of a run or comparison in lm-eval's shape: results.json and one JSONL of samples per model and task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.billing.bill import FEW, Row, bill, bill_prose
from eval.billing.tasks import bill_tasks
from eval.billing.thinking import bill_thinking
from eval.billing.unparsed import unparsed_warnings
from eval.runs.run import RunResult, sample_rows
from prune.common.outputs import staged_directory, write_json, write_text
from prune.common.provenance import provenance, versions

_PER_TASK = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")


def harness_results(runs: Sequence[RunResult]) -> dict[str, Any]:
    """One document with lm-eval's keys; with more than one model each task is named `<model>/<task>`.

    What we add stands under `regrowth`. What tells about the machine and not about the models is left out.
    """
    document: dict[str, Any] = {**{key: {} for key in _PER_TASK}, "group_subtasks": {}}
    for result in runs:
        prefix = f"{result.label}/" if len(runs) > 1 else ""
        for key in _PER_TASK:
            for task, value in result.harness.get(key, {}).items():
                document[key][prefix + task] = value
        for task in result.harness.get("results", {}):
            document["results"][prefix + task] = {**document["results"][prefix + task], "alias": prefix + task}
        for group, value in result.harness.get("groups", {}).items():
            document.setdefault("groups", {})[prefix + group] = {**value, "alias": prefix + group}
        for group, tasks in result.harness.get("group_subtasks", {}).items():
            if tasks:
                document["group_subtasks"][prefix + group] = [prefix + task for task in tasks]
    document["config"] = {
        r.label: {"model": r.settings["backend"], "model_args": r.identity["model"], **r.settings} for r in runs
    }
    document["lm_eval_version"] = versions().get("lm-eval", "")
    document["transformers_version"] = versions().get("transformers", "")
    document["regrowth"] = {"prose": {r.label: _prose(r) for r in runs if r.prose}}
    plain: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return plain


def _prose(result: RunResult) -> dict[str, dict[str, float]]:
    return {
        name: {"nats_per_token": prose.nats_per_token, "bits_per_byte": prose.bits_per_byte}
        for name, prose in result.prose.items()
    }


def write_samples(runs: Sequence[RunResult], folder: Path) -> None:
    """Write `samples_<model>_<task>.jsonl`: one line per question, in the drawn order, the question under `doc`."""
    for result in runs:
        for task in result.tasks:
            rows = zip(sample_rows(result.of(task)), task.questions, strict=True)
            _write_lines(folder, result, task.name, [{**row, "doc": q.as_row()} for row, q in rows])
        for name in passed_names(result):
            _write_lines(folder, result, name, [asdict(one) for one in result.passed if one.task == name])


def _write_lines(folder: Path, result: RunResult, task: str, rows: Sequence[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_text(folder / f"samples_{result.label}_{task}.jsonl", lines)


def passed_names(result: RunResult) -> list[str]:
    """The tasks of lm-eval that were asked, in order."""
    return list(dict.fromkeys(one.task for one in result.passed))


def measured(result: RunResult) -> dict[str, Any]:
    """What a run took: seconds and tokens now, requests answered now and known from before."""
    seconds = round(result.seconds, 1)
    return {"seconds": seconds, "tokens": result.tokens, "asked": result.asked, "known": result.known}


def warn(rows: Sequence[Row], runs: Sequence[RunResult]) -> list[str]:
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
    rows = [
        bill(t.domain, t.protocol, result.label, t.chance, result.of(t), None, t.answer_bytes)
        for t in result.tasks
        if t.thinking is None
    ]
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
