"""`evaluate sweep`: many cuts of one model on the same questions, in one walk through its layers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.asking.backends import asked_context, check_resident, load_asked, weights_judged
from eval.asking.cache import AnswerStore
from eval.asking.tasks import TaskPlan, example_notes, hash_examples, hash_questions, plan_tasks
from eval.billing.rows.bill import bill_nf4
from eval.billing.sweep import Cost, VariantProse
from eval.runs.as_stored import measure_stored
from eval.runs.prose import Prose, draw_prose
from eval.settings import settings_of
from eval.sweeps.healed import Healed, attach, read_healed
from eval.sweeps.plan import SweepPlan, plan_sweep
from eval.sweeps.settings import SweepSettings
from prune.checkpoint.identity import content_sha256, model_identity
from prune.checkpoint.source import Source, locate
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError
from prune.common.files.outputs import check_apart, free_folder
from prune.common.files.provenance import digest
from prune.common.files.resume import Unfinished
from prune.common.layers import layers_without
from prune.common.machine.memory import give_back
from prune.common.machine.processes import is_main
from prune.common.screen.terminal import progress, quiet_libraries, screen
from prune.cutting.planning import scan_of
from prune.families.subject import Subject, new_config, open_subject
from prune.models.at_once import WALK_TOKENS, at_once
from prune.models.loading import load_tokenizer, pick_device
from prune.models.spread import peak_over
from prune.text.chats import wants_chat

if TYPE_CHECKING:
    from eval.sweeps.document import Sweep


@checks_arguments
def sweep(
    model: str | Path,
    settings: SweepSettings | None = None,
    *,
    out: str | Path | None = None,
    revision: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
    **options: Any,
) -> Sweep:
    """Ask all variants of a model the same questions, computing once what they share, and write the folder `out`.

    Started by torchrun or `accelerate launch`, each process answers a share of the questions, all return the same, and
    one writes.

    `out` appears whole or not at all: sweep.json, costs.json, samples_<task>.jsonl, curves and (of several starts a
    size) map as .svg; nothing is written if None.

    Args:
        model: a model folder or hub id.
        settings: which cuts and which questions; if None, made of `options`, which are the fields of `SweepSettings`.
        out: the folder. While the sweep runs its answers are kept in a hidden file beside it.
        resume: go on with what an interrupted sweep has left there; `overwrite` replaces that too.

    Raises:
        UsageError: options that do not fit each other or the model.
        RegrowthError: the questions, the scan, an adapter or the model cannot be read, its layers cannot be walked, or
            a score is not a number.
    """
    settings = settings_of(SweepSettings, settings, options)
    show_progress = show_progress and is_main()
    check_resident(settings, pick_device(settings.device))
    if out is not None:
        free_folder(out, overwrite=overwrite)
        check_apart(out, model, *settings.files_read)
    tasks = plan_tasks(settings)
    subject = open_subject(model, revision=revision)
    plan, healed = plan_variants(subject, settings)
    unfinished = None if out is None else Unfinished.beside(out, resume=resume, overwrite=overwrite)
    if show_progress:
        screen().print(plan.words())
    quiet_libraries()
    with unfinished or nullcontext():
        swept = _measure(subject.source, plan, healed, tasks, settings, unfinished, show_progress=show_progress)
    if out is not None and is_main():
        from eval.sweeps.document import write_sweep

        write_sweep(swept, out, overwrite=overwrite)
    if unfinished is not None and is_main():
        unfinished.clear()
    return swept


def plan_variants(subject: Subject, settings: SweepSettings) -> tuple[SweepPlan, list[Healed]]:
    """The variants of a sweep, and the adapters among them.

    Raises:
        UsageError, CheckpointError: a cut that the model cannot have, a scan or an adapter that is not of it.
    """
    scan = scan_of(settings.scan, subject)
    rule = settings.starts or ("deepest" if scan is None else "best")
    best = None if scan is None else {block.n: block.start for block in scan.best}
    plan = plan_sweep(subject.layers, sizes=settings.sizes, rule=rule, best=best)
    healed = [read_healed(adapter, subject) for adapter in settings.adapters]
    plan = plan.with_variants([adapter.variant for adapter in healed])
    for variant in plan.variants:
        try:
            new_config(subject, layers_without(variant.dropped, subject.layers), carry_code=False)
        except CheckpointError as error:
            raise CheckpointError(f"{variant.label} cannot be cut: {error}") from None
    return plan, healed


def identify(source: Source, *, show_progress: bool) -> tuple[Source, dict[str, Any]]:
    """The model with its weights here, and its identity with the hash of all of them."""
    with progress("Reading the weights' hash", None, shown=show_progress):
        if source.commit:  # planning read the headers of a hub model alone
            source = locate(source.name, revision=source.commit)
        identity = model_identity(source.folder, name=source.name, commit=source.commit)
        return source, {**identity, "content_sha256": content_sha256(source.folder)}


def _measure(
    source: Source,
    plan: SweepPlan,
    healed: Sequence[Healed],
    tasks: Sequence[TaskPlan],
    settings: SweepSettings,
    unfinished: Unfinished | None,
    *,
    show_progress: bool,
) -> Sweep:
    from eval.sweeps.document import assemble  # imports lm-eval, after what can be wrong was checked
    from eval.sweeps.lookup import AnswerTask, Prompting, collector
    from eval.sweeps.measure import walk_prose, walk_questions
    from eval.sweeps.unfinished import KeptAnswers

    began = time.monotonic()
    source, identity = identify(source, show_progress=show_progress)
    facts = _facts(identity, healed, plan, tasks, settings)
    kept = None if unfinished is None else KeptAnswers(unfinished, facts)
    device = pick_device(settings.device)
    batch_tokens = settings.batch_tokens or at_once(WALK_TOKENS, device)
    with progress("Loading the model", None, shown=show_progress):
        tokenizer = load_tokenizer(source)
        chat = wants_chat(settings.chat_template, tokenizer, source.name)
        context = asked_context(source, settings.max_length)
        drawn = draw_prose(settings, tokenizer, context)
        model = load_asked(source, settings, device)
        switch = attach(model, healed) if healed else None
    loading = time.monotonic() - began
    walked = walk_questions(
        collector(model, tokenizer, context),
        plan,
        [AnswerTask(task) for task in tasks],
        Prompting(chat, settings.seed),
        batch_tokens=batch_tokens,
        switch=switch,
        kept=kept,
        show_progress=show_progress,
    )
    seconds = {"load": loading, **walked.seconds}
    prose: list[VariantProse] = []
    full: dict[str, Prose] = {}
    if drawn:
        began = time.monotonic()
        prose, full = walk_prose(model, tokenizer, plan, drawn, switch=switch, show_progress=show_progress)
        seconds["prose"] = time.monotonic() - began
    asked_how = {
        "batch_tokens": batch_tokens,
        "max_length": context,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": weights_judged(settings),
        "device": device,
        "chat_template": chat,
        **settings.draw,
    }
    cost = Cost(seconds={key: round(value, 1) for key, value in seconds.items()}, peak_memory=peak_over(device))
    del model, switch
    give_back()
    stored: dict[str, Prose] = {}
    notes: list[str] = [note for adapter in healed for note in adapter.notes]
    if settings.load_in_4bit:
        notes = [f"{one.variant.label}: the adapter stands here on the full model in NF4" for one in healed]
    notes += example_notes(tasks)
    if settings.load_in_4bit and drawn:
        stored, missed = measure_stored(source, settings, tokenizer, drawn, AnswerStore(), show_progress=show_progress)
        notes += missed
    return assemble(
        plan,
        tasks,
        walked,
        prose,
        nf4_loss=bill_nf4(plan.variants[0].label, full, stored),
        settings=asked_how,
        notes=notes,
        cost=cost,
        facts={
            "model": identity,
            "questions": {**hash_questions(settings), **hash_examples(tasks, settings.data)},
            "seed": settings.seed,
        },
    )


def _facts(
    identity: dict[str, Any],
    healed: Sequence[Healed],
    plan: SweepPlan,
    tasks: Sequence[TaskPlan],
    settings: SweepSettings,
) -> dict[str, Any]:
    """What a sweep's answers depend on, as far as it is known without the model: every byte of its weights counts."""
    asked = [
        [task.name, [[asdict(shown) for shown in (*task.examples_for(item), item)] for item in task.questions]]
        for task in tasks
    ]
    return {
        "model": identity["content_sha256"],
        "cuts": [variant.label for variant in plan.variants],
        "adapters": [content_sha256(adapter.folder) for adapter in healed],
        "questions": digest(asked),
        "weights": weights_judged(settings),
    }
