"""The folder of one run: run.json, samples and results.json, written, and read back as if just asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from eval.asking.lm_eval_tasks import LoggedAnswer
from eval.asking.tasks import TaskPlan
from eval.billing.artefacts import AskedModel, AskedTask, Effort, Run
from eval.billing.rows.bill import FEW, DomainRow, bill, bill_nf4, bill_prose
from eval.billing.rows.letters import letters_warnings
from eval.billing.rows.needles import bill_needles, needle_warnings
from eval.billing.rows.tasks import bill_tasks
from eval.billing.rows.thinking import ThinkingRow, bill_thinking
from eval.billing.rows.unparsed import unparsed_warnings
from eval.runs.files import harness_results, logged_names, read_lines, read_samples, write_samples
from eval.runs.samples import RunResult
from prune.common.errors import RegrowthError, first_line
from prune.common.files.outputs import staged_directory, write_json
from prune.common.files.provenance import provenance

_RUN = "run.json"


def warn(rows: Sequence[DomainRow], thinking: Sequence[ThinkingRow], runs: Sequence[RunResult]) -> tuple[str, ...]:
    """What a reader must see before the numbers: few questions, prompts that lost their start, unparsed answers."""
    lines = [
        f"{row.domain} {row.protocol} has {row.n} questions; below {FEW} an interval says little"
        for row in rows
        if row.few and row.versus is None
    ]
    lines += _differences(runs)
    lines += [f"{r.label}: the start of {_cut(r.truncated)} was cut to fit the context" for r in runs if r.truncated]
    lines += [f"{r.label}: {note}" for r in runs for note in r.notes]
    lines += needle_warnings(runs)
    lines += letters_warnings(runs)
    return (*lines, *unparsed_warnings([asdict(row) for row in rows], [asdict(row) for row in thinking]))


def _differences(runs: Sequence[RunResult]) -> list[str]:
    """What was not the same for all models, and so may be a part of their differences; what only some were asked."""
    lines = []
    for name, usual in (("dtype", None), ("weights", "as stored"), ("backend", None), ("max_length", None)):
        values = {r.label: str(r.settings.get(name, usual)) for r in runs}
        if len(set(values.values())) > 1:
            each = ", ".join(f"{value} ({label})" for label, value in values.items())
            lines.append(f"not the same {name} for all models: {each}; a part of the differences may be its")
    sizes = {r.label: _batch_sizes(r) for r in runs}
    if len(set().union(*sizes.values())) > 1 and any(r.settings.get("dtype") != "float32" for r in runs):
        each = ", ".join(f"{' and '.join(map(str, sorted(some)))} ({label})" for label, some in sizes.items() if some)
        lines.append(f"not the same batch_size for all answers: {each}; a part of the differences may be its")
    asked = {task.name for task in runs[0].tasks}
    for run in runs[1:]:
        if more := [task.name.removeprefix("regrowth_") for task in run.tasks if task.name not in asked]:
            lines.append(f"{run.label} was asked {', '.join(more)} too, and {runs[0].label} was not: left out")
    return lines


def _batch_sizes(run: RunResult) -> set[int]:
    """How many requests were asked at a time, in any answer of which it is known."""
    if by_size := run.settings.get("batch_sizes"):
        return {int(size) for size in by_size if size != "unknown"}
    size = run.settings.get("batch_size")
    return {size} if isinstance(size, int) else set()


def _cut(requests: int) -> str:
    """A question with choices is one request for each of them, so there are more of these than prompts."""
    return f"{requests} {'request' if requests == 1 else 'requests'}"


def describe_run(result: RunResult) -> Run:
    """Scores per domain and protocol, without comparing to anything."""
    rows = tuple(bill(t, result.label, result.of(t), None) for t in result.tasks if t.thinking is None)
    thinking = tuple(bill_thinking([result]))
    return Run(
        model=AskedModel(label=result.label, **result.identity),
        settings=result.settings,
        asked=tuple(
            AskedTask(task=t.name, domain=t.domain, protocol=t.protocol, thinking=t.thinking, slow_tokens=t.slow_tokens)
            for t in result.tasks
        ),
        logged=tuple(logged_names(result)),
        rows=rows,
        thinking=thinking,
        prose=tuple(bill_prose(result.label, name, prose, None) for name, prose in result.prose.items()),
        nf4_loss=bill_nf4(result.label, result.prose, result.stored_prose),
        needles=tuple(bill_needles([result])),
        tasks=tuple(bill_tasks([result])),
        windows=result.prose,
        stored_windows=result.stored_prose,
        needle_trials=result.needles,
        warnings=warn(rows, thinking, [result]),
        truncated=result.truncated,
        notes=result.notes,
        measured=Effort.of(result),
        provenance=provenance(),
    )


def write_run(result: RunResult, out: str | Path, *, overwrite: bool = False) -> None:
    """Write the folder `out`, whole or not at all."""
    with staged_directory(out, overwrite=overwrite) as stage:
        write_json(stage / "results.json", harness_results([result]))
        describe_run(result).write(stage / _RUN)
        write_samples([result], stage)


def is_stored(model: str | Path) -> bool:
    """Whether a path is the folder of a finished run (and not a model)."""
    return (Path(model) / _RUN).is_file() and not (Path(model) / "config.json").exists()


def read_run(folder: str | Path, *, label: str | None = None) -> RunResult:
    """The run of a folder; `label` renames it.

    Raises:
        CheckpointError: run.json is damaged or of another version.
        RegrowthError: a file of the folder is missing, or does not hold what run.json says.
    """
    folder = Path(folder)
    run = Run.read(folder / _RUN)
    files = f"samples_{run.model.label}_"
    try:
        plans, samples = [], []
        for task in run.asked:
            questions, answers = read_samples(folder / f"{files}{task.task}.jsonl")
            plans.append(TaskPlan(task.domain, task.protocol, questions, task.thinking, task.slow_tokens))
            samples += answers
        logged = [LoggedAnswer(**row) for task in run.logged for row in read_lines(folder / f"{files}{task}.jsonl")]
        harness = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"no field {error}" if isinstance(error, KeyError) else first_line(error)
        raise RegrowthError(f"{folder} is not a whole run ({why}); {Run.AGAIN}") from error
    return RunResult(
        label=label or run.model.label,
        identity=run.model.model_dump(exclude={"label"}, exclude_none=True),
        tasks=tuple(plans),
        samples=tuple(samples),
        harness=harness,
        prose=run.windows,
        settings=run.settings,
        seconds=run.measured.seconds,
        tokens=run.measured.tokens,
        truncated=run.truncated,
        notes=run.notes,
        asked=run.measured.asked,
        known=run.measured.known,
        logged=tuple(logged),
        needles=run.needle_trials,
        stored_prose=run.stored_windows,
    )
