"""QLoRA: a frozen base in 4 bits, an adapter, plain text."""

from __future__ import annotations

from pathlib import Path

from heal.lineage import first_after_cut
from heal.result import HealResult
from heal.settings import Settings, TrainingRun
from heal.text.sources import TextSource
from heal.training.plan import HealPlan, Student, plan_healing
from heal.training.run import execute
from prune.common.checked import checks_arguments
from prune.common.machine.processes import sharded


@checks_arguments
def qlora(
    model: str | Path,
    text: TextSource | str,
    out: str | Path,
    *,
    settings: Settings | None = None,
    run: TrainingRun | None = None,
) -> HealResult:
    """Train a LoRA adapter on plain text and write it to `out` in peft's format, with heal.json and a model card.

    Args:
        model: the pruned model: a folder or hub id.
        text: what to heal on; a string is a SOURCE with the field `text`.
        out: folder for the adapter; appears whole or not at all.

    Raises:
        UsageError: settings that do not fit the model or one another.
        TextError: text that is missing, too short for the budget, or leaves nothing held out.
        RegrowthError: `out` exists, the model cannot be healed, or training diverged.
        prune.common.machine.stopping.Interrupted: SIGTERM or SIGINT; a checkpoint is saved.
    """
    plan = plan_healing("qlora", model, text, out, settings or Settings(), run or TrainingRun())
    return execute(plan, load_student)


def load_student(plan: HealPlan) -> Student:
    """The model in the settings' bits, frozen, its forward pass returning the loss on the text."""
    from heal.models.kernels import Kernels, fuse
    from heal.models.lm_head import attach_loss
    from heal.models.quantise import load_frozen, quantised_modules
    from heal.models.targets import find_targets

    settings = plan.settings
    spread = plan.run.device_map is not None
    how = {"device": plan.run.device, "dtype": settings.dtype, "attention": settings.attention}
    base = load_frozen(plan.model, bits=settings.bits, spread=spread, **how)
    targets = find_targets(base, settings.targets, cut=first_after_cut(plan.model.folder))
    # Liger is checked against the plain model, which cannot run before it is in shards. Its kernels run on one GPU.
    kernels = Kernels() if sharded() or spread else fuse([base], settings.kernels, plan.run.device)
    attach_loss(base, at_once=not sharded())
    return Student(base, targets, quantised_modules(base), {}, kernels)
