"""transformers' Trainer, told what healing needs of it: our loss and rows, a curve, checkpoints, a stop on NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from heal.adapters import load_adapter, save_adapter
from heal.checkpoints import Checkpoints, read_state, write_state
from heal.curve import Curve, Losses
from heal.measuring import collate
from heal.schedule import Schedule
from heal.stopping import Interrupted, Request, stop_requests
from heal.streams import Mixed
from prune.errors import RegrowthError, TextError
from prune.memory import peak_memory
from prune.processes import gather, is_main, rank_and_world
from prune.terminal import Progress

if TYPE_CHECKING:
    from peft import PeftModel

    from heal.settings import Running, Settings

_DECAYS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_BEST = "best.safetensors"


@dataclass(frozen=True)
class Trained:
    """What a run leaves beside the adapter. `ended`: by its `budget`, by its `patience`, or because its `text` did."""

    curve: Curve
    steps: int
    ended: str
    kept_step: int  # the adapter is that of this step
    weights: dict[str, torch.Tensor] | None = None  # of the adapter, where the model itself holds only a shard


class _Batches:
    """This process's share of every step's rows. It is asked for a step's batches when the step begins, no sooner:
    so the place in the text, at the end of a step, is that of the step.
    """

    def __init__(self, rows: Mixed, schedule: Schedule) -> None:
        self.rows, self.schedule = rows, schedule

    def __len__(self) -> int:
        return self.schedule.steps * self.schedule.accumulate

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rank, world = rank_and_world()
        size, wanted = self.schedule.batch_size, self.schedule.rows_per_step
        while len(found := self.rows.take(wanted)) == wanted:
            for part in range(self.schedule.accumulate):
                start = (part * world + rank) * size
                yield collate(found[start : start + size])


class _Loop(Trainer):
    """A Trainer of rows that come from a stream, whose checkpoints are whole or not there."""

    def __init__(self, *, rows: Mixed, schedule: Schedule, checkpoints: Checkpoints, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # so that a step's loss is one mean over all its tokens
        self.rows, self.schedule, self.checkpoints = rows, schedule, checkpoints
        self.step_loss: Any = 0.0
        self.gradient = 0.0
        self.keeper: _Keeper
        self._writing: Path | None = None

    def get_train_dataloader(self) -> Any:
        return _Batches(self.rows, self.schedule)

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*arguments, **named)
        self.step_loss = self.step_loss + loss
        return loss

    def _get_grad_norm(self, *arguments: Any, **named: Any) -> Any:
        found = super()._get_grad_norm(*arguments, **named)
        self.gradient = float(found)
        return found

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or self.checkpoints.folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save and output_dir is not None:
            save_adapter(self.accelerator.unwrap_model(self.model), Path(output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.is_fsdp_enabled:  # else loaded before it was put in shards
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        finite = all(bool(p.isfinite().all()) for p in self.model.parameters() if p.requires_grad)
        if not all(gather(finite)):
            raise self.diverged("an adapter's weight is not finite")
        try:
            with self.checkpoints.writing(step, self.accelerator.wait_for_everyone) as folder:
                self._writing = folder
                super()._save_checkpoint(model, trial)
                if is_main():
                    self.keeper.write(folder / f"checkpoint-{step}")
        except (OSError, RuntimeError, SafetensorError) as error:  # torch tells of a full disk by a RuntimeError
            why = str(error).splitlines()[0]
            raise RegrowthError(
                f"the checkpoint of step {step} cannot be written to {self.checkpoints.folder} ({why}); is there room?"
            ) from error
        self._writing = None

    def diverged(self, what: str) -> RegrowthError:
        """The error that stops a run whose numbers are none any more."""
        steps = self.checkpoints.steps()
        line = f"{what} at step {self.keeper.step}: training has diverged; begin anew with a lower --learning-rate"
        line += " (and --overwrite)" if steps else ""
        if steps:
            good = [step for step in steps if self.keeper.curve.sane(step)]
            kept = (good or steps)[0]
            line += (
                f"; the last {'good ' if good else ''}checkpoint, of step {kept}, is kept in "
                f"{self.checkpoints.place(kept)}, an adapter that peft loads"
            )
        return RegrowthError(line)


class _Keeper(TrainerCallback):
    """Keeps the curve and the best adapter, moves the progress bar, and says when to save and when to stop."""

    def __init__(
        self, loop: _Loop, curve: Curve, measure: Callable[[Any], Losses], every: int, save_every: int,
        patience: int | None, request: Request, bar: Progress,
    ) -> None:  # fmt: skip
        self.loop, self.curve, self.measure, self.every, self.save_every = loop, curve, measure, every, save_every
        self.patience, self.request, self.bar = patience, request, bar
        self.best: dict[str, torch.Tensor] = {}
        self.signal, self.started, self.ended = 0, 0.0, ""
        self.step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step
        if not self.curve.points:
            self.point()
        self.step += 1
        self.started = time.monotonic()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Before the weights change: a step that is not finite changes nothing."""
        found = gather((float(self.loop.step_loss), self.request.number))
        loss = sum(one for one, _ in found) / len(found)
        self.signal = max(number for _, number in found)
        self.loop.step_loss = 0.0
        if not math.isfinite(loss):
            raise self.loop.diverged(f"the loss is {loss}")
        if not math.isfinite(self.loop.gradient):
            raise self.loop.diverged(f"the gradient is {self.loop.gradient}")
        self.curve.since.append(loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.curve.seconds += time.monotonic() - self.started
        schedule, self.step = self.loop.schedule, state.global_step
        state.epoch = self.step / schedule.steps
        loss = self.curve.since[-1]
        last = self.step == schedule.steps
        if self.step % self.every == 0 or last:
            self.point()
            if self.patience is not None and self.curve.stale() >= self.patience and not last:
                self.ended, control.should_training_stop = "patience", True
        if rank_and_world()[1] == 1:
            self.signal = self.request.number
        if self.signal and not last and not self.ended:
            control.should_save = control.should_training_stop = True
        elif self.step % self.save_every == 0 and not last and not self.ended:
            control.should_save = True
        rate = self.step * schedule.tokens_per_step / self.curve.seconds
        self.bar.advance()
        self.bar.note(
            f"loss {loss:.3f}  held-out {self.curve.points[-1].held_out_loss:.3f}  {rate:.0f} tokens/s  "
            f"{peak_bytes(str(self.loop.args.device)) / 2**30:.1f} GiB"
        )
        self.step += 1
        self.started = time.monotonic()

    def on_save(self, *_: Any, **__: Any) -> None:
        """A checkpoint is written after the step has ended; its time is none of the next step's."""
        self.started = time.monotonic()

    def point(self) -> None:
        """Measure, and add to the curve."""
        losses = self.measure(self.loop.model_wrapped if self.loop.is_fsdp_enabled else None)
        if not math.isfinite(losses.loss):
            raise self.loop.diverged(f"the held-out loss is {losses.loss}")
        self.curve.add(self.step, self.step * self.loop.schedule.tokens_per_step, losses)
        if self.patience is not None and self.curve.stale() == 0:
            self.best = {name: weight.detach().cpu().clone() for name, weight in self._trained()}
        if self.loop.args.report_to:
            named = {f"eval_loss_{name}": loss for name, loss in losses.texts.items()} if len(losses.texts) > 1 else {}
            self.loop.log({"eval_loss": losses.loss, **named})

    def write(self, place: Path) -> None:
        """Add to a checkpoint what the Trainer does not know of."""
        write_state(place, self.curve.to_json(), self.loop.rows.state())
        if self.best:
            from safetensors.torch import save_file

            save_file({name: weight.contiguous() for name, weight in self.best.items()}, place / _BEST)

    def read(self, place: Path) -> None:
        """Take up the best adapter of a checkpoint."""
        from safetensors.torch import load_file

        if (place / _BEST).is_file():
            self.best = load_file(place / _BEST)

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the weights of the best point back into the model."""
        for name, weight in self._trained():
            weight.copy_(self.best[name].to(weight.device))

    def _trained(self) -> list[tuple[str, Any]]:
        model = self.loop.accelerator.unwrap_model(self.loop.model)
        return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def run(
    model: PeftModel,
    rows: Mixed,
    schedule: Schedule,
    *,
    measure: Callable[[Any], Losses],
    settings: Settings,
    running: Running,
    checkpoints: Checkpoints,
    start: Path | None,
    bar: Progress,
) -> Trained:
    """Train the adapter in place: AdamW, gradient norm at most 1, no weight decay.

    Args:
        rows: where they stand, if `start` is a checkpoint.
        measure: held-out losses of the model as it stands; given FSDP's wrapper where there is one, else None.
        checkpoints: opened.
        start: the checkpoint to go on from, or None.

    Raises:
        RegrowthError: the loss or its gradient is not finite; the message names the step and the last checkpoint.
        Interrupted: a signal has asked to stop; a checkpoint is saved.
        TextError: the text gives not even one step.
    """
    curve = Curve()
    if start is not None:
        curve = Curve.from_json(read_state(start)[0])
    with stop_requests() as request:
        loop = _Loop(
            model=model,
            args=_arguments(model, schedule, settings, running, checkpoints.folder),
            rows=rows,
            schedule=schedule,
            checkpoints=checkpoints,
        )
        for callback in (PrinterCallback, ProgressCallback):  # they would print on stdout, which belongs to --json
            loop.remove_callback(callback)
        every = settings.eval_every or max(1, schedule.steps // 10)
        keeper = _Keeper(
            loop, curve, measure, every, running.save_every, settings.patience, request, bar
        )  # fmt: skip
        loop.keeper = keeper
        loop.add_callback(keeper)
        if start is not None:
            if loop.is_fsdp_enabled:
                load_adapter(model, start)
            curve.resumed.append(int(start.name.rpartition("-")[2]))
            keeper.read(start)
        loop.train(resume_from_checkpoint=None if start is None else str(start))
        done = loop.state.global_step
        if keeper.signal and done < schedule.steps and not keeper.ended:
            raise _interrupted(keeper.signal, done, checkpoints.place(done))
        if done == 0:
            raise TextError(f"the text ends before the first step of {schedule.tokens_per_step} tokens; add text")
        keeper.step = done
        if curve.points[-1].step != done:
            keeper.point()
        if keeper.best and curve.stale():
            keeper.restore_best()
        weights = loop.accelerator.get_state_dict(loop.model) if loop.is_fsdp_enabled else None
    kept = curve.best.step if settings.patience is not None else done
    ended = keeper.ended or ("budget" if done == schedule.steps else "text")
    return Trained(curve, done, ended, kept, weights)


def peak_bytes(device: str) -> int:
    """The most memory that was taken so far: on the GPU where it is one, else resident."""
    peak = peak_memory(device)
    return peak.get("cuda_bytes", peak["resident_bytes"])


def _arguments(
    model: PeftModel, schedule: Schedule, settings: Settings, running: Running, folder: Path
) -> TrainingArguments:
    reported = running.report_to != "none"
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_DECAYS[settings.schedule],
        warmup_steps=schedule.warmup,
        weight_decay=0.0,
        max_grad_norm=1.0,
        activation_checkpointing=settings.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.checkpointing else None,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=model.device.type == "cpu",
        eval_strategy="no",
        save_strategy="no",  # the keeper says when
        logging_strategy="steps" if reported else "no",
        logging_steps=1,
        report_to=running.report_to,
        project="regrowth",
        run_name=folder.name.strip(".").removesuffix(".unfinished"),
        disable_tqdm=True,
        ignore_data_skip=True,  # the rows stand where they should: nothing is to be skipped
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=model.device.type == "cuda",
    )


def _interrupted(number: int, step: int, place: Path) -> Interrupted:
    import signal

    name = str(number)
    with suppress(ValueError):
        name = signal.Signals(number).name
    return Interrupted(
        f"stopped by {name} after step {step}; its checkpoint is {place}: the same command with --resume goes on there",
        number,
    )
