"""`heal budget`: read a model's shape, settle what is asked, and estimate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from heal.budget.cards import GPUS, pick_card
from heal.budget.chain import judge, refusals, stations
from heal.budget.cost import Job, check_job, healing_parts, kept_layers
from heal.budget.document import Budget, Gpu
from heal.budget.passes import choose_pass
from heal.budget.stations import Amounts, Chain, job_on, room_of
from heal.defaults import settle
from heal.models.targets import parse_targets
from heal.settings import AUTO, BudgetQuery, Settings
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError, UsageError
from prune.common.sizes import parse_tokens
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.families.subject import read_shape
from prune.models.memory.shapes import ModelShape
from prune.models.precision import check_dtype


@dataclass(frozen=True)
class Healing:
    """Healing as it is asked: the model that is loaded, the job, and the rows of a step.

    Attributes:
        job: where rows a pass or checkpointing are `auto`, as if they were not given.
        cut_comes: the model is whole, and will be cut.
        whole_known: the shape is that of the full model.
    """

    shape: ModelShape
    job: Job
    tokens: int
    rows: int
    cut_comes: bool
    whole_known: bool


@checks_arguments
def plan_budget(
    model: str | Path,
    query: BudgetQuery | None = None,
    settings: Settings | None = None,
    *,
    revision: str | None = None,
    amounts: Amounts | None = None,
    card: Gpu | None = None,
    dtype: str = "auto",
    in_4bit: bool = False,
) -> Budget:
    """Memory, disk and time of healing a model and of the chain around it, from config and headers alone.

    Args:
        model: the full model, from which `query.n` layers are to be cut; or, with n = 0, a model that is cut already.
        settings: of healing. The rate, the schedule and the like are of no matter.
        amounts: of text that the other stations run; what the commands take if None.
        card: in the place of what `query` asks for.
        dtype: that stations other than healing and merging run in, as their option has it.
        in_4bit: questions are asked in NF4.

    Raises:
        UsageError: options out of range, or a card that is not known.
        CheckpointError: no model, or of a family that is not known.
    """
    query, settings = query or BudgetQuery(), settings or Settings()
    check_dtype(dtype)
    check_dtype(settings.dtype)
    card = card or pick_card(query.card, query.gpu_memory)
    healing = settle_healing(model, query, settings, revision=revision)
    shape, job = healing.shape, healing.job
    chain = Chain(
        shape,
        job,
        healing.tokens,
        healing.rows,
        choose_rows=settings.batch_size == AUTO,
        choose_checkpointing=settings.checkpointing == AUTO,
        cut_comes=healing.cut_comes,
        whole_known=healing.whole_known,
        dtype=dtype,
        heal_dtype=settings.dtype,
        in_4bit=in_4bit,
        amounts=amounts or Amounts(),
    )
    if card is not None:
        on_card = job_on(card, chain)
        job = chosen_pass(healing, settings, room_of(card), cuda=on_card.cuda, wide=on_card.wide) or job
    usual = GPUS if card is None else (card, *(gpu for gpu in GPUS if gpu != card))
    fits = tuple(judge(chain, gpu) for gpu in usual)
    return Budget(
        **healing_parts(shape, job, healing.tokens),
        stations=stations(chain),
        card=None if card is None else card.name,
        gpus=fits,
        refused=() if card is None else refusals(chain, fits[0]),
    )


def settle_healing(
    model: str | Path,
    query: BudgetQuery,
    settings: Settings,
    *,
    revision: str | None = None,
    teacher: str | Path | None = None,
) -> Healing:
    """What healing will be, from config.json and the headers of the weights.

    Args:
        teacher: of a model that is cut already, the full one; where its plan says it was, if None.

    Raises:
        UsageError, CheckpointError: see `plan_budget`.
    """
    n, method, tokens = query.n, query.method, parse_tokens(query.tokens)
    role, after_cut = parse_targets(settings.targets)
    plan = None
    if n == 0 and (Path(model) / PLAN_FILE).is_file():
        plan = CutPlan.read(Path(model) / PLAN_FILE)
    shape = read_shape(model, revision=revision)
    kept = kept_layers(len(shape.layers), n, query.start)
    if plan is not None and method == "distill":
        try:
            full = read_shape(teacher or plan.model, revision=None if teacher else plan.commit)
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
        checkpointing=settings.checkpointing is not False,
    )
    check_job(shape, job)
    return Healing(
        shape,
        job,
        tokens,
        rows=step.batch_size * step.accumulate,
        cut_comes=n > 0,
        whole_known=n > 0 or plan is None or method == "distill",
    )


def chosen_pass(healing: Healing, settings: Settings, room: int, *, cuda: bool, wide: bool = False) -> Job | None:
    """The job with what is `auto` chosen for so many bytes; None where not even one row fits.

    Args:
        cuda: the memory is a GPU's.
        wide: products are in float32.
    """
    job = healing.job.but(cuda=cuda, wide=wide)
    return choose_pass(
        healing.shape,
        job,
        healing.rows,
        room,
        batch_size=None if settings.batch_size == AUTO else job.batch_size,
        checkpointing=None if settings.checkpointing == AUTO else job.checkpointing,
    )
