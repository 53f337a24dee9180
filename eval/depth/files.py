"""From what was measured to depth.json, and its folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.billing.rows.thinking import bill_thinking
from eval.billing.rows.unparsed import unparsed_warnings
from eval.billing.sweep import Cost
from eval.depth import scores
from eval.depth.agreement import disagreements, rank_agreement
from eval.depth.analysis import domain_interactions, events, measure_interactions
from eval.depth.document import DepthRecord, DepthVariant, WrittenVariant
from eval.depth.measures import TaskMeasures
from eval.depth.pages.showing import markdown
from eval.depth.plan import middle
from eval.depth.settings import DepthSettings
from eval.depth.similarity.fast_slow import FastSlowSimilarity
from eval.depth.walking import WalkedTasks
from eval.runs.samples import RunResult
from eval.sweeps.document import walk_record
from eval.sweeps.plan import SweepPlan
from prune.common.files.outputs import staged_directory, write_json_lines, write_text
from prune.common.files.provenance import provenance


@dataclass(frozen=True)
class Depth:
    """What was measured: what depth.json holds, each task's measures by variant and question, and written answers."""

    plan: SweepPlan
    document: DepthRecord
    tasks: tuple[TaskMeasures, ...]
    runs: tuple[RunResult, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that depth.json holds."""
        return self.document.to_json()


def assemble(
    plan: SweepPlan,
    walked: WalkedTasks,
    settings: DepthSettings,
    *,
    written: Sequence[WrittenVariant],
    runs: Sequence[RunResult],
    similarity: FastSlowSimilarity | None,
    asked_how: dict[str, Any],
    cost: Cost,
    facts: dict[str, Any],
) -> Depth:
    """What was measured, as depth.json holds it; `facts` go to the provenance."""
    measures = scores.shown_measures(settings.measures)
    rows = scores.rows(plan, walked.tasks, measures)
    thinking = bill_thinking(runs) if runs else []
    apart = disagreements(rows, thinking)
    warnings = scores.warnings(walked.tasks, settings, walked.collected.truncated)
    if settings.load_in_4bit:
        warnings = ["the weights that were judged are NF4 (4 bits), not those that are stored", *warnings]
    document = DepthRecord(
        layers=plan.layers,
        sizes=plan.sizes[1:],
        starts=str(plan.starts),
        measures=measures,
        variants=tuple(_variant(plan, number) for number in range(len(plan.variants))),
        tasks=tuple(map(scores.describe_task, walked.tasks)),
        rows=rows,
        thirds=scores.thirds(plan, walked.tasks, measures),
        written=tuple(written),
        thinking=tuple(thinking),
        disagreements=apart,
        agreement=rank_agreement(apart),
        interactions=domain_interactions(plan, walked.tasks, measures, seed=settings.seed),
        measure_interactions=measure_interactions(plan, walked.tasks, measures, seed=settings.seed),
        events=events(plan, runs, seed=settings.seed) if runs else (),
        similarity=similarity,
        how=walk_record(plan, walked.way, walked.collected.requests, walked.answers),
        settings=asked_how,
        truncated=walked.collected.truncated,
        warnings=(*warnings, *unparsed_warnings([], [vars(row) for row in thinking])),
        notes=tuple(walked.answers.notes),
        measured=cost,
        provenance=provenance(**facts),
    )
    return Depth(plan, document, walked.tasks, tuple(runs))


def _variant(plan: SweepPlan, number: int) -> DepthVariant:
    variant = plan.variants[number]
    depth = None if variant.start is None else middle(variant.start, variant.n, plan.layers)
    return DepthVariant(label=variant.label, n=variant.n, start=variant.start, depth=depth)


def write_depth(measured: Depth, out: str | Path, *, overwrite: bool = False) -> None:
    """Write all files of a run into a staged folder, which then becomes `out`."""
    from eval.depth.pages.page import render, write_figures

    with staged_directory(out, overwrite=overwrite) as stage:
        measured.document.write(stage / "depth.json")
        write_text(stage / "depth.md", markdown(measured.document))
        for task in measured.tasks:
            name = f"depth_{task.task.plan.domain}_{task.task.plan.protocol}.jsonl"
            write_json_lines(stage / name, sample_rows(task))
        for run in measured.runs:
            for plan in run.tasks:
                name = f"written_{run.label}_{plan.name.removeprefix('regrowth_')}.jsonl"
                write_json_lines(stage / name, map(vars, run.of(plan)))
        write_figures(measured.document, stage)
        write_text(stage / "report.html", render(measured.document))


def sample_rows(task: TaskMeasures) -> Iterator[dict[str, Any]]:
    """One JSON object a question; of each measure a list over the variants, null where it is not of the question."""
    questions = task.task.plan.questions
    for number, question in enumerate(questions):
        partner = int(task.task.partners[number])
        measures = {
            name: None if np.isnan(values[0, number]) else values[:, number].tolist()
            for name, values in task.values.items()
        }
        yield {
            "id": question.id,
            "subject": question.subject,
            "source": question.source,
            "cluster": task.units[number],
            "rationale_tokens": int(task.task.lengths[number]),
            "control_of": questions[partner].id if partner >= 0 else None,
            **measures,
        }
