"""A folder of lm-eval as the answers of one model, such as `evaluate run` gives: by domain, protocol and task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.asking.lm_eval_tasks import LoggedAnswer, is_plain, leaves
from eval.asking.tasks import TaskPlan
from eval.foreign.answers import Answer, TaskAnswers, by_filter, read_task
from eval.foreign.folder import LoggedRun, hashes, model_args
from eval.questions.schema import cluster_of
from eval.runs.samples import RunResult, Sample
from eval.settings import PROTOCOLS
from prune.common.files.provenance import digest

_FEWEST = 2  # questions of a domain and protocol: an interval needs as many


def _read_answers(run: LoggedRun, tasks: Sequence[str], wanted: str | None) -> dict[str, TaskAnswers]:
    """The answers of some tasks; errors as of `read_task`."""
    found = {}
    for task in tasks:
        filters = by_filter(task, run.samples[task], run.harness["results"][task])
        found[task] = read_task(task, run.harness["configs"][task], filters, wanted)
    return found


def as_result(
    run: LoggedRun,
    label: str,
    tasks: Sequence[str],
    domains: Mapping[str, Sequence[str]],
    wanted: str | None = None,
    *,
    first: bool = True,
) -> RunResult:
    """What the model of a folder answered to some tasks.

    Args:
        tasks: those that are billed, which the full model has.
        domains: domain -> some of these tasks.
        wanted: the filter that counts where a task has several.
        first: whether this is the full model, whose notes are told of what all runs have in common.

    Raises:
        UsageError, RegrowthError: as of `read_task`.
    """
    read = _read_answers(run, tasks, wanted)
    placed = {task for some in domains.values() for task in some}
    common = [note for answers in read.values() for note in answers.notes]
    if lone := [task for task in tasks if task not in placed]:
        common.append(f"{', '.join(lone)}: of no domain, and among lm-eval's tasks alone; --mapping puts them in one")
    plans: list[TaskPlan] = []
    samples: list[Sample] = []
    for domain, protocol, answers in _parts(read, domains):
        if len({cluster_of(answer.question) for answer in answers}) < _FEWEST:
            common.append(f"{domain} {protocol}: one question is too little for an interval: left out")
            continue
        if not all(a.answer_nll_bits is not None for a in answers):
            answers = [replace(answer, answer_nll_bits=None) for answer in answers]
        plans.append(TaskPlan(domain, protocol, tuple(replace(a.question, domain=domain) for a in answers)))
        samples += [_sample(answer, domain, protocol) for answer in answers]
    config = run.facts.get("config", {})
    return RunResult(
        label=label,
        identity={"model": run.model, "commit": config.get("model_sha") or None},
        tasks=tuple(plans),
        samples=tuple(samples),
        harness=_only(run.harness, tasks),
        prose={},
        settings=asked_how(run, tasks),
        seconds=float(run.facts.get("total_evaluation_time_seconds") or 0.0),
        tokens=0,
        truncated=0,
        notes=tuple(dict.fromkeys([*run.notes, *(common if first else [])])),
        asked=sum(len(run.samples[task]) for task in tasks),
        logged=tuple(_logged(run, tasks)),
    )


def _parts(
    read: Mapping[str, TaskAnswers], domains: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, list[Answer]]]:
    """The answers of each domain, protocol by protocol."""
    for domain, some in domains.items():
        for protocol in PROTOCOLS:
            answers = [a for task in some if read[task].protocol == protocol for a in read[task].answers]
            if answers:
                yield domain, protocol, answers


def _sample(answer: Answer, domain: str, protocol: str) -> Sample:
    return Sample(
        id=answer.question.id,
        domain=domain,
        protocol=protocol,
        subject=answer.question.subject,
        source=answer.question.source,
        correct=answer.correct,
        correct_raw=answer.correct_raw,
        answer_nll_bits=answer.answer_nll_bits,
        parsed=answer.parsed,
        response=answer.response,
        prompt_hash=answer.prompt_hash,
        cluster=cluster_of(answer.question),
    )


def _logged(run: LoggedRun, tasks: Sequence[str]) -> Iterator[LoggedAnswer]:
    for task in tasks:
        results = run.harness["results"][task]
        for name, rows in by_filter(task, run.samples[task], results).items():
            metrics = {key.partition(",")[0] for key in results if key.endswith(f",{name}")}
            for row in rows:
                yield LoggedAnswer(
                    task=task,
                    filter=name,
                    doc_id=int(row["doc_id"]),
                    prompt_hash=digest(list(hashes(row))),
                    target=str(row["target"]),
                    response=str(row["filtered_resps"][0]),
                    scores={m: float(row[m]) for m in metrics if is_plain(row.get(m))},
                )


def _only(harness: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """lm-eval's results of some tasks, and of the groups that are made of them alone."""
    parts = harness["group_subtasks"]
    groups = [group for group in harness["groups"] if set(leaves(parts, group)) <= set(tasks)]
    kept = {*tasks, *groups}
    return {
        key: {name: value for name, value in values.items() if name in kept or key == "group_subtasks"}
        for key, values in harness.items()
    }


def asked_how(run: LoggedRun, tasks: Sequence[str]) -> dict[str, Any]:
    """How lm-eval asked, by the names that a run of ours has for it; what it did not log is `unknown`."""
    facts, config = run.facts, run.facts.get("config", {})
    given = model_args(facts)
    shots = {task: run.harness["n-shot"].get(task) for task in tasks}
    four = str(given.get("load_in_4bit", "")).lower() == "true"
    return {
        "batch_size": config.get("batch_size") or "unknown",
        "dtype": str(config.get("model_dtype") or given.get("dtype") or "unknown").removeprefix("torch."),
        "max_length": facts.get("max_length"),
        "chat_template": bool(facts.get("chat_template_sha") or facts.get("chat_template")),
        "weights": "nf4" if four else str(given.get("quantization") or "as stored"),
        "device": config.get("device") or "an unknown device",
        "backend": f"lm-eval {run.version} ({config.get('model', 'unknown')})",
        "few_shot": next(iter(shots.values())) if len(set(shots.values())) == 1 else None,
        "shots": shots,
        "limit": config.get("limit"),
        "seed": config.get("random_seed", 0),
        "thinking": [],
        "prompts": None,
        "dates": list(run.dates),
    }
