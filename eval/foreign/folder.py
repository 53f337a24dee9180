"""A folder of plain lm-eval output: results_<date>.json and samples_<task>_<date>.jsonl, of one model, of any dates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.asking.lm_eval_tasks import leaves
from eval.runs.files import PER_TASK, read_lines
from prune.common.errors import RegrowthError
from prune.common.files.provenance import digest

_DATED = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.-]+)\.json")
_HASHES = ("doc_hash", "prompt_hash", "target_hash")  # of a sample
Row = Mapping[str, Any]


@dataclass(frozen=True)
class LoggedRun:
    """What lm-eval wrote of one model.

    harness: its results, by its own keys, the newest of each task. samples: by task, in lm-eval's order. facts: the
    newest results file whole, which tells of the model. dates: of the files that were read, the newest first.
    """

    folder: Path
    harness: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]
    facts: dict[str, Any]
    dates: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def tasks(self) -> list[str]:
        """The tasks, without groups."""
        return list(self.samples)

    @property
    def model(self) -> str:
        """What lm-eval says was asked."""
        return model_of(self.facts)

    @property
    def version(self) -> str:
        """Of lm-eval, which older ones do not log."""
        return str(self.facts.get("lm_eval_version") or "of an unknown version")


def read_folder(folder: str | Path) -> LoggedRun:
    """Read a folder that lm-eval's --output_path made, or the one of the model in it.

    Of a task that was run on several dates the newest is taken.

    Raises:
        RegrowthError: no results of lm-eval, those of several models, or no samples; a file that cannot be read.
    """
    folder = Path(folder)
    dated = {path: found[1] for path in folder.rglob("*.json") if (found := _DATED.search(path.name))}
    if not dated:
        raise RegrowthError(f"{folder} holds no results_<date>.json of lm-eval; name what its --output_path made")
    if len(places := sorted({path.parent for path in dated})) > 1:
        names = ", ".join(str(place.relative_to(folder)) for place in places)
        raise RegrowthError(f"{folder} holds the results of several models ({names}); name one of these folders")
    newest = sorted(dated, key=lambda path: dated[path], reverse=True)
    documents = {dated[path]: _results(path) for path in newest}
    facts = next(iter(documents.values()))
    for document in documents.values():
        if model_of(document) != model_of(facts):
            both = f"{model_of(document)} and {model_of(facts)}"
            raise RegrowthError(f"{folder} holds the results of several models ({both}); keep each in its own folder")
    harness: dict[str, Any] = {**{key: {} for key in PER_TASK}, "groups": {}, "group_subtasks": {}}
    samples: dict[str, list[dict[str, Any]]] = {}
    older: list[str] = []
    for date, document in documents.items():
        new = [task for task in document["configs"] if task in document["results"] and task not in samples]
        older += [task for task in document["configs"] if task in samples]
        for task in new:
            samples[task] = _samples(newest[0].parent / f"samples_{task}_{date}.jsonl")
            for key in PER_TASK:
                if task in document.get(key, {}):
                    harness[key][task] = document[key][task]
            harness["results"][task] = {"sample_len": _questions(samples[task]), **document["results"][task]}
        _take_groups(document, harness, new, samples)
    told = [f"{', '.join(dict.fromkeys(older))} was run on several dates: the newest is taken"] if older else []
    return LoggedRun(folder, harness, samples, facts, tuple(documents), tuple(told))


def _take_groups(document: Row, harness: dict[str, Any], new: list[str], samples: Mapping[str, list[Any]]) -> None:
    """Groups all of whose tasks are of this document."""
    parts: dict[str, list[str]] = {group: list(tasks) for group, tasks in document.get("group_subtasks", {}).items()}
    for group, values in document.get("groups", {}).items():
        tasks = leaves(parts, group)
        if tasks and set(tasks) <= set(new) and group not in harness["groups"]:
            asked = sum(_questions(samples[task]) for task in tasks)
            harness["groups"][group] = values
            harness["results"][group] = {"sample_len": asked, **values}
            for name in (group, *_inner(parts, group)):
                harness["group_subtasks"][name] = parts[name]
            if group in document.get("higher_is_better", {}):
                harness["higher_is_better"][group] = document["higher_is_better"][group]


def _inner(parts: Mapping[str, list[str]], group: str) -> list[str]:
    return [inner for part in parts[group] if parts.get(part) for inner in (part, *_inner(parts, part))]


def model_of(facts: Row) -> str:
    """The model of a results file, by whatever name that version of lm-eval gave it."""
    given = model_args(facts)
    return str(facts.get("model_name") or given.get("pretrained") or given.get("model") or "unknown")


def model_args(facts: Row) -> dict[str, Any]:
    """What lm-eval was told of the model, which older ones log as one text."""
    given = facts.get("config", {}).get("model_args") or {}
    return dict(part.partition("=")[::2] for part in given.split(",")) if isinstance(given, str) else dict(given)


def _results(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise RegrowthError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(document, dict) or not {"results", "configs"} <= document.keys():
        raise RegrowthError(f"{path} is no results file of lm-eval: it has no results and configs")
    return document


def _samples(path: Path) -> list[dict[str, Any]]:
    try:
        rows = read_lines(path)
    except FileNotFoundError:
        raise RegrowthError(f"{path} does not exist; run lm-eval with --log_samples") from None
    except (ValueError, RecursionError, OSError) as error:
        raise RegrowthError(f"{path} cannot be read as JSON lines ({error})") from None
    if not rows:
        raise RegrowthError(f"{path} holds no samples")
    for number, row in enumerate(rows, start=1):
        if missing := [name for name in ("doc_id", "doc", "target", "arguments", "filtered_resps") if name not in row]:
            raise RegrowthError(f"{path}:{number} is no sample of lm-eval: it has no {missing[0]}")
    return rows


def _questions(rows: list[dict[str, Any]]) -> int:
    return len({row["doc_id"] for row in rows})


def hashes(row: Row) -> tuple[str, str, str]:
    """Of a sample's document, prompt and target, as lm-eval has them or as they follow from it."""
    found = (row.get(name) for name in _HASHES)
    made = (row["doc"], requests(row)[0][:1], str(row["target"]))
    doc, prompt, target = (str(given or digest([other])) for given, other in zip(found, made, strict=True))
    return doc, prompt, target


def level_hashes(runs: Sequence[LoggedRun]) -> list[LoggedRun]:
    """The runs without lm-eval's hashes of a task where one of them has none, as of an older lm-eval.

    Such a task is paired by hashes of ours in all runs: the two kinds cannot be compared.
    """
    missing: dict[str, set[str]] = {}
    for run in runs:
        for task, rows in run.samples.items():
            missing.setdefault(task, set()).update(n for n in _HASHES if not all(row.get(n) for row in rows))
    return [
        replace(
            run,
            samples={
                task: [{name: value for name, value in row.items() if name not in missing[task]} for row in rows]
                if missing[task]
                else rows
                for task, rows in run.samples.items()
            },
        )
        for run in runs
    ]


def requests(row: Row) -> list[list[Any]]:
    """A sample's requests: context, and continuation or generation settings."""
    given = row["arguments"]
    return (
        [list(each.values()) for each in given.values()] if isinstance(given, dict) else [list(each) for each in given]
    )


def check_alike(full: LoggedRun, other: LoggedRun) -> list[str]:
    """Refuse two folders that were not asked the same; what one was asked besides is told.

    Raises:
        RegrowthError: a task, its version, its questions, prompts or targets differ; the line names both folders.
    """
    both = f"{full.folder} and {other.folder}"
    for task in full.tasks:
        if task not in other.samples:
            raise RegrowthError(f"not paired: {full.folder} has task {task}, and {other.folder} has not")
        before, after = (run.harness["versions"].get(task) for run in (full, other))
        if before != after:
            raise RegrowthError(
                f"not paired: task {task} has version {before} in {full.folder} and {after} in "
                f"{other.folder}; run both with one"
            )
        first, second = ({row["doc_id"]: hashes(row) for row in run.samples[task]} for run in (full, other))
        if first.keys() != second.keys():
            raise RegrowthError(
                f"not paired: {both} were not asked the same questions of task {task} "
                f"({len(first)} and {len(second)}); run both with one --limit"
            )
        for number, told in first.items():
            unlike = [
                what
                for what, a, b in zip(("document", "prompt", "target"), told, second[number], strict=True)
                if a != b
            ]
            if unlike:
                raise RegrowthError(
                    f"not paired: question {number} of task {task} has another {unlike[0]} in "
                    f"{full.folder} than in {other.folder}; run both with the same task files, examples "
                    "and chat template"
                )
    more = [task for task in other.tasks if task not in full.samples]
    return [f"it was asked {', '.join(more)} too, and the full model was not: left out"] if more else []
