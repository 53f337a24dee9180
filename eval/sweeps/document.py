"""From what a walk gave to sweep.json and costs.json, and their folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.asking.tasks import TaskPlan
from eval.asking.trees import plain_tokens
from eval.asking.walk import RouteAnswers, Way
from eval.billing.rows.bill import ProseRow
from eval.billing.sweep import Cost, SweepRecord, TaskRecord, VariantProse, WalkRecord
from eval.reports.figures import write_sweep_figures
from eval.reports.page import render
from eval.sweeps import scores
from eval.sweeps.measure import Walked
from eval.sweeps.plan import SweepPlan
from prune.choosing.costs import Costs
from prune.common.files.outputs import staged_directory, write_json_lines, write_text
from prune.common.files.provenance import provenance


@dataclass(frozen=True)
class Sweep:
    """What a sweep measured: what sweep.json and costs.json hold, and each task's scores by variant and question."""

    plan: SweepPlan
    document: SweepRecord
    tasks: tuple[scores.TaskScores, ...]
    costs: Costs

    def to_json(self) -> dict[str, Any]:
        """The document that sweep.json holds."""
        return self.document.to_json()


def assemble(
    plan: SweepPlan,
    plans: Sequence[TaskPlan],
    walked: Walked,
    prose: Sequence[VariantProse],
    *,
    nf4_loss: Sequence[ProseRow] = (),
    settings: dict[str, Any],
    notes: Sequence[str],
    cost: Cost,
    facts: dict[str, Any],
) -> Sweep:
    """What was measured, as sweep.json and costs.json hold it; `facts` go to the provenance."""
    tasks = [
        scores.task_scores(task, [logged[task.name] for logged in walked.logged], walked.prompts[task.name])
        for task in plans
    ]
    truncated = walked.collected.truncated
    cut = [f"the start of {truncated} requests was cut to fit the context"] if truncated else []
    where = provenance(**facts)
    record = SweepRecord(
        layers=plan.layers,
        sizes=plan.sizes,
        starts=plan.starts,
        variants=plan.records,
        tasks=tuple(
            TaskRecord(domain=t.plan.domain, protocol=t.plan.protocol, n=t.n, chance=scores.chance_of(t)) for t in tasks
        ),
        rows=scores.rows(plan, tasks),
        curves=scores.curves(plan, tasks),
        healed=scores.healed(plan, tasks),
        maps=scores.maps(plan, tasks),
        prose=tuple(prose),
        nf4_loss=tuple(nf4_loss),
        how=walk_record(plan, walked.way, walked.collected.requests, walked.answers),
        settings=settings,
        truncated=truncated,
        notes=(*walked.answers.notes, *notes, *scores.warnings(tasks), *cut),
        measured=cost,
        provenance=where,
    )
    costs = Costs(layers=plan.layers, measure=scores.COST, domains=scores.costs(plan, tasks), provenance=where)
    return Sweep(plan, record, tuple(tasks), costs)


def walk_record(plan: SweepPlan, way: Way, requests: Sequence[Any], answers: RouteAnswers) -> WalkRecord:
    """How a walk over a plan's variants read its requests."""
    passes = plan.passes()
    return WalkRecord(
        path=way.name,
        why=way.why,
        layer_passes=passes,
        relative_passes=passes / plan.layers,
        requests=len(requests),
        tokens=answers.read,
        tokens_one_by_one=plain_tokens(requests),
        head_positions=answers.heads,
    )


def write_sweep(swept: Sweep, out: str | Path, *, overwrite: bool = False) -> None:
    """Write all files of a sweep into a staged folder, which then becomes `out`."""
    document = swept.to_json()
    with staged_directory(out, overwrite=overwrite) as stage:
        swept.document.write(stage / "sweep.json")
        swept.costs.write(stage / "costs.json")
        for task in swept.tasks:
            write_json_lines(stage / f"samples_{task.plan.name}.jsonl", scores.sample_rows(task))
        write_sweep_figures(document, stage)
        write_text(stage / "report.html", render(None, document))
