"""`evaluate depth`: what each block of layers is for, by what its removal costs knowledge and chains of reasoning."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.asking.backends import asked_at_once, asked_context, check_resident, load_asked, weights_judged
from eval.asking.tasks import TaskPlan, hash_questions, prompts_of
from eval.billing.sweep import Cost
from eval.depth.loaded import Loaded
from eval.depth.plan import DepthTask, draw_tasks, plan_blocks, read_pool
from eval.depth.settings import DepthSettings
from eval.settings import SHORTEST, settings_of
from eval.sweeps.plan import SweepPlan
from eval.sweeps.run import identify
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError
from prune.common.files.outputs import check_apart, free_folder
from prune.common.files.provenance import digest
from prune.common.files.resume import Unfinished
from prune.common.machine.memory import give_back, peak_memory
from prune.common.screen.terminal import progress, quiet_libraries, screen
from prune.families.subject import Subject, open_subject
from prune.models.at_once import WALK_TOKENS, at_once
from prune.models.loading import load_tokenizer, pick_device
from prune.text.chats import wants_chat

if TYPE_CHECKING:
    from eval.depth.files import Depth
    from eval.depth.similarity.fast_slow import FastSlowSimilarity
    from eval.depth.similarity.pairs import PromptPair
    from eval.depth.unfinished import KeptWork
    from eval.runs.samples import RunResult


@checks_arguments
def measure_depth(
    model: str | Path,
    settings: DepthSettings | None = None,
    *,
    out: str | Path | None = None,
    revision: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
    **options: Any,
) -> Depth:
    """Take blocks of layers out of a model, each by itself, and measure what questions of some domains lose.

    `out` appears whole or not at all: depth.json, depth.md, depth_<task>.jsonl, figures, report.html; nothing is
    written if None.

    Args:
        model: a model folder or hub id.
        settings: which blocks and which questions; if None, made of `options`, the fields of `DepthSettings`.
        out: the folder. While the run lasts its work is kept in a hidden file beside it.
        resume: go on with what an interrupted run has left there; `overwrite` replaces that too.

    Raises:
        UsageError: options that do not fit each other or the model.
        RegrowthError: the questions or the model cannot be read, there is no rationale where only measures that need
            one are asked, the layers cannot be walked, or a score is not a number.
    """
    settings = settings_of(DepthSettings, settings, options)
    check_resident(settings, pick_device(settings.device))
    if out is not None:
        free_folder(out, overwrite=overwrite)
        check_apart(out, model, *settings.files_read)
    pool = read_pool(settings)
    subject = open_subject(model, revision=revision)
    plan = plan_blocks(subject.layers, sizes=settings.sizes, spread=settings.starts)
    unfinished = None if out is None else Unfinished.beside(out, resume=resume, overwrite=overwrite)
    if show_progress:
        screen().print(plan.words())
    quiet_libraries()
    with unfinished or nullcontext():
        measured = _measure(subject, plan, pool, settings, unfinished, show_progress=show_progress)
    if out is not None:
        from eval.depth.files import write_depth

        write_depth(measured, out, overwrite=overwrite)
    if unfinished is not None:
        unfinished.clear()
    return measured


def _measure(
    subject: Subject,
    plan: SweepPlan,
    pool: Sequence[TaskPlan],
    settings: DepthSettings,
    unfinished: Unfinished | None,
    *,
    show_progress: bool,
) -> Depth:
    from eval.depth.choosing import choose_written
    from eval.depth.files import assemble
    from eval.depth.unfinished import KeptWork
    from eval.depth.walking import walk_tasks

    began = time.monotonic()
    source, identity = identify(subject.source, show_progress=show_progress)
    with progress("Loading the model", None, shown=show_progress):
        tokenizer = load_tokenizer(source)
        tasks = draw_tasks(pool, settings, tokenizer)
        context = asked_context(source, settings.max_length)
        _check_room(settings, context)
        kept = KeptWork(unfinished, _facts(identity, plan, tasks, settings, context))
        chat = wants_chat(settings.chat_template, tokenizer, source.name)
        pairs = _prompt_pairs(tasks, tokenizer, context, chat, settings) if settings.similarity else []
        device = pick_device(settings.device)
        settings = replace(settings, batch_tokens=settings.batch_tokens or at_once(WALK_TOKENS, device))
        model = load_asked(source, settings, device)
        settings = replace(settings, batch_size=settings.batch_size or asked_at_once(model, context))
        loaded = Loaded(model, tokenizer, device, context, chat)
    seconds = {"load": time.monotonic() - began}
    walked = walk_tasks(loaded, plan, tasks, settings, kept, show_progress=show_progress)
    seconds["walk"] = time.monotonic() - began - sum(seconds.values())
    written = choose_written(plan, walked.tasks, settings.generate)
    runs = _write(loaded, subject, plan, [row.variant for row in written], tasks, settings, kept, show_progress)
    seconds["write"] = time.monotonic() - began - sum(seconds.values())
    similarity = _compare_states(loaded, tasks, pairs, settings, show_progress) if settings.similarity else None
    seconds["similarity"] = time.monotonic() - began - sum(seconds.values())
    asked_how = {
        **{name: getattr(settings, name) for name in ("max_rationale_tokens", "generate", "slow_tokens")},
        "batch_tokens": settings.batch_tokens,
        "batch_size": settings.batch_size,
        "max_length": context,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": weights_judged(settings),
        "device": device,
        "chat_template": loaded.chat,
        **{name: value for name, value in settings.draw.items() if name != "few_shot"},
    }
    cost = Cost(seconds={key: round(value, 1) for key, value in seconds.items()}, peak_memory=peak_memory(device))
    del model, loaded
    give_back()
    facts = {"model": identity, "questions": hash_questions(settings), "seed": settings.seed}
    return assemble(
        plan,
        walked,
        settings,
        written=written,
        runs=runs,
        similarity=similarity,
        asked_how=asked_how,
        cost=cost,
        facts=facts,
    )


def _check_room(settings: DepthSettings, context: int) -> None:
    if settings.generate and context < settings.slow_tokens + SHORTEST:
        raise UsageError(
            f"--slow-tokens {settings.slow_tokens} leaves no room for a question in a context of {context} tokens"
        )


def _write(
    loaded: Loaded,
    subject: Subject,
    plan: SweepPlan,
    labels: Sequence[str],
    tasks: Sequence[DepthTask],
    settings: DepthSettings,
    kept: KeptWork,
    show_progress: bool,
) -> list[RunResult]:
    """The written answers of the variants of these labels, as runs."""
    if not labels:
        return []
    from eval.depth.writing import Writer, as_run, thinking_plans

    plans = thinking_plans(tasks, settings)
    writer = Writer(loaded, subject, settings)
    by_label = {variant.label: variant for variant in plan.variants}
    total = len(labels) * sum(task.requests for task in plans)
    with progress(f"Writing answers of {len(labels)} variants", total, shown=show_progress) as bar:
        for label in labels:
            bar.note(label)
            if label in kept.written:
                bar.advance(total / len(labels))
            else:
                kept.put(label, writer.write(by_label[label], plans, bar))
    return [as_run(label, plans, kept.written[label]) for label in labels]


def _prompt_pairs(
    tasks: Sequence[DepthTask], tokenizer: Any, context: int, chat: bool, settings: DepthSettings
) -> Sequence[PromptPair]:
    """Both prompts of each question; made before the walk, so that what is wrong with them shows at once."""
    from eval.depth.similarity.pairs import pair_prompts

    questions = [question for task in tasks for question in task.plan.questions]
    return pair_prompts(questions, tokenizer, chat=chat, prompts=prompts_of(settings.in_words), max_length=context)


def _compare_states(
    loaded: Loaded,
    tasks: Sequence[DepthTask],
    pairs: Sequence[PromptPair],
    settings: DepthSettings,
    show_progress: bool,
) -> FastSlowSimilarity:
    from eval.depth.similarity.fast_slow import fast_slow_similarity

    questions = [question for task in tasks for question in task.plan.questions]
    with progress("Comparing fast and slow prompts", 2 * len(questions), shown=show_progress) as bar:
        return fast_slow_similarity(loaded.model, questions, pairs, seed=settings.seed, progress=bar.advance)


def _facts(
    identity: dict[str, Any], plan: SweepPlan, tasks: Sequence[DepthTask], settings: DepthSettings, context: int
) -> dict[str, Any]:
    """What the work depends on, as far as it is known without the model: every byte of its weights counts."""
    asked = [[task.plan.name, [asdict(question) for question in task.plan.questions]] for task in tasks]
    return {
        "model": identity["content_sha256"],
        "blocks": [variant.label for variant in plan.variants],
        "measures": settings.measures,
        "max_rationale_tokens": settings.max_rationale_tokens,
        "slow_tokens": settings.slow_tokens,
        "max_length": context,  # a chain's prompt is cut to it, where no scored request may be
        "prompts": None if (own := prompts_of(settings.in_words)) is None else own.sha256,
        "questions": digest(asked),
        "weights": weights_judged(settings),
    }
