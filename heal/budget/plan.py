"""`heal budget`: read a model's shape, settle what is asked, and estimate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from heal.budget.cost import GPUS, Job, estimate, kept_layers
from heal.budget.document import Budget, Gpu
from heal.defaults import settle
from heal.models.targets import parse_targets
from heal.settings import BudgetQuery, Settings
from prune.common.errors import CheckpointError, UsageError
from prune.common.sizes import parse_tokens
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.families.subject import read_shape

_MINE = Gpu(name="yours", memory=0, peak=312e12, share=0.35)  # an A100's speed, where only a size is named


def plan_budget(
    model: str | Path,
    query: BudgetQuery | None = None,
    settings: Settings | None = None,
    *,
    revision: str | None = None,
) -> Budget:
    """Memory and time of healing a model, from its config and the headers of its weights alone.

    Args:
        model: the full model, from which `query.n` layers are to be cut; or, with n = 0, a model that is cut already.
        settings: of healing. The rate, the schedule and the like are of no matter.

    Raises:
        UsageError: options out of range.
        CheckpointError: no model, or of a family that is not known.
    """
    query, settings = query or BudgetQuery(), settings or Settings()
    n, method, tokens = query.n, query.method, parse_tokens(query.tokens)
    role, after_cut = parse_targets(settings.targets)
    plan = None
    if n == 0 and (Path(model) / PLAN_FILE).is_file():
        plan = CutPlan.read(Path(model) / PLAN_FILE)
    shape = read_shape(model, revision=revision)
    kept = kept_layers(len(shape.layers), n, query.start)
    if plan is not None and method == "distill":
        try:
            full = read_shape(plan.model, revision=plan.commit)
        except CheckpointError as error:
            raise CheckpointError(
                f"distillation keeps the model that {model} was cut from, and it cannot be found ({error}); give that "
                "model in its place, with --n and --start"
            ) from None
        shape, kept = replace(full, name=f"{shape.name} and {full.name}"), plan.kept
    gaps = plan.original if plan is not None else kept
    after = next((i for i, layer in enumerate(gaps) if i != layer), None if n == 0 and plan is None else len(kept))
    if after_cut and (after is None or after == len(kept)):
        raise UsageError(f"--targets {settings.targets}: no layer stands after a cut; give --n and --start")
    step = settle(settings, tokens=tokens, longest=shape.context)
    job = Job(
        method=method,
        kept=kept,
        first=(after or 0) if after_cut else 0,
        bits=settings.bits,
        role=role,
        rank=settings.rank,
        dropout=settings.dropout,
        length=step.length,
        batch_size=step.batch_size,
        checkpointing=settings.checkpointing,
    )
    gpus = GPUS if query.gpu_memory is None else (_MINE.model_copy(update={"memory": query.gpu_memory}), *GPUS)
    return estimate(shape, job, tokens=tokens, gpus=gpus)
