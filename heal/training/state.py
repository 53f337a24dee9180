"""What training changes with every step: set up, written into a checkpoint, and taken up from one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from heal.models.adapters import load_adapter, save_adapter
from heal.training.checkpoints import Checkpoints, read_curve, write_state
from heal.training.curve import Curve
from heal.training.shards import gather_adapter, shard_by_layer
from heal.training.stopping import diverged
from prune.common.errors import RegrowthError, first_line
from prune.common.machine.processes import gather, is_main, rank_and_world, sharded

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel

    from heal.text.ahead import Rows
    from heal.training.plan import HealPlan

# transformers' names; `constant` warms up too.
_DECAYS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_OPTIMIZER, _SCHEDULER, _BEST = "optimizer.pt", "scheduler.pt", "best.safetensors"


@dataclass
class TrainingState:
    """All that a step changes.

    Attributes:
        model: with its adapter.
        wrapped: what is called to train: `model`, or the wrapper that DDP or FSDP puts around it.
        rows: of this process; where they stand is its place in the text.
        step: optimiser steps done.
        best: weights of the adapter at the best point of the curve, by name; only a run with patience keeps them.
    """

    model: PeftModel
    wrapped: Any
    optimizer: Any
    scheduler: Any
    rows: Rows
    curve: Curve = field(default_factory=Curve)
    step: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained; under FSDP, this process's part of them."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def keep_best(self) -> None:
        self.best = {name: weight.detach().cpu().clone() for name, weight in self.trained().items()}

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the weights that were kept back into the model."""
        for name, weight in self.trained().items():
            weight.copy_(self.best[name])


def prepare(
    accelerator: Accelerator,
    model: PeftModel,
    rows: Rows,
    plan: HealPlan,
    start: Path | None,
) -> TrainingState:
    """The state before the first step, or that of the checkpoint `start`.

    AdamW (betas 0.9 and 0.999, no weight decay) under a rate that rises over the warm-up and then falls.
    """
    from transformers import get_scheduler

    schedule = plan.schedule
    if start is not None:
        load_adapter(model, start)
    if sharded():
        shard_by_layer(accelerator, model)
    wrapped = accelerator.prepare(model)
    parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(
        torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0, fused=True)
    )
    scheduler = get_scheduler(
        _DECAYS[plan.settings.schedule], optimizer, num_warmup_steps=schedule.warmup, num_training_steps=schedule.steps
    )
    state = TrainingState(model, wrapped, optimizer, scheduler, rows)
    if start is not None:
        _restore(state, accelerator, start)
    return state


def save(state: TrainingState, accelerator: Accelerator, checkpoints: Checkpoints) -> None:
    """Write a checkpoint of the step that was done last. Every process must call this.

    Raises:
        RegrowthError: a weight is not finite, or the disk is full.
    """
    if not all(gather(all(bool(weight.isfinite().all()) for weight in state.trained().values()))):
        raise diverged("an adapter's weight is not finite", state.step, state.curve, checkpoints)
    try:
        with checkpoints.writing(state.step, accelerator.wait_for_everyone) as stage:
            _write(state, accelerator, stage / checkpoints.path(state.step).name)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells of a full disk by a RuntimeError
        raise RegrowthError(
            f"the checkpoint of step {state.step} cannot be written to {checkpoints.folder} ({first_line(error)}); "
            "is there room?"
        ) from error


def _write(state: TrainingState, accelerator: Accelerator, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    weights = gather_adapter(state.wrapped) if sharded() else None
    if sharded():
        from accelerate.utils import save_fsdp_optimizer

        save_fsdp_optimizer(accelerator.state.fsdp_plugin, accelerator, state.optimizer, state.wrapped, str(folder))
    torch.save(_generators(state), folder / _generators_file())
    if is_main():
        save_adapter(state.model, folder, weights)
        if not sharded():
            torch.save(state.optimizer.state_dict(), folder / _OPTIMIZER)
        torch.save(state.scheduler.state_dict(), folder / _SCHEDULER)
        if state.best:
            save_file({name: weight.contiguous() for name, weight in state.best.items()}, folder / _BEST)
    write_state(folder, state.curve.to_json(), state.rows.state())


def _restore(state: TrainingState, accelerator: Accelerator, folder: Path) -> None:
    """All but the adapter and the rows, which stand where the checkpoint left them already."""
    if sharded():
        from accelerate.utils import load_fsdp_optimizer

        load_fsdp_optimizer(accelerator.state.fsdp_plugin, accelerator, state.optimizer, state.wrapped, str(folder))
    else:
        state.optimizer.load_state_dict(_load(folder / _OPTIMIZER))
    state.scheduler.load_state_dict(_load(folder / _SCHEDULER))
    generators = _load(folder / _generators_file())
    torch.set_rng_state(generators["cpu"])
    for name, generator in generators.items():
        if name != "cpu":
            torch.cuda.set_rng_state(generator, name)
    state.curve = Curve.from_json(read_curve(folder))
    state.step = int(folder.name.rpartition("-")[2])
    state.curve.resumed.append(state.step)
    if (folder / _BEST).is_file():
        state.best = load_file(folder / _BEST)


def _generators(state: TrainingState) -> dict[str, torch.Tensor]:
    """What dropout draws from, on every device that the model is on: name -> state."""
    devices = {weight.device for weight in state.model.parameters() if weight.device.type == "cuda"}
    return {"cpu": torch.get_rng_state(), **{str(device): torch.cuda.get_rng_state(device) for device in devices}}


def _generators_file() -> str:
    return f"generators-{rank_and_world()[0]}.pt"


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
