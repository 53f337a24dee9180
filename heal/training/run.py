"""Execute a healing run: read the text, train an adapter, save it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.result import HealResult
from heal.settings import Running
from heal.text.sources import HeldOut, TextSource, check_enough, hold_out, row_stream
from heal.training.checkpoints import Checkpoints, read_state
from heal.training.plan import HealPlan, Student
from heal.training.reporting import keep_logs
from heal.training.schedule import schedule_line
from prune.common.outputs import staged_directory, write_json, write_text
from prune.common.processes import gather, is_main, rank_and_world
from prune.common.terminal import progress, screen
from prune.models.loading import load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel

    from heal.text.streams import Mixed


# How long a process waits for the others: while one writes responses (`--teacher-data self`), it is hours.
_PATIENCE = timedelta(days=7)


def execute(
    plan: HealPlan,
    prepare: Callable[[HealPlan], Student],
    *,
    write: Callable[[HealPlan, Path, HeldOut], TextSource] | None = None,
    shown: bool = True,
) -> HealResult:
    """Read the text, let `prepare` load the student, train an adapter on it and save it: the same for all methods.

    Where several processes run, each does this with its share of the rows; one of them writes.

    Args:
        write: gives other text to train on, written into the run's folder (or found there by a run that goes on); it
            becomes a part of `out`.
    """
    _join(plan)
    checkpoints, shown = Checkpoints(plan.out), shown and is_main()
    with checkpoints.open():
        result, held_out = _execute(plan, prepare, write, checkpoints, shown=shown)
    if is_main():
        _compare_with_cut(plan, result, held_out, shown=shown)
    return result


def _execute(
    plan: HealPlan,
    prepare: Callable[[HealPlan], Student],
    write: Callable[[HealPlan, Path, HeldOut], TextSource] | None,
    checkpoints: Checkpoints,
    *,
    shown: bool,
) -> tuple[HealResult, HeldOut]:
    from transformers import set_seed

    from heal.models.held_out import held_out_losses
    from heal.training.loop import run
    from heal.training.record import heal_document
    from prune.checkpoint.identity import base_identity

    def say(words: str) -> None:
        if shown:
            screen().print(words)

    settings, schedule = plan.settings, plan.schedule
    say(schedule_line(schedule, settings.learning_rate, plan.from_budget))
    tokenizer = load_tokenizer(plan.model)
    facts = {"base": base_identity(plan.model), "text": plan.text.identity()}
    begun = _begun(plan, facts["text"], facts["base"])
    start: Path | None = gather(_start(checkpoints, begun, plan.running, say) if is_main() else None)[0]
    kept = checkpoints.held_out() if start else None
    with progress("Reading text", None, shown=shown):
        held_out = HeldOut.from_json(kept) if kept else hold_out(plan.text, tokenizer, length=settings.length)
    if is_main() and start is None:
        checkpoints.begin(begun, held_out.to_json())
    read = _in_turn(lambda: write(plan, checkpoints.folder, held_out)) if write else plan.text
    with progress("Packing text", None, shown=shown):
        rows = _pack(plan, read, tokenizer, held_out, start)
    student = prepare(plan)
    if is_main():
        checkpoints.settle({"facts": json.loads(json.dumps(student.facts))})
    base = student.model
    set_seed(settings.seed)  # the adapter's first weights, and dropout
    adapted = _adapt(plan, student)
    done = int(start.name.rpartition("-")[2]) if start else 0
    with progress(f"Healing from step {done}" if done else "Healing", schedule.steps - done, shown=shown) as bar:
        trained = run(
            adapted,
            rows,
            schedule,
            measure=lambda wrapper: held_out_losses(base, held_out, batch_size=settings.batch_size, wrapper=wrapper),
            settings=settings,
            running=plan.running,
            checkpoints=checkpoints,
            start=start,
            bar=bar,
        )
    document = heal_document(plan, student, held_out, trained, rows.ended, facts)
    if trained.ended == "text":
        say(
            f"The text ended after {document['tokens']:,} of the {schedule.tokens:,} tokens asked for: the adapter has "
            "learnt from what there was, at rates meant for more"
        )
    if is_main():
        with staged_directory(plan.out, overwrite=plan.overwrite) as stage:
            for path in map(Path, read.sources if write else ()):
                shutil.copy2(path, stage / path.name)
            keep_logs(checkpoints.folder, stage, plan.running.report_to)
            _save(adapted, stage, document, trained.weights)
        checkpoints.clear()
    return HealResult(plan.out, document), held_out


def _compare_with_cut(plan: HealPlan, result: HealResult, held_out: HeldOut, *, shown: bool) -> None:
    """Add to the finished adapter's heal.json how it stands beside the unquantised cut."""
    from heal.training.unquantised import compare_with_cut, compared_line

    with progress("Comparing with the unquantised cut", None, shown=shown):
        facts = compare_with_cut(plan, held_out, result.document)
    result.document["unquantised"] = facts
    write_json(plan.out / "heal.json", result.document, overwrite=True)
    if shown:
        screen().print(compared_line(facts))


def _pack(plan: HealPlan, text: TextSource, tokenizer: Any, held_out: HeldOut, start: Path | None) -> Mixed:
    """The rows to train on, from the place where the checkpoint `start` stands; the first are read already."""
    how: dict[str, Any] = {"length": plan.settings.length, "seed": plan.settings.seed}
    if start is None:
        check_enough(text, tokenizer, held_out, rows=plan.schedule.rows, **how)
    rows = row_stream(text, tokenizer, held_out, **how, state=read_state(start)[1] if start else None)
    rows.fill()
    return rows


def _adapt(plan: HealPlan, student: Student) -> PeftModel:
    """The student with a fresh adapter, its activations checkpointed if so asked."""
    from heal.models.adapters import add_adapter, checkpoint_activations

    settings, targets = plan.settings, student.targets
    place = plan.model.name if plan.model.commit else str(plan.model.folder.resolve())
    adapted = add_adapter(
        student.model, targets, rank=settings.rank, alpha=settings.lora_alpha, dropout=settings.dropout, base=place
    )
    if settings.checkpointing:
        checkpoint_activations(adapted)
        if targets.first == 0:
            adapted.enable_input_require_grads()  # else a frozen embedding starts each checkpoint without a gradient
    return adapted


def _join(plan: HealPlan) -> None:
    """Let the processes that a launcher has started find one another."""
    if rank_and_world()[1] > 1:
        from accelerate import PartialState

        PartialState(cpu=plan.device == "cpu", timeout=_PATIENCE)


def _begun(plan: HealPlan, identity: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """What a run must have in common with the one that it goes on with."""
    found = {
        "method": plan.method,
        "model": base,
        "settings": {name: value for name, value in asdict(plan.settings).items() if name != "prompts"},  # see `also`
        "steps": plan.schedule.to_json(),
        "text": {**identity, "held_out_tokens": plan.text.limit},
        "device": plan.device.partition(":")[0],
        **plan.also,
    }
    return dict(json.loads(json.dumps(found)))


def _start(
    checkpoints: Checkpoints, begun: dict[str, Any], running: Running, say: Callable[[str], None]
) -> Path | None:
    """The checkpoint to go on from, or None to begin."""
    if not running.resume:
        checkpoints.clear()
        return None
    if checkpoints.begun():
        checkpoints.check(begun)
    found = checkpoints.newest(say)
    if found is None:
        say("There is no checkpoint to go on from: beginning with the first step")
    return found


def _in_turn(function: Callable[[], TextSource]) -> TextSource:
    """Call it in the main process first: what that has written, the others find."""
    found = function() if is_main() else None
    gather(None)
    return function() if found is None else found


def _save(adapted: PeftModel, stage: Path, document: dict[str, Any], weights: dict[str, Any] | None) -> None:
    from heal.cards import adapter_card
    from heal.models.adapters import save_adapter

    save_adapter(adapted, stage, weights)
    write_text(stage / "README.md", adapter_card(document))
    write_json(stage / "heal.json", document)
