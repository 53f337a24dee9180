"""The loop of healing, top down: rows, forward, loss, backward, step; then what is measured and saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import is_initialized
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, set_seed

from heal.models.held_out import Losses
from heal.text.ahead import Rows
from heal.text.packing import collate_for_loss, count_predicted
from heal.training.checkpoints import Checkpoints
from heal.training.curve import Curve
from heal.training.monitor import Monitor, log_folder, tracking
from heal.training.schedule import Schedule
from heal.training.shards import gather_adapter
from heal.training.state import prepare, save
from heal.training.stopping import diverged, interrupted
from prune.common.errors import TextError
from prune.common.machine.processes import gather, rank_and_world, sharded
from prune.common.machine.stopping import stop_requests
from prune.common.screen.terminal import Progress
from prune.models.precision import tensor_float32

if TYPE_CHECKING:
    from peft import PeftModel

    from heal.training.plan import HealPlan

_STOPPING = "the running step is finished and a checkpoint saved"
SAVE_SECONDS = 300.0  # between checkpoints where no steps are named


@dataclass(frozen=True)
class Trained:
    """What a run leaves beside the adapter. `ended`: by its `budget`, by its `patience`, or because its `text` did."""

    curve: Curve
    steps: int
    ended: str
    kept_step: int  # the adapter is that of this step
    weights: dict[str, torch.Tensor] | None = None  # of the adapter, where the model itself holds only a shard


def run(
    model: PeftModel,
    rows: Rows,
    plan: HealPlan,
    *,
    measure: Callable[[Any], Losses],
    checkpoints: Checkpoints,
    start: Path | None,
    bar: Progress,
) -> Trained:
    """Train the adapter in place: AdamW, gradient norm at most 1, no weight decay.

    A step's loss is one mean over all its labelled tokens, whichever batch or process they are in.

    Args:
        model: with its adapter, on the device that it is trained on; under FSDP, still on the CPU.
        rows: of this process; where they stand, if `start` is a checkpoint.
        measure: held-out losses of the model as it stands; given FSDP's wrapper where there is one, else None.
        checkpoints: opened.
        start: the checkpoint to go on from, or None.

    Raises:
        RegrowthError: the loss or its gradient is not finite; the message names the step and the last checkpoint.
        Interrupted: a signal has asked to stop; a checkpoint is saved.
        TextError: the text gives not even one step.
    """
    processes = rank_and_world()[1]
    device = torch.device(plan.run.device) if sharded() else model.device  # FSDP moves it there
    settings, schedule, reporter = plan.settings, plan.schedule, plan.run.report_to
    set_seed(settings.seed)  # so that dropout does not hang on how the first weights were drawn
    accelerator = _accelerator(device, checkpoints.folder, reporter)
    state = prepare(accelerator, model, rows, plan, start)
    wrapped, optimizer, scheduler, curve = state.wrapped, state.optimizer, state.scheduler, state.curve
    every = settings.eval_every or max(1, schedule.steps // 10)
    monitor = Monitor(accelerator, measure, schedule, every, settings.patience, checkpoints, bar)
    first_step, ended = state.step + 1, "budget"
    saved = time.monotonic()
    config = {**asdict(settings), **schedule.to_json()}
    # Adapters and their products are float32 beside a base in bfloat16: finer products would be for nothing.
    rounded = tensor_float32(settings.dtype != "float32")
    with stop_requests(_STOPPING) as request, tracking(accelerator, checkpoints.folder, reporter, config), rounded:
        if not curve.points:
            monitor.measure(state)
        while state.step < schedule.steps:
            began = time.monotonic()
            batches = _batches(rows, schedule)
            if not all(gather(bool(batches))):
                ended = "text"
                break
            labelled = accelerator.reduce(_count_labelled(batches).to(device), "sum")
            wrapped.train()
            total = torch.zeros((), device=device)
            for number, batch in enumerate(batches, 1):
                with nullcontext() if number == len(batches) else accelerator.no_sync(wrapped):
                    inputs = _put(batch, device)
                    loss = wrapped(**inputs, num_items_in_batch=labelled)["loss"]
                    accelerator.backward(loss * processes)  # gradients are averaged over the processes
                    total += loss.detach()
            gradient = float(accelerator.clip_grad_norm_(wrapped.parameters(), 1.0))
            step_loss = sum(gather(float(total)))
            for what, value in (("loss", step_loss), ("gradient", gradient)):
                if not math.isfinite(value):  # the weights have not changed yet
                    raise diverged(f"the {what} is {value}", state.step + 1, curve, checkpoints)
            rate = scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            state.step += 1
            took, first = time.monotonic() - began, state.step == first_step
            curve.add_step(step_loss, took, loss_tokens=int(labelled), first=first)

            monitor.after_step(state, loss=step_loss, gradient=gradient, rate=rate)
            if state.step == schedule.steps:
                break
            if monitor.out_of_patience(state):
                ended = "patience"
                break
            asked = gather((request.number, time.monotonic() - saved >= SAVE_SECONDS))
            signal, due = max(number for number, _ in asked), asked[0][1]  # by one clock
            if plan.run.save_every is not None:
                due = state.step % plan.run.save_every == 0
            if signal or due:
                save(state, accelerator, checkpoints)
                saved = time.monotonic()
            if signal:
                raise interrupted(signal, state.step, checkpoints.path(state.step))
        if state.step == 0:
            raise TextError(f"the text ends before the first step of {schedule.tokens_per_step} tokens; add text")
        if curve.points[-1].step != state.step:
            monitor.measure(state)
    if state.best and curve.stale():
        state.restore_best()
    kept = curve.best.step if settings.patience is not None else state.step
    return Trained(curve, state.step, ended, kept, gather_adapter(wrapped) if sharded() else None)


def _batches(rows: Rows, schedule: Schedule) -> list[dict[str, torch.Tensor]]:
    """This process's rows of a step, a batch for each forward pass; none where its text has ended."""
    size = schedule.batch_size
    taken = rows.take(size * schedule.accumulate)
    if len(taken) < size * schedule.accumulate:
        return []
    return [collate_for_loss(taken[start : start + size]) for start in range(0, len(taken), size)]


def _put(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch on the device. A GPU copies from pinned memory while it computes; from other memory it stops to do so."""
    if device.type == "cuda":
        return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _count_labelled(batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """How many tokens a step predicts, in this process; a 0-dimensional tensor."""
    return torch.stack([count_predicted(batch["labels"]) for batch in batches]).sum()


def _accelerator(device: torch.device, folder: Path, reporter: str) -> Accelerator:
    """Model and batches are put on their device by us: accelerate would take the first GPU, whatever was asked for.

    Its own device is that of the first Accelerator in a process, and asking for another one is an error.
    """
    return Accelerator(
        device_placement=False,
        cpu=device.type == "cpu" and not is_initialized(),
        mixed_precision="no",  # the base computes in its own dtype, and the adapter is fp32
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loss is divided by us
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
        log_with=None if reporter == "none" else reporter,
        project_config=ProjectConfiguration(logging_dir=str(log_folder(folder, reporter).parent)),
    )
