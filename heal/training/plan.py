"""What a healing run will do, settled and checked before anything that takes long."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.defaults import Step, left_open, measured_tokens, settle
from heal.lineage import first_after_cut
from heal.settings import Settings, TrainingRun, check, check_length, check_running, longest_row
from heal.text.sources import TextSource
from heal.training.checkpoints import Checkpoints
from heal.training.schedule import Schedule, plan_steps
from prune.checkpoint.source import Source, locate
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.common.outputs import check_free
from prune.common.processes import rank_and_world, sharded
from prune.common.sizes import parse_tokens
from prune.common.terminal import quiet_libraries
from prune.models.attention import check_attention
from prune.models.loading import pick_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from heal.models.kernels import Kernels
    from heal.models.targets import Targets


@dataclass(frozen=True)
class HealPlan:
    """What a run will do; nothing is loaded yet. `model` is what heals: the adapter will fit it, and no other.

    Attributes:
        settings: with what follows from the token budget filled in; `schedule` has the same numbers, none of them None.
        run: its device settled.
        also: what else a run that goes on must have in common with the one that was begun, such as the teacher.
        from_budget: names of the settings that were not given, and so follow from the token budget.
    """

    method: str
    model: Source
    text: TextSource
    out: Path
    settings: Settings
    schedule: Schedule
    run: TrainingRun
    also: dict[str, Any] = field(default_factory=dict)
    from_budget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Student:
    """A model made ready to be trained: frozen, its forward pass gives the loss (`heal.models.lm_head`,
    `heal.models.student`).

    Attributes:
        facts: what the method adds to heal.json.
        kernels: what its layers are computed by; released when it is trained.
    """

    model: PreTrainedModel
    targets: Targets
    quantised: list[str]
    facts: dict[str, Any]
    kernels: Kernels


def plan_healing(
    method: str, model: str | Path, text: TextSource | str, out: str | Path, settings: Settings, run: TrainingRun
) -> HealPlan:
    """Settle what a run will do, and refuse what cannot be done before anything that takes long. See `qlora`."""
    budget = parse_tokens(run.tokens)
    text = TextSource(text) if isinstance(text, str) else text
    text.check()
    _schedule(settings, budget)
    check(settings)
    check_running(run)
    _check_sharding(method, settings)
    check_free(out, overwrite=run.overwrite)
    left = Checkpoints(Path(out)).left()
    if left and not (run.resume or run.overwrite):
        raise RegrowthError(
            f"a run into {out} stands unfinished {left}: go on with --resume, or begin anew, --overwrite"
        )
    quiet_libraries()
    run = replace(run, device=pick_device(run.device))
    from heal.models.adapters import adapter_dtype
    from heal.models.kernels import check_kernels
    from heal.models.quantise import compute_dtype
    from heal.models.targets import check_rank, find_targets

    check_kernels(settings.kernels, run.device)
    source = locate(model, revision=run.revision)
    skeleton = _skeleton(source)
    config = skeleton.config
    schedule = _schedule(settings, budget, longest=longest_row(config))
    from_budget = left_open(settings)
    settled = {field.name: getattr(schedule, field.name) for field in fields(Step)}
    compute = compute_dtype(settings.dtype, device=run.device)
    adapters = adapter_dtype(settings.adapter_compute, device=run.device, compute=compute)
    dtype, adapter_compute = (str(one).removeprefix("torch.") for one in (compute, adapters))
    check_attention(settings.attention, device=run.device, dtype=dtype)
    settings = replace(settings, **settled, dtype=dtype, adapter_compute=adapter_compute)
    check_length(config, schedule.length)
    targets = find_targets(skeleton, settings.targets, cut=first_after_cut(source.folder))
    check_rank(targets, settings.rank, settings.dropout)
    if text.held_out_tokens is None:
        text = replace(text, held_out_tokens=measured_tokens(budget))
    return HealPlan(method, source, text, Path(out), settings, schedule, run, from_budget=from_budget)


def _schedule(settings: Settings, tokens: int, longest: int | None = None) -> Schedule:
    """The steps of a budget; `longest`: tokens that the model can read."""
    processes = rank_and_world()[1]
    step = settle(settings, tokens=tokens, processes=processes, longest=longest)
    return plan_steps(tokens, step, processes=processes, warmup=settings.warmup)


def _check_sharding(method: str, settings: Settings) -> None:
    if not sharded():
        return
    if method == "distill":
        raise UsageError("heal distill shares weights between two models, which FSDP cannot; use DDP (ddp.yaml)")
    if settings.bits == 8:
        raise UsageError("--bits 8 cannot be put in shards by FSDP; use --bits 4 or 16")
    if settings.patience is not None:
        raise UsageError("--patience keeps a copy of the best adapter, which FSDP has in shards; leave it out")


def _skeleton(source: Source) -> PreTrainedModel:
    """The model without its weights, made of its config alone.

    Raises:
        CheckpointError: no causal language model that transformers knows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(source.folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source.name} is no causal language model that transformers knows ({error})") from error
