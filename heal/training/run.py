"""A healing run: plan it, then execute it. And QLoRA: a frozen base in 4 bits, an adapter, plain text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.defaults import left_open, settle
from heal.place import first_after_cut
from heal.settings import Running, Settings, check, check_fit, check_running, longest_row
from heal.text.sources import HeldOut, TextSource, check_enough, hold_out, row_stream
from heal.training.checkpoints import Checkpoints, read_state
from heal.training.reporting import keep_logs
from heal.training.schedule import Schedule, parse_tokens, plan_steps, schedule_line
from prune.checkpoint.source import Source, locate
from prune.common.errors import RegrowthError, UsageError
from prune.common.outputs import check_free, staged_directory, write_json, write_text
from prune.common.processes import gather, is_main, rank_and_world, sharded
from prune.common.terminal import progress, quiet_libraries, screen
from prune.models.loading import load_tokenizer, pick_device

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from heal.models.adapters import Targets
    from heal.text.streams import Mixed


# How long a process waits for the others: while one writes responses (`--teacher-data self`), it is hours.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class HealPlan:
    """What a run will do; nothing is loaded yet. `model` is what heals: the adapter will fit it, and no other.

    Attributes:
        also: what else a run that goes on must have in common with the one that was begun, such as the teacher.
        from_budget: names of the settings that were not given, and so follow from the token budget.
    """

    method: str
    model: Source
    text: TextSource
    out: Path
    settings: Settings
    schedule: Schedule
    device: str
    overwrite: bool
    running: Running
    also: dict[str, Any] = field(default_factory=dict)
    from_budget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Student:
    """A model made ready to be trained: frozen, its forward pass gives the loss (`heal.models.lm_head`,
    `heal.models.student`).

    Attributes:
        facts: what the method adds to heal.json.
    """

    model: PreTrainedModel
    targets: Targets
    quantised: list[str]
    facts: dict[str, Any]


@dataclass(frozen=True)
class HealResult:
    """What a run did. `document` is its heal.json."""

    out: Path
    document: dict[str, Any]

    @property
    def before(self) -> float:
        """Held-out loss of the base in the training precision, in nats per token."""
        return float(self.document["held_out_loss"]["before"])

    @property
    def after(self) -> float:
        """Held-out loss with the adapter that was kept, in nats per token."""
        return float(self.document["held_out_loss"]["after"])


def qlora(
    model: str | Path,
    text: TextSource | str,
    out: str | Path,
    *,
    tokens: int | str = "2M",
    settings: Settings | None = None,
    device: str = "auto",
    revision: str | None = None,
    overwrite: bool = False,
    running: Running | None = None,
    shown: bool = True,
) -> HealResult:
    """Train a LoRA adapter on plain text and write it to `out` in peft's format, with heal.json and a model card.

    Args:
        model: the pruned model: a folder or hub id.
        text: what to heal on; a string is a SOURCE with the field `text`.
        out: folder for the adapter; appears whole or not at all.
        tokens: budget, BOS and EOS included; spent in whole steps. Text that cannot be counted beforehand and ends
            sooner ends the run there; heal.json says so.
        running: checkpoints, going on from them, reports; see `heal.settings.Running`.
        shown: show progress on stderr.

    Raises:
        UsageError: settings that do not fit the model or one another.
        TextError: text that is missing, too short for the budget, or leaves nothing held out.
        RegrowthError: `out` exists, the model cannot be healed, or training diverged.
        heal.training.stopping.Interrupted: SIGTERM or SIGINT; a checkpoint is saved.
    """
    plan = plan_healing(
        "qlora",
        model,
        text,
        out,
        tokens=tokens,
        settings=settings or Settings(),
        device=device,
        revision=revision,
        overwrite=overwrite,
        running=running,
    )
    return execute(plan, _frozen, shown=shown)


def plan_healing(
    method: str,
    model: str | Path,
    text: TextSource | str,
    out: str | Path,
    *,
    tokens: int | str,
    settings: Settings,
    device: str,
    revision: str | None,
    overwrite: bool,
    running: Running | None = None,
) -> HealPlan:
    """Settle what a run will do, and refuse what cannot be done before anything that takes long. See `qlora`."""
    asked, budget = settings, parse_tokens(tokens)
    settings, schedule = _settled(asked, budget)
    running = running or Running()
    check(settings)
    check_running(running)
    _check_sharding(method, settings)
    check_free(out, overwrite=overwrite)
    left = Checkpoints(Path(out)).left()
    if left and not (running.resume or overwrite):
        raise RegrowthError(
            f"a run into {out} stands unfinished {left}: go on with --resume, or begin anew, --overwrite"
        )
    quiet_libraries()
    device = pick_device(device)
    from heal.models.quantise import compute_dtype

    source = locate(model, revision=revision)
    settings, schedule = _settled(asked, budget, longest=longest_row(source))
    settings = replace(settings, dtype=str(compute_dtype(settings.dtype, device=device)).removeprefix("torch."))
    check_fit(source, settings)
    text = TextSource(text) if isinstance(text, str) else text
    return HealPlan(
        method, source, text, Path(out), settings, schedule, device, overwrite, running, from_budget=left_open(asked)
    )


def _settled(settings: Settings, tokens: int, longest: int | None = None) -> tuple[Settings, Schedule]:
    """The settings with what follows from the budget, and its steps; `longest`: tokens that the model can read."""
    processes = rank_and_world()[1]
    settings = settle(settings, tokens=tokens, processes=processes, longest=longest)
    schedule = plan_steps(
        tokens,
        length=settings.length,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        processes=processes,
        warmup=settings.warmup,
    )
    return settings, schedule


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
    from prune.checkpoint.base_identity import base_identity

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


def _check_sharding(method: str, settings: Settings) -> None:
    if not sharded():
        return
    if method == "distill":
        raise UsageError("heal distill shares weights between two models, which FSDP cannot; take DDP (ddp.yaml)")
    if settings.bits == 8:
        raise UsageError("--bits 8 cannot be put in shards by FSDP; take --bits 4 or 16")
    if settings.patience is not None:
        raise UsageError("--patience keeps a copy of the best adapter, which FSDP has in shards; leave it out")


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
        "text": {**identity, "held_out_tokens": plan.text.held_out_tokens},
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


def _frozen(plan: HealPlan) -> Student:
    """The pruned model itself, for the plain loss."""
    from heal.models.adapters import find_targets
    from heal.models.lm_head import attach_loss
    from heal.models.quantise import load_frozen, quantised_modules

    base = load_frozen(plan.model, bits=plan.settings.bits, device=plan.device, dtype=plan.settings.dtype)
    targets = find_targets(base, plan.settings.targets, cut=first_after_cut(plan.model.folder))
    attach_loss(base)
    return Student(base, targets, quantised_modules(base), {})


def _save(adapted: PeftModel, stage: Path, document: dict[str, Any], weights: dict[str, Any] | None) -> None:
    from heal.cards import adapter_card
    from heal.models.adapters import save_adapter

    save_adapter(adapted, stage, weights)
    write_text(stage / "README.md", adapter_card(document))
    write_json(stage / "heal.json", document)
