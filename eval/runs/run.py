"""`evaluate run`: one model's answers to the drawn questions, through lm-eval, question by question."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.asking.backends import (
    USUAL_ROWS,
    asked_context,
    check_backend,
    device_of,
    longest_scored,
    open_model,
    weights_judged,
)
from eval.asking.cache import AnswerStore
from eval.asking.lm_eval_tasks import pick_logged
from eval.asking.prompts import Prompts
from eval.asking.removal import Removal, plan_removal
from eval.asking.tasks import TaskPlan, example_notes, plan_tasks, prompts_of
from eval.questions.schema import Question, cluster_of
from eval.runs.again import Again
from eval.runs.as_stored import measure_stored
from eval.runs.needles import draw_needles, measure_needles
from eval.runs.prose import Prose, draw_prose, measure_prose
from eval.runs.samples import RunResult, Sample, chosen_index, hash_prompt
from eval.settings import SHORTEST, RunSettings, Settings, settings_of
from prune.checkpoint.identity import content_sha256, model_identity
from prune.checkpoint.source import locate
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.provenance import versions
from prune.common.machine.memory import give_back
from prune.common.screen.terminal import progress, quiet_libraries
from prune.models.loading import load_tokenizer
from prune.models.precision import pick_dtype
from prune.models.vllm.options import altering
from prune.models.whole import NF4
from prune.text.chats import wants_chat

if TYPE_CHECKING:
    from eval.asking.asker import Asker


@checks_arguments
def run(
    model: str | Path,
    settings: Settings | None = None,
    *,
    revision: str | None = None,
    label: str | None = None,
    own_loss: bool = True,
    again: Again | None = None,
    show_progress: bool = True,
    **options: Any,
) -> RunResult:
    """Ask one model the drawn questions of each domain and protocol, and the lm-eval tasks that are named.

    Args:
        model: a model folder or hub id.
        settings: what is asked and how; if None, made of `options`, which are the fields of `RunSettings`.
        label: what to call the model; its folder's or hub name if None.
        own_loss: in NF4, and with prose: measure it on the weights as they are stored too.
        again: the model is asked a second time, so much of prose and needles. Answers that were kept of the first
            time are passed over, and those of this time kept apart.

    Raises:
        UsageError: settings that are wrong in themselves.
        RegrowthError: the questions, the model or its tokenizer cannot be read, or a score is not a number.
    """
    settings = settings_of(RunSettings, settings, options)
    plans, prompts = plan_tasks(settings), prompts_of(settings)
    check_backend(settings)
    label = label or name_of(model)
    source = locate(model, revision=revision)
    quiet_libraries()
    tokenizer = load_tokenizer(source)
    chat = wants_chat(settings.chat_template, tokenizer, source.name)
    context = asked_context(source, settings.max_length)
    _check_room(settings, context)
    identity = model_identity(source.folder, name=source.name, commit=source.commit)
    removal = plan_removal(settings, identity) if isinstance(settings, RunSettings) else None
    drawn = draw_prose(settings, tokenizer, context)
    planned = draw_needles(settings, tokenizer, source, chat=chat) if settings.needles else None
    if again is not None:
        drawn, planned = again.of_prose(drawn), None if planned is None else again.of_needles(planned)
    started = time.monotonic()
    total = sum(p.requests for p in plans) + sum(map(len, drawn.values())) + len(planned or ())
    from eval.asking.asker import Asker  # imports lm-eval, after what can be wrong was checked

    with progress(f"asking {label}", total, shown=show_progress) as bar:
        bar.note("reading the weights' hash")
        content = content_sha256(source.folder, memo=settings.cache and settings.cache / "hashes.json")
        bar.note("")
        answers = AnswerStore()
        if settings.cache is not None:
            answers = _stored(settings, content, context, prompts, removal, again=again is not None)
        asker = Asker(
            lambda: open_model(source, tokenizer, settings, max_length=context, bar=bar, removal=removal),
            tokenizer,
            answers,
            max_length=context,
            scored=longest_scored(settings, context),
            bar=bar,
        )
        try:
            harness = ask_tasks(asker, plans, settings, chat=chat)
            prose = {
                name: measure_prose(asker.window_nats(windows), tokenizer, windows) for name, windows in drawn.items()
            }
            rows = asker.rows or settings.batch_size or USUAL_ROWS
            needles = None if planned is None else measure_needles(planned, asker.written, rows)
        finally:
            asker.close()
            answers.close()
    logged = harness.pop("samples")
    sizes = _batch_sizes(asker.sizes, asker.rows or settings.batch_size or USUAL_ROWS)
    facts, notes = asker.facts, [*([removal.note] if removal else []), *example_notes(plans), *asker.notes]
    tokens, asked, known, truncated = asker.tokens, asker.asked, asker.known, asker.truncated
    del asker
    give_back()
    stored: dict[str, Prose] = {}
    if own_loss and settings.load_in_4bit and drawn:
        if removal is None:
            plain = replace(settings, load_in_4bit=False)
            kept = AnswerStore() if settings.cache is None else _stored(plain, content, context, prompts, None)
            stored, missed = measure_stored(source, plain, tokenizer, drawn, kept, show_progress=show_progress)
            notes += missed
        else:
            notes.append("what NF4 alone costs is not measured on a model whose heads are taken out")
    return RunResult(
        label=label,
        identity={**identity, "content_sha256": content},
        tasks=tuple(plans),
        samples=tuple(read_logged(plans, logged, tokenizer)),
        harness=harness,
        prose=prose,
        settings=_asked_how(
            settings,
            prompts,
            removal,
            **sizes,
            dtype=facts["dtype"],
            max_length=context,
            chat_template=chat,
        ),
        seconds=time.monotonic() - started,
        tokens=tokens,
        truncated=truncated,
        notes=tuple(notes),
        asked=asked,
        known=known,
        logged=pick_logged(logged, [plan.name for plan in plans]),
        needles=needles,
        stored_prose=stored,
    )


def _batch_sizes(sizes: Mapping[int | None, int], rows: int) -> dict[str, Any]:
    """At how many requests a time most answers came, and where there are several such numbers, how many by each.

    Args:
        sizes: as of `Asker`.
        rows: what stands for answers of which it is not known.
    """
    usual = max((size for size in sizes if size is not None), key=lambda size: sizes[size], default=rows)
    if len(sizes) < 2:
        return {"batch_size": usual}
    named = {"unknown" if size is None else str(size): count for size, count in sizes.items()}
    return {"batch_size": usual, "batch_sizes": dict(sorted(named.items(), key=lambda item: (len(item[0]), item[0])))}


def _check_room(settings: Settings, context: int) -> None:
    if "slow" in settings.thinking and context < settings.slow_tokens + SHORTEST:
        raise UsageError(
            f"--slow-tokens {settings.slow_tokens} leaves no room for a question in a context of {context} tokens; "
            f"use {max(0, context - SHORTEST)} at most, or a longer --max-length"
        )


def _asked_how(settings: Settings, prompts: Prompts | None, removal: Removal | None, **settled: Any) -> dict[str, Any]:
    """How a model was asked, for its record: the settings, and what was settled when it was read (`settled`)."""
    more: dict[str, Any] = {}
    if settings.needles:
        more["needles"] = {
            "lengths": list(settings.needle_lengths),
            "depths": settings.needle_depths,
            "count": settings.needle_count,
            "text": list(settings.haystacks),
        }
    if removal is not None:
        more["removed_heads"] = removal.to_json()
    return {
        **settled,
        "weights": weights_judged(settings),
        "device": device_of(settings),
        "backend": settings.backend,
        "backend_args": dict(settings.backend_args),
        **settings.draw,
        "thinking": list(settings.thinking),
        "slow_tokens": settings.slow_tokens,
        "prompts": None if prompts is None else prompts.sha256,
        **more,
    }


def _stored(
    settings: Settings,
    content: str,
    context: int,
    prompts: Prompts | None,
    removal: Removal | None,
    *,
    again: bool = False,
) -> AnswerStore:
    """The answers that the model of this `content_sha256` gave, under all that an answer depends on but its prompt."""
    vllm, device = settings.backend == "vllm", device_of(settings)
    apart = ("python", "regrowth", "peft") if vllm else ("python", "regrowth", "peft", "vllm")
    scope = {
        "content_sha256": content,
        "dtype": str(pick_dtype(settings.dtype, device=device)).removeprefix("torch."),  # `auto` is not one everywhere
        "device": device.partition(":")[0],
        "backend": settings.backend,
        "max_length": context,
        "seed": settings.seed if vllm else None,
        "versions": {key: value for key, value in versions().items() if key not in apart},
    }
    if settings.load_in_4bit:  # else left out: answers that were kept before there was NF4 stay
        scope["weights"] = NF4
    if prompts is not None:
        scope["prompts"] = prompts.sha256
    if vllm:
        scope["backend_args"] = altering(settings.backend_args)
    if removal is not None:
        scope["removed_heads"] = removal.heads
    if again:  # never to be answered by the first time
        scope["again"] = {"batch_size": settings.batch_size, "backend_args": dict(settings.backend_args)}
    return AnswerStore(settings.cache, scope)


def name_of(model: str | Path) -> str:
    """The last part of a folder or hub id."""
    path = Path(model)
    return path.name or path.resolve().name


def ask_tasks(asker: Asker, plans: list[TaskPlan], settings: Settings, *, chat: bool) -> dict[str, Any]:
    """What lm-eval finds on our tasks, and on its own that are named; with the samples."""
    from lm_eval import evaluator

    from eval.asking.harness import PlannedTask
    from eval.asking.lm_eval_tasks import load_logged, task_manager

    manager = task_manager(settings)
    with _no_git(evaluator):
        results: dict[str, Any] = evaluator.simple_evaluate(
            model=asker,
            tasks=[*(PlannedTask(plan) for plan in plans), *load_logged(settings, manager)],
            task_manager=manager,
            num_fewshot=settings.few_shot,
            limit=settings.limit,
            apply_chat_template=chat,
            random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
            log_samples=True,
            bootstrap_iters=1,  # all our metrics are means, whose standard error is in closed form
            use_cache=None,
            cache_requests=False,
        )
    return results


@contextmanager
def _no_git(evaluator: Any) -> Iterator[None]:
    """lm-eval asks git for the commit of the current folder, and git complains on stderr where it is no checkout."""
    ask_git = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = ask_git


def read_logged(plans: list[TaskPlan], logged: dict[str, list[dict[str, Any]]], tokenizer: Any) -> list[Sample]:
    """Our tasks' samples, of what lm-eval logged."""
    samples = []
    for plan in plans:
        entries = {entry["doc"]["id"]: entry for entry in logged[plan.name]}
        if missing := [q.id for q in plan.questions if q.id not in entries]:
            raise RegrowthError(f"{plan.name}: no score came back for question {missing[0]}")
        samples += [_sample(plan, q, entries[q.id], tokenizer) for q in plan.questions]
    return samples


def _sample(plan: TaskPlan, question: Question, entry: dict[str, Any], tokenizer: Any) -> Sample:
    chosen = plan.picks
    correct = entry["acc_norm"] if chosen else entry["exact_match"]
    response = chosen_index(entry) if chosen else entry["filtered_resps"][0]
    return Sample(
        id=question.id,
        domain=plan.domain,
        protocol=plan.protocol,
        subject=question.subject,
        source=question.source,
        correct=bool(correct),
        correct_raw=bool(entry["acc"] if chosen else correct),
        answer_nll_bits=None if plan.thinking else entry["answer_nll_bits"],
        parsed=chosen or not entry["unparseable"],
        response=response,
        prompt_hash=hash_prompt(entry["arguments"]),
        thinking=plan.thinking,
        cut=plan.thinking == "slow" and _reached(plan.slow_tokens, str(response), tokenizer),
        cluster=cluster_of(question),
    )


def _reached(limit: int, response: str, tokenizer: Any) -> bool:
    """Whether a text fills a limit of new tokens (decoding may lose a space, so a token less is full as well)."""
    return len(tokenizer.encode(response, add_special_tokens=False)) >= limit - 1
