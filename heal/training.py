"""A healing run: plan it, then execute it. And QLoRA: a frozen base in 4 bits, an adapter, plain text."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.data import HELD_OUT_SHARE, TextSource, hold_out, training_rows
from heal.place import first_after_cut
from heal.schedule import Schedule, parse_tokens, plan_steps
from heal.settings import Settings, check, check_fit
from prune.models import Source, load_tokenizer, locate, pick_device
from prune.outputs import check_free, staged_directory, write_json, write_text
from prune.provenance import provenance
from prune.terminal import progress, quiet_libraries

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from heal.adapters import Targets
    from heal.loop import Trained

FORMAT = "regrowth.heal/1"


@dataclass(frozen=True)
class HealPlan:
    """What a run will do; nothing is loaded yet. `model` is what heals: the adapter will fit it, and no other."""

    method: str
    model: Source
    text: TextSource
    out: Path
    settings: Settings
    schedule: Schedule
    device: str
    overwrite: bool


@dataclass(frozen=True)
class Student:
    """A model made ready to be trained: frozen, its forward pass gives the loss (`heal.head`, `heal.shared`).

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
        """Held-out loss with the adapter, in nats per token."""
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
    shown: bool = True,
) -> HealResult:
    """Train a LoRA adapter on plain text and write it to `out` in peft's format, with heal.json and a model card.

    Args:
        model: the pruned model: a folder or hub id.
        text: what to heal on; a string is a SOURCE with the field `text`.
        out: folder for the adapter; appears whole or not at all.
        tokens: budget, BOS and EOS included; spent in whole steps.
        shown: show progress on stderr.

    Raises:
        UsageError: settings that do not fit the model or one another.
        TextError: text that is missing, too short for the budget, or leaves nothing held out.
        RegrowthError: `out` exists, the model cannot be healed, or training diverged.
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
) -> HealPlan:
    """Settle what a run will do, and refuse what cannot be done before anything that takes long. See `qlora`."""
    schedule = plan_steps(
        parse_tokens(tokens),
        length=settings.length,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
    )
    check(settings)
    check_free(out, overwrite=overwrite)
    quiet_libraries()
    device = pick_device(device)
    source = locate(model, revision=revision)
    check_fit(source, settings)
    text = TextSource(text) if isinstance(text, str) else text
    return HealPlan(method, source, text, Path(out), settings, schedule, device, overwrite)


def execute(
    plan: HealPlan,
    prepare: Callable[[HealPlan], Student],
    *,
    write: Callable[[HealPlan, Path], TextSource] | None = None,
    shown: bool = True,
) -> HealResult:
    """Read the text, let `prepare` load the student, train an adapter on it and save it: the same for all methods.

    Args:
        write: gives other text to train on, written into the run's folder (or found there by a run that goes on).
    """
    from transformers import set_seed

    from heal.adapters import add_adapter
    from heal.identity import base_identity
    from heal.loop import run
    from heal.measuring import mean_loss

    settings, schedule, text = plan.settings, plan.schedule, plan.text
    tokenizer = load_tokenizer(plan.model)
    with staged_directory(plan.out, overwrite=plan.overwrite) as stage:
        with progress("Reading text", None, shown=shown):
            held_out = hold_out(text, tokenizer, length=settings.length)
        read = write(plan, stage) if write else text
        with progress("Packing text", None, shown=shown):
            rows = training_rows(
                read, tokenizer, held_out, rows=schedule.rows, length=settings.length, seed=settings.seed
            )
        student = prepare(plan)
        base, targets = student.model, student.targets
        set_seed(settings.seed)  # the adapter's first weights, and dropout
        place = plan.model.name if plan.model.commit else str(plan.model.folder.resolve())
        adapted = add_adapter(
            base, targets, rank=settings.rank, alpha=settings.lora_alpha, dropout=settings.dropout, base=place
        )
        if settings.checkpointing and targets.first == 0:
            adapted.enable_input_require_grads()  # else a frozen embedding starts each checkpoint without a gradient
        scratch = stage / ".trainer"
        with progress("Healing", schedule.steps, shown=shown) as bar:
            trained = run(
                adapted,
                rows,
                schedule,
                measure=lambda: mean_loss(base, held_out.rows, batch_size=settings.batch_size),
                eval_every=settings.eval_every or max(1, schedule.steps // 10),
                learning_rate=settings.learning_rate,
                checkpointing=settings.checkpointing,
                seed=settings.seed,
                scratch=scratch,
                bar=bar,
            )
        shutil.rmtree(scratch, ignore_errors=True)
        document = {
            "format": FORMAT,
            "method": plan.method if plan.method != "qlora" or settings.bits < 16 else "lora",
            **_report(trained, schedule, plan.device),
            "settings": {**asdict(settings), "alpha": settings.lora_alpha, **schedule.to_json()},
            "adapted": list(targets.modules),
            "quantised": student.quantised,
            **student.facts,
            "base": base_identity(plan.model),
            "held_out": {
                "tokens": sum(row.targets for row in held_out.rows),
                "share": None if text.held_out else 1 / HELD_OUT_SHARE,
            },
            "provenance": provenance(device=plan.device, **text.identity()),
        }
        _save(adapted, stage, document)
    return HealResult(plan.out, document)


def _frozen(plan: HealPlan) -> Student:
    """The pruned model itself, for the plain loss."""
    from heal.adapters import find_targets
    from heal.head import attach_loss
    from heal.quantise import load_frozen, quantised_modules

    base = load_frozen(plan.model, bits=plan.settings.bits, device=plan.device)
    targets = find_targets(base, plan.settings.targets, cut=first_after_cut(plan.model.folder))
    attach_loss(base)
    return Student(base, targets, quantised_modules(base), {})


def _report(trained: Trained, schedule: Schedule, device: str) -> dict[str, Any]:
    import torch

    peak: dict[str, int] = {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device.startswith("cuda"):
        peak["cuda_bytes"] = torch.cuda.max_memory_allocated()
    return {
        "tokens": schedule.tokens,
        "curve": [asdict(point) for point in trained.curve],
        "held_out_loss": {
            "before": trained.curve[0].held_out_loss,
            "after": trained.curve[-1].held_out_loss,
            "unit": "nats per token",
        },
        "tokens_per_second": schedule.tokens / trained.seconds,
        "training_seconds": trained.seconds,
        "peak_memory": peak,
    }


def _save(adapted: PeftModel, stage: Path, document: dict[str, Any]) -> None:
    from heal.card import adapter_card

    adapted.save_pretrained(stage, save_embedding_layers=False)
    (stage / "README.md").unlink(missing_ok=True)  # peft's own card is an empty form
    write_text(stage / "README.md", adapter_card(document))
    write_json(stage / "heal.json", document)
