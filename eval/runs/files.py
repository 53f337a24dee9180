"""A finished run as its folder holds it: what `evaluate run --out` wrote, read back as if it had just been asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.asking.lm_eval_tasks import Passed
from eval.asking.tasks import TaskPlan
from eval.runs.prose import Prose, Window
from eval.questions.schema import parse_question
from eval.runs.run import RunResult, Sample
from prune.common.errors import RegrowthError
from prune.common.provenance import read_artefact

RUN = "regrowth.run/1"


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
