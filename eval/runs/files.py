"""The files of a run in lm-eval's shape, written, and read back as if the model had just been asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.asking.lm_eval_tasks import Passed
from eval.asking.tasks import TaskPlan
from eval.questions.schema import parse_question
from eval.runs.prose import Prose, Window
from eval.runs.samples import RunResult, Sample, sample_rows
from prune.common.errors import RegrowthError
from prune.common.outputs import write_text
from prune.common.provenance import read_artefact, versions

RUN = "regrowth.run/1"


_PER_TASK = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")


def is_stored(model: str | Path) -> bool:
    """Whether a path is the folder of a finished run (and not a model)."""
    return (Path(model) / "run.json").is_file() and not (Path(model) / "config.json").exists()


def read_run(folder: str | Path, *, label: str | None = None) -> RunResult:
    """The run of a folder; `label` renames it.

    Raises:
        CheckpointError: run.json is not of this format.
        RegrowthError: a file of the folder is missing, or does not hold what run.json says.
    """
    folder = Path(folder)
    document = read_artefact(folder / "run.json", RUN)
    try:
        name = document["model"]["label"]
        plans, samples = [], []
        for one in document["asked"]:
            rows = _lines(folder / f"samples_{name}_{one['task']}.jsonl")
            questions = tuple(parse_question(row.pop("doc")) for row in rows)
            plans.append(TaskPlan(one["domain"], one["protocol"], questions, one["thinking"], one["slow_tokens"]))
            samples += [Sample(**row) for row in rows]
        harness = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        passed = [
            Passed(**row) for task in document["passed"] for row in _lines(folder / f"samples_{name}_{task}.jsonl")
        ]
        return RunResult(
            label=label or name,
            identity={key: value for key, value in document["model"].items() if key != "label"},
            tasks=tuple(plans),
            samples=tuple(samples),
            harness=harness,
            prose={key: _prose(value) for key, value in document["windows"].items()},
            settings=document["settings"],
            seconds=document["measured"]["seconds"],
            tokens=document["measured"]["tokens"],
            truncated=document["truncated"],
            notes=tuple(document["notes"]),
            asked=document["measured"]["asked"],
            known=document["measured"]["known"],
            passed=tuple(passed),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = (
            f"no field {error}" if isinstance(error, KeyError) else (str(error) or type(error).__name__).splitlines()[0]
        )
        raise RegrowthError(f"{folder} is not a whole run ({why}); run `evaluate run` again") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _prose(raw: dict[str, Any]) -> Prose:
    return Prose(tuple(Window(*window) for window in raw["windows"]), raw["sha256"])


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
    document["regrowth"] = {"prose": {r.label: _prose_losses(r) for r in runs if r.prose}}
    plain: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return plain


def _prose_losses(result: RunResult) -> dict[str, dict[str, float]]:
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
