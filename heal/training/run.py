"""Execute a healing run: read the text, train an adapter, save it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.cards import adapter_card
from heal.result import RECORD_FILE, HealRecord, HealResult
from heal.text.ahead import Ahead
from heal.text.sources import HeldOut, TextSource, check_enough, hold_out, row_stream
from heal.training.checkpoints import Checkpoints, read_rows
from heal.training.monitor import keep_logs
from heal.training.plan import HealPlan, Student
from heal.training.schedule import schedule_line
from prune.common.files.outputs import staged_directory, write_text
from prune.common.files.provenance import provenance
from prune.common.machine.processes import PATIENCE, gather, is_main, rank_and_world
from prune.common.screen.terminal import progress, screen
from prune.models.loading import load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel

    from heal.text.streams import Mixed


PROSE_ALONE = (
    "The model has a chat template, and no --text holds chats. Answering, and ending an answer, are not trained and "
    "may get worse. Add a --text of chats (rows with `messages`), or let the full model write them: heal distill "
    "--teacher-data self --prompts CHATS"
)


@dataclass(frozen=True)
class Written:
    """Text that a method wrote to train on: files in the run's folder, which become a part of `out`.

    Attributes:
        facts: what heal.json says of it.
    """

    text: TextSource
    facts: dict[str, Any]


Write = Callable[[HealPlan, Path, HeldOut], Written]


def execute(
    plan: HealPlan,
    prepare: Callable[[HealPlan], Student],
    *,
    write: Write | None = None,
    compare: bool = True,
    part: str | None = None,
) -> HealResult:
    """Read the text, let `prepare` load the student, train an adapter on it and save it: the same for all methods.

    Where several processes run, each does this with its share of the rows; one of them writes.

    Args:
        write: writes other text to train on into the run's folder, before `prepare`, or finds it there in a run that
            goes on.
        compare: also measure the finished adapter beside the unquantised cut, which is loaded for it.
        part: of a run that is a part of another command, what its bar says; its lines are left out.
    """
    _join(plan)
    checkpoints = Checkpoints(plan.out)
    with checkpoints.open():
        record, held_out = _execute(plan, prepare, write, checkpoints, part)
    if is_main() and compare:
        record = _compare_with_cut(plan, record, held_out)
    return HealResult(plan.out, record)


def _execute(
    plan: HealPlan,
    prepare: Callable[[HealPlan], Student],
    write: Write | None,
    checkpoints: Checkpoints,
    part: str | None,
) -> tuple[HealRecord, HeldOut]:
    from transformers import set_seed

    from heal.models.adapters import save_adapter
    from heal.models.held_out import held_out_losses
    from heal.training.loop import run
    from heal.training.record import heal_record
    from prune.checkpoint.identity import base_identity

    shown, title = _shown(plan), part or "Healing"

    def say(words: str) -> None:
        if shown and part is None:
            screen().print(words)

    schedule = plan.schedule
    tokenizer = load_tokenizer(plan.model)
    base, text = base_identity(plan.model), plan.text.identity()
    identity = _identity(plan, base, text)
    start: Path | None = gather(_start(checkpoints, identity, plan, say) if is_main() else None)[0]
    checkpointing = plan.settings.checkpointing is True
    say(schedule_line(schedule, plan.from_budget, free_memory=plan.free_memory, checkpointing=checkpointing))
    measured = checkpoints.held_out() if start else None
    with progress("Reading text", None, shown=shown):
        held_out = HeldOut.from_json(measured) if measured else hold_out(plan.text, tokenizer, length=schedule.length)
    if is_main() and start is None:
        checkpoints.write_run(identity, held_out.to_json())
    written = _in_turn(lambda: write(plan, checkpoints.folder, held_out)) if write else Written(plan.text, {})
    with progress("Packing text", None, shown=shown):
        rows = _pack(plan, written.text, tokenizer, held_out, start)
    if tokenizer.chat_template and not rows.chats and write is None:
        say(PROSE_ALONE)
    student = prepare(plan)
    if student.kernels.note:
        say(student.kernels.note)
    fused = {"kernels": student.kernels.name} if student.kernels.name else {}
    facts = {**student.facts, **fused, **written.facts}
    if is_main():
        checkpoints.settle({"facts": json.loads(json.dumps(facts))})
    model = student.model
    set_seed(plan.settings.seed)  # the adapter's first weights, and dropout
    adapted = _adapt(plan, student)
    done = int(start.name.rpartition("-")[2]) if start else 0
    steps = schedule.steps - done
    with (
        progress(f"{title} from step {done}" if done else title, steps, shown=shown) as bar,
        Ahead(rows, steps) as ahead,
    ):
        trained = run(
            adapted,
            ahead,
            plan,
            measure=lambda wrapper: held_out_losses(model, held_out, batch_size=schedule.batch_size, wrapper=wrapper),
            checkpoints=checkpoints,
            start=start,
            bar=bar,
        )
    student.kernels.release()
    facts |= {"base": base, "provenance": provenance(device=plan.run.device, **text)}
    record = heal_record(plan, student, held_out, trained, ahead, facts)
    if trained.ended == "text":
        say(
            f"The text ended after {record.tokens:,} of the {schedule.tokens:,} tokens asked for: the adapter has "
            "learnt from what there was, at rates meant for more"
        )
    if line := chats_line(record.chats.model_dump() if record.chats else {}, schedule.length):
        say(line)
    if is_main():
        with staged_directory(plan.out, overwrite=plan.run.overwrite) as stage:
            for path in map(Path, written.text.sources if write else ()):
                shutil.copy2(path, stage / path.name)
            keep_logs(checkpoints.folder, stage, plan.run.report_to)
            save_adapter(adapted, stage, trained.weights)
            write_text(stage / "README.md", adapter_card(record))
            record.write(stage / RECORD_FILE)
        checkpoints.clear()
    return record, held_out


def _shown(plan: HealPlan) -> bool:
    return plan.run.show_progress and is_main()


def chats_line(counts: dict[str, int], length: int) -> str:
    """What became of chats that were longer than a row, in one line; empty if nothing did."""
    cut, passed = counts.get("cut", 0), counts.get("passed_over", 0)
    if not cut and not passed:
        return ""
    return (
        f"Of {counts['read']:,} chats, {cut:,} were cut at the end of a row of {length} tokens, and {passed:,} passed "
        "over, whose answers begin behind it; a larger --length keeps more of them"
    )


def _compare_with_cut(plan: HealPlan, record: HealRecord, held_out: HeldOut) -> HealRecord:
    """Add to the finished adapter's heal.json how it stands beside the unquantised cut."""
    from heal.training.unquantised import compare_with_cut, compared_line

    with progress("Comparing with the unquantised cut", None, shown=_shown(plan)):
        losses = compare_with_cut(plan, held_out, record.held_out_loss)
    record = record.with_part(unquantised=losses)
    record.write(plan.out / RECORD_FILE, overwrite=True)
    if _shown(plan):
        screen().print(compared_line(losses))
    return record


def _pack(plan: HealPlan, text: TextSource, tokenizer: Any, held_out: HeldOut, start: Path | None) -> Mixed:
    """This process's rows, from the place where the checkpoint `start` stands; the first are read already."""
    how: dict[str, Any] = {"length": plan.schedule.length, "seed": plan.settings.seed, "share": rank_and_world()}
    if start is None:
        check_enough(text, tokenizer, held_out, rows=plan.schedule.rows, **how)
    rows = row_stream(text, tokenizer, held_out, **how, state=read_rows(start) if start else None)
    rows.fill()
    return rows


def _adapt(plan: HealPlan, student: Student) -> PeftModel:
    """The student with a fresh adapter, its activations checkpointed if so asked."""
    import torch

    from heal.models.adapters import add_adapter, checkpoint_activations, compute_in

    settings, targets = plan.settings, student.targets
    base = plan.model.name if plan.model.commit else str(plan.model.folder.resolve())
    adapted = add_adapter(
        student.model, targets, rank=settings.rank, alpha=settings.lora_alpha, dropout=settings.dropout, base=base
    )
    compute_in(adapted, getattr(torch, settings.adapter_compute))
    if settings.checkpointing:
        checkpoint_activations(adapted)
        if targets.first == 0:
            adapted.enable_input_require_grads()  # else a frozen embedding starts each checkpoint without a gradient
    return adapted


def _join(plan: HealPlan) -> None:
    """Let the processes that a launcher has started find one another."""
    if rank_and_world()[1] > 1:
        from accelerate import PartialState

        PartialState(cpu=plan.run.device == "cpu", timeout=PATIENCE)


def _identity(plan: HealPlan, base: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """What a run must have in common with the one that it goes on with."""
    identity = {
        "method": plan.method,
        "model": base,
        "settings": {name: value for name, value in asdict(plan.settings).items() if name != "prompts"},  # see `also`
        "steps": plan.schedule.to_json(),
        "text": {**text, "held_out_tokens": plan.text.limit},
        "device": plan.run.device.partition(":")[0],
        **plan.also,
    }
    return dict(json.loads(json.dumps(identity)))


def _start(
    checkpoints: Checkpoints, identity: dict[str, Any], plan: HealPlan, say: Callable[[str], None]
) -> Path | None:
    """The checkpoint to go on from, or None to begin."""
    if not plan.run.resume:
        checkpoints.clear()
        return None
    if checkpoints.has_run():
        checkpoints.check(identity)
    newest = checkpoints.newest(say)
    if newest is None:
        say("There is no checkpoint to go on from: beginning with the first step")
    return newest


def _in_turn(write: Callable[[], Written]) -> Written:
    """Call it in the main process first: what that has written, the others find."""
    written = write() if is_main() else None
    gather(None)
    return write() if written is None else written
