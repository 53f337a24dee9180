"""transformers' Trainer, told what healing needs of it: our loss, a curve, held-out loss on the way, a stop on NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from heal.measuring import collate
from heal.packing import Row
from heal.schedule import Schedule
from prune.errors import RegrowthError
from prune.terminal import Progress

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Point:
    """One point of the curve: after `step` optimiser steps on `tokens` tokens. Losses in nats per token."""

    step: int
    tokens: int
    loss: float | None  # mean over the steps since the point before
    held_out_loss: float | None


class _Loop(Trainer):
    """Keeps the loss of the running step, and stops at the first that is no number."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # so that a step's loss is one mean over all its tokens
        self.step_loss = 0.0

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **named)
        value = loss.item()
        if not math.isfinite(value):
            raise RegrowthError(
                f"the loss is {value} at step {self.state.global_step + 1}: training has diverged; "
                "lower --learning-rate or raise --batch-size"
            )
        self.step_loss += value
        return loss


class _Recorder(TrainerCallback):
    """Builds the curve and moves the progress bar."""

    def __init__(
        self, schedule: Schedule, measure: Callable[[], float], before: float, every: int, bar: Progress
    ) -> None:
        self.schedule, self.measure, self.every, self.bar = schedule, measure, every, bar
        self.curve = [Point(0, 0, None, before)]
        self.held_out, self.since = before, []  # type: float, list[float]
        self.training_seconds, self.started = 0.0, 0.0
        self.loop: _Loop | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.loop is not None
        self.since.append(self.loop.step_loss)
        self.loop.step_loss = 0.0
        self.training_seconds += time.monotonic() - self.started
        step = state.global_step
        if step % self.every == 0 or step == self.schedule.steps:
            self.held_out = self.measure()
            mean = sum(self.since) / len(self.since)
            self.curve.append(Point(step, step * self.schedule.tokens_per_step, mean, self.held_out))
            self.since = []
        rate = step * self.schedule.tokens_per_step / self.training_seconds
        latest = self.since[-1] if self.since else self.curve[-1].loss
        self.bar.advance()
        self.bar.note(f"loss {latest:.3f}  held-out {self.held_out:.3f}  {rate:.0f} tokens/s")
        self.started = time.monotonic()


@dataclass(frozen=True)
class Trained:
    """What a run leaves beside the adapter: its curve and the seconds of its steps alone (no measuring)."""

    curve: list[Point]
    seconds: float


def run(
    model: PeftModel,
    rows: Sequence[Row],
    schedule: Schedule,
    *,
    measure: Callable[[], float],
    eval_every: int,
    learning_rate: float,
    checkpointing: bool,
    seed: int,
    scratch: Path,
    bar: Progress,
) -> Trained:
    """Train the adapter in place: AdamW, cosine, gradient norm at most 1, no weight decay.

    Args:
        rows: at least `schedule.rows` packed rows.
        measure: held-out loss of `model` as it stands, in nats per token.
        eval_every: optimiser steps between two points of the curve; the last step always gives one.
        scratch: a folder for the Trainer; nothing that lasts is written there.

    Raises:
        RegrowthError: the loss is not finite; the message names the step.
    """
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.accumulate,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=schedule.warmup,
        weight_decay=0.0,
        max_grad_norm=1.0,
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        seed=seed,
        data_seed=seed,
        use_cpu=model.device.type == "cpu",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=model.device.type == "cuda",
    )
    recorder = _Recorder(schedule, measure, measure(), eval_every, bar)
    loop = _Loop(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
        callbacks=[recorder],
    )
    loop.remove_callback(PrinterCallback)  # it would print on stdout, which belongs to --json
    recorder.loop = loop
    loop.train()
    return Trained(recorder.curve, recorder.training_seconds)
