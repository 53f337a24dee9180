"""The files of a run that have lm-eval's shape: results.json, and one file of samples for each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.questions.schema import Question, parse_question
from eval.runs.samples import RunResult, Sample
from prune.common.files.outputs import write_json_lines
from prune.common.files.provenance import versions

PER_TASK = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")


def harness_results(runs: Sequence[RunResult]) -> dict[str, Any]:
    """One document with lm-eval's keys; with more than one model each task is named `<model>/<task>`.

    What we add stands under `regrowth`. What tells about the machine and not about the models is left out.
    """
    document: dict[str, Any] = {**{key: {} for key in PER_TASK}, "group_subtasks": {}}
    for result in runs:
        prefix = f"{result.label}/" if len(runs) > 1 else ""
        for key in PER_TASK:
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
    losses = ("nats_per_token", "bits_per_byte")
    prose = {r.label: {text: {key: getattr(p, key) for key in losses} for text, p in r.prose.items()} for r in runs}
    document["regrowth"] = {"prose": {label: texts for label, texts in prose.items() if texts}}
    plain: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return plain


def write_samples(runs: Sequence[RunResult], folder: Path) -> None:
    """Write `samples_<model>_<task>.jsonl`: one line per question, in the drawn order, the question under `doc`."""
    for result in runs:
        for task in result.tasks:
            pairs = zip(result.of(task), task.questions, strict=True)
            rows = [{**asdict(sample), "doc": question.as_row()} for sample, question in pairs]
            _write_lines(folder, result, task.name, rows)
        for name in logged_names(result):
            _write_lines(folder, result, name, [asdict(answer) for answer in result.logged if answer.task == name])


def _write_lines(folder: Path, result: RunResult, task: str, rows: Sequence[dict[str, Any]]) -> None:
    write_json_lines(folder / f"samples_{result.label}_{task}.jsonl", rows)


def logged_names(result: RunResult) -> list[str]:
    """The tasks of lm-eval that were asked, in order."""
    return list(dict.fromkeys(answer.task for answer in result.logged))


def read_samples(path: Path) -> tuple[tuple[Question, ...], list[Sample]]:
    """The questions and answers of a file that `write_samples` wrote; raises what reading any other file does."""
    rows = read_lines(path)
    questions = tuple(parse_question(row.pop("doc")) for row in rows)
    return questions, [Sample(**row) for row in rows]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8 text, or a line (named, 1-based) is no JSON object.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object")
        rows.append(row)
    return rows
