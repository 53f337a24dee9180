"""What a healing run will do, settled and checked before anything that takes long."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.budget.cost import needed, usable
from heal.budget.plan import chosen_pass, settle_healing
from heal.defaults import Step, left_open, measured_tokens, settle
from heal.lineage import first_after_cut, full_source
from heal.settings import AUTO, BudgetQuery, Settings, TrainingRun, check, check_length, check_running
from heal.text.sources import TextSource
from heal.training.checkpoints import Checkpoints
from heal.training.schedule import Schedule, plan_steps
from prune.checkpoint.source import Source, locate
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.outputs import check_apart, free_folder
from prune.common.files.room import free_bytes
from prune.common.machine.memory import available
from prune.common.machine.processes import rank_and_world, sharded
from prune.common.screen.terminal import quiet_libraries
from prune.common.sizes import parse_tokens, spell_size
from prune.cutting.verify import open_cut
from prune.models.attention import check_attention
from prune.models.loading import longest_context, pick_device, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from heal.models.kernels import Kernels
    from heal.models.targets import Targets

_CPU_ROOM = 0.7  # of the memory that is free: glibc keeps freed blocks, 12 to 36 % more than is alive
_UNKNOWN = 1 << 62  # what `available` says where nothing tells


# Of FSDP: variable that `accelerate launch` sets, the value that does not fit, and what to write in its config.
_UNFIT = (
    ("FSDP_VERSION", "2", "fsdp_version: 1 (shards of adapters are gathered as it keeps them)"),
    ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading: false (every process maps the files)"),
    ("FSDP_USE_ORIG_PARAMS", "true", "fsdp_use_orig_params: false (frozen and trained weights do not share a unit)"),
)


@dataclass(frozen=True)
class HealPlan:
    """What a run will do; nothing is loaded yet. `model` is what heals: the adapter will fit it, and no other.

    Attributes:
        settings: with what follows from the token budget filled in; `schedule` has the same numbers, none of them None.
        run: its device settled.
        also: what else a run that goes on must have in common with the one that was begun, such as the teacher.
        from_budget: names of the settings that were not given, and so follow from the token budget.
        free_memory: bytes that rows a pass or checkpointing were chosen for; None where they were given.
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
    free_memory: int | None = None


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
    method: str,
    model: str | Path,
    text: TextSource | str,
    out: str | Path,
    settings: Settings,
    run: TrainingRun,
    *,
    teacher: str | Path | None = None,
) -> HealPlan:
    """Settle what a run will do, and refuse what cannot be done before anything that takes long. See `qlora`.

    Args:
        teacher: the full model, where the method loads it; where the plan of the cut says it was, if None.
    """
    budget = parse_tokens(run.tokens)
    text = TextSource(text) if isinstance(text, str) else text
    text.check()
    _schedule(settings, budget)
    check(settings)
    check_running(run)
    _check_sharding(method, settings)
    free_folder(out, overwrite=run.overwrite)
    check_apart(out, model, teacher, *text.files_read, *settings.files_read)
    checkpoints = Checkpoints(Path(out))
    left = checkpoints.left()
    if left and not (run.resume or run.overwrite):
        raise RegrowthError(
            f"a run into {out} stands unfinished {left}: go on with --resume, or begin anew, --overwrite"
        )
    quiet_libraries()
    import torch

    from heal.models.adapters import adapter_dtype
    from heal.models.kernels import check_kernels
    from heal.models.quantise import compute_dtype
    from heal.models.targets import check_rank, find_targets
    from prune.models.memory.skeleton import skeleton
    from prune.models.spread import check_spread

    check_spread(run.device_map, run.device)
    run = replace(run, device=pick_device(run.device))
    check_kernels(settings.kernels, run.device)
    source = locate(model, revision=run.revision)
    config = read_config(source.folder, source.name)
    empty = skeleton(config, torch.float32, source.name)
    from_budget, free = left_open(settings), None
    compute = compute_dtype(settings.dtype, device=run.device)
    adapters = adapter_dtype(settings.adapter_compute, device=run.device, compute=compute)
    dtype, adapter_compute = (str(one).removeprefix("torch.") for one in (compute, adapters))
    check_attention(settings.attention, device=run.device, dtype=dtype)
    settings = replace(settings, dtype=dtype, adapter_compute=adapter_compute)
    if AUTO in (settings.batch_size, settings.checkpointing):
        begun = checkpoints.begun() if run.resume else None
        settings, free = _choose_pass(method, source, settings, run, begun=begun, teacher=teacher)
    schedule = _schedule(settings, budget, longest=longest_context(config))
    settled = {field.name: getattr(schedule, field.name) for field in fields(Step)}
    settings = replace(settings, **settled)
    check_length(config, schedule.length)
    targets = find_targets(empty, settings.targets, cut=first_after_cut(source.folder))
    check_rank(targets, settings.rank, settings.dropout)
    if not run.resume:
        widths = (sum(empty.get_submodule(name).weight.shape) for name in targets.modules)
        _check_room(Path(out), settings.rank * sum(widths))
    if text.held_out_tokens is None:
        text = replace(text, held_out_tokens=measured_tokens(budget))
    return HealPlan(method, source, text, Path(out), settings, schedule, run, from_budget=from_budget, free_memory=free)


def _check_room(out: Path, trained: int) -> None:
    """A disk that holds no adapter and no checkpoint shows before hours of training.

    Args:
        trained: weights of the adapter. It is kept in fp32; a checkpoint has two moments of each as well.
    """
    wanted, free = 4 * (trained + 3 * trained), free_bytes(out)
    if wanted > free:
        raise RegrowthError(
            f"--out {out}: the adapter and a checkpoint take {spell_size(wanted)}, and {spell_size(free)} are free; "
            "make room, give another --out, or a lower --rank"
        )


def _choose_pass(
    method: str,
    source: Source,
    settings: Settings,
    run: TrainingRun,
    *,
    begun: dict[str, Any] | None,
    teacher: str | Path | None,
) -> tuple[Settings, int | None]:
    """The settings with what is `auto` chosen for the memory that is free, and how many bytes that is.

    A run that goes on takes what it was begun with (`begun`), and looks at no memory.

    Raises:
        UsageError: free memory cannot be told, several processes or cards are used, or not even one row fits.
    """
    words = "--batch-size auto" if settings.batch_size == AUTO else "--checkpointing auto"
    if begun is not None:
        names = ("batch_size", "accumulate") if settings.batch_size == AUTO else ()
        if settings.checkpointing == AUTO:
            names = (*names, "checkpointing")
        return replace(settings, **{name: begun[name] for name in names}), None
    if rank_and_world()[1] > 1:
        raise UsageError(f"{words} chooses for one process; give --batch-size, and --checkpointing on or off")
    if run.device_map is not None:
        raise UsageError(
            f"{words} chooses for one card; with --device-map give --batch-size, and --checkpointing on or off"
        )
    free = available(run.device)
    if free >= _UNKNOWN:
        raise UsageError(
            f"{words}: how much memory is free cannot be told on this machine; give --batch-size, such as 4, and "
            "--checkpointing on or off"
        )
    cuda, wide = run.device.startswith("cuda"), settings.dtype == "float32"
    query = BudgetQuery(tokens=run.tokens, method=method)
    full = full_source(open_cut(source.folder)[0], teacher) if method == "distill" else None
    healing = settle_healing(source.folder, query, settings, teacher=None if full is None else full.folder)
    room = usable(free) if cuda else int(free * _CPU_ROOM)
    job = chosen_pass(healing, settings, room, cuda=cuda, wide=wide)
    if job is None:
        least = needed(healing.shape, healing.job.but(cuda=cuda, wide=wide, batch_size=1, checkpointing=True))
        smaller = "--bits 4, or " if settings.bits > 4 else ""
        raise UsageError(
            f"{words}: not even one row fits: a step takes {spell_size(least)}, and there is room for "
            f"{spell_size(room)} on {run.device}; use {smaller}a smaller --length, or a card of more memory (heal "
            "budget tells)"
        )
    settled: dict[str, Any] = {"checkpointing": job.checkpointing}
    if settings.batch_size == AUTO:
        settled |= {"batch_size": job.batch_size, "accumulate": healing.rows // job.batch_size}
    return replace(settings, **settled), free


def _schedule(settings: Settings, tokens: int, longest: int | None = None) -> Schedule:
    """The steps of a budget; `longest`: tokens that the model can read."""
    processes = rank_and_world()[1]
    step = settle(settings, tokens=tokens, processes=processes, longest=longest)
    return plan_steps(tokens, step, processes=processes, warmup=settings.warmup)


def _check_sharding(method: str, settings: Settings) -> None:
    if not sharded():
        return
    for name, unfit, setting in _UNFIT:
        if os.environ.get(name, "").lower() == unfit:
            raise UsageError(f"accelerate's config: set {setting}, as recipes/accelerate/fsdp-qlora.yaml does")
    if method == "distill":
        raise UsageError(
            "heal distill shares weights between two models, which FSDP cannot; use DDP (ddp.yaml), or, where one GPU "
            "does not hold the model, --device-map auto without a launcher"
        )
    if settings.bits == 8:
        raise UsageError("--bits 8 cannot be put in shards by FSDP; use --bits 4 or 16")
    if settings.kernels == "liger":
        raise UsageError("--kernels liger is checked before training, and a base in shards cannot be; use none or auto")
    if settings.patience is not None:
        raise UsageError("--patience keeps a copy of the best adapter, which FSDP has in shards; leave it out")
