"""`evaluate sweep`: many cuts of one model on the same questions, in one walk through its layers."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.settings import Settings, named_texts
from eval.sweeps.plan import SweepPlan, plan_sweep
from eval.sweeps.result import FORMAT, Sweep
from prune.checkpoint.identity import content_sha256, model_identity
from prune.checkpoint.source import locate
from prune.common.errors import CheckpointError, UsageError
from prune.common.memory import peak_memory
from prune.common.outputs import check_free
from prune.common.provenance import file_sha256, provenance
from prune.common.terminal import progress, quiet_libraries, screen
from prune.cutting.planning import scan_of
from prune.families.subject import Subject, new_config, open_subject
from prune.models.loading import load_model, load_tokenizer, pick_device
from prune.models.precision import pick_dtype

if TYPE_CHECKING:
    from eval.asking.tasks import TaskPlan
    from eval.asking.walk import Answers, Way
    from eval.sweeps.files import Kept
    from eval.sweeps.healed import Healed
    from eval.sweeps.lookup import AnswerTask, Pair, Prompting
    from prune.models.walking import Route

BATCH_TOKENS = 1024


@dataclass
class Measured:
    """What a walk gave: per variant what lm-eval made of its answers, and how it was come by.

    logged: per variant what lm-eval found on each question, by task name (`eval.sweeps.scores.slim`).
    prompts: the questions' prompt hashes, by task name. answers: every log-likelihood, owners[i] being the number of
    pairs[i] there. seconds: by stage.
    """

    logged: list[dict[str, list[dict[str, Any]]]]
    prompts: dict[str, list[str]]
    pairs: list[Pair]
    owners: list[int]
    answers: Answers
    way: Way
    asked: int
    one_by_one: int
    truncated: int
    seconds: dict[str, float] = field(default_factory=dict)


def sweep(
    model: str | Path,
    *,
    out: str | Path | None = None,
    data: str | Path,
    domains: str | Iterable[str],
    sizes: str = "0-15",
    starts: str | None = None,
    scan: str | Path | None = None,
    adapters: Sequence[str | Path] = (),
    batch_tokens: int = BATCH_TOKENS,
    resume: str | Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    shown: bool = True,
    **options: Any,
) -> Sweep:
    """Ask all variants of a model the same questions, computing once what they share, and write the folder `out`.

    `out` appears whole or not at all: sweep.json, costs.json, samples_<task>.jsonl, curves and (of several starts a
    size) map as .png and .svg; nothing is written if None.

    Args:
        model: a model folder or hub id.
        data, domains: which questions; see `eval.settings.Settings`, whose limit, seed, sets, few_shot, chat_template,
            texts, field, max_length, device and dtype may be given as `options`.
        sizes: how many layers to drop, as `0-15`; the full model is always among them.
        starts: `best` (of the scan), `deepest`, `all`, or start layers such as `3,7,10-12`; best where there is a scan,
            else deepest, if None.
        scan: scan.json of this model.
        adapters: healing adapters of cuts of this model that sit after the cut alone; each is one variant more.
        batch_tokens: tokens of one batch; halved, and noted, where memory runs out.
        resume: a file that keeps the answers, so that an interrupted sweep goes on; removed at the end.
        shown: show progress on stderr.

    Raises:
        UsageError: options that do not fit each other or the model.
        RegrowthError: the questions, the scan, an adapter or the model cannot be read, its layers cannot be walked, or
            a score is not a number.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars (read when tqdm is first imported); ours say it in one
    settings = Settings.of(data=data, domains=domains, **options)
    if settings.thinking or settings.tasks:
        raise UsageError(
            "a sweep reads log-likelihoods of our domains' answers; use compare for --thinking and --tasks"
        )
    if batch_tokens < 64:
        raise UsageError(f"--batch-tokens {batch_tokens} is too few; take 64 or more")
    if out is not None:
        check_free(out, overwrite=overwrite)
    from eval.runs.run import plans_of

    tasks = plans_of(settings)
    subject = open_subject(model, revision=revision)
    plan, healed = _plan(subject, sizes, starts, scan, adapters)
    if shown:
        screen().print(plan.words())
    quiet_libraries()
    found = _measure(subject, plan, healed, tasks, settings, batch_tokens=batch_tokens, resume=resume, shown=shown)
    if out is not None:
        from eval.sweeps.files import write_sweep

        write_sweep(found, out, overwrite=overwrite)
    return found


def _plan(
    subject: Subject, sizes: str, rule: str | None, scan: str | Path | None, adapters: Sequence[str | Path]
) -> tuple[SweepPlan, list[Healed]]:
    known = scan_of(scan, subject)
    if rule is None:
        rule = "best" if known is not None else "deepest"
    best = None if known is None else {b.n: b.start for b in known.best}
    plan = plan_sweep(subject.layers, sizes=sizes, rule=rule, best=best)
    healed = []
    if adapters:
        from eval.sweeps.healed import read_healed

        healed = [read_healed(adapter, subject) for adapter in adapters]
        plan = plan.with_variants([one.variant for one in healed])
    for variant in plan.variants:
        kept = [layer for layer in range(subject.layers) if layer not in set(variant.dropped)]
        try:
            new_config(subject, kept, carry_code=False)
        except CheckpointError as error:
            raise CheckpointError(f"{variant.label} cannot be cut: {error}") from None
    return plan, healed


def _measure(
    subject: Subject,
    plan: SweepPlan,
    healed: Sequence[Healed],
    plans: Sequence[TaskPlan],
    settings: Settings,
    *,
    batch_tokens: int,
    resume: str | Path | None,
    shown: bool,
) -> Sweep:
    from eval.asking.backends import context_length
    from eval.runs.prose import draw_prose
    from eval.runs.run import wants_chat
    from eval.sweeps.files import Kept
    from eval.sweeps.lookup import AnswerTask, Prompting

    source, device = subject.source, pick_device(settings.device)
    began = time.monotonic()
    with progress("Reading the weights' hash", None, shown=shown):
        if source.commit:  # planning read the headers of a hub model alone
            source = locate(source.name, revision=source.commit)
        identity = model_identity(source.folder, name=source.name, commit=source.commit)
        identity["content_sha256"] = content_sha256(source.folder)
        kept = Kept(resume, _facts(identity, healed, plan, plans))
        kept.check()
    with progress("Loading the model", None, shown=shown):
        tokenizer = load_tokenizer(source)
        chat = wants_chat(settings, tokenizer, source.name)
        context = context_length(source, settings.max_length)
        drawn = {
            name: draw_prose(text, tokenizer, field=settings.field, seed=settings.seed, context=context)
            for name, text in named_texts(settings.texts).items()
        }
        loaded = load_model(source, dtype=pick_dtype(settings.dtype, device=device), device=device)
    switch = None
    if healed:
        from eval.sweeps.healed import attach

        switch = attach(loaded, healed)
    tasks = [AnswerTask(one) for one in plans]
    loading = time.monotonic() - began
    measured = walk_questions(
        loaded,
        tokenizer,
        plan,
        tasks,
        Prompting(chat, settings.seed),
        max_length=context,
        batch_tokens=batch_tokens,
        switch=switch,
        kept=kept,
        shown=shown,
    )
    seconds = {"load": loading, **measured.seconds}
    prose: list[dict[str, Any]] = []
    if drawn:
        began = time.monotonic()
        prose = _prose(loaded, tokenizer, plan, drawn, shown=shown)
        seconds["prose"] = time.monotonic() - began
    used = {
        "batch_tokens": batch_tokens,
        "max_length": context,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": device,
        "chat_template": chat,
        "few_shot": settings.few_shot,
        "limit": settings.limit,
        "seed": settings.seed,
        "sets": None if settings.sets is None else sorted(settings.sets),
    }
    peak = peak_memory(device)
    del loaded, switch
    gc.collect()
    facts = {
        "model": identity,
        "questions": {f"{d}.jsonl": file_sha256(Path(settings.data or "") / f"{d}.jsonl") for d in settings.domains},
        "seed": settings.seed,
    }
    notes = [*measured.answers.notes, *(note for one in healed for note in one.notes)]
    return assemble(plan, plans, measured, prose, used, facts, notes=notes, seconds=seconds, peak=peak)


def _facts(identity: dict[str, Any], healed: Sequence[Healed], plan: SweepPlan, plans: Sequence[TaskPlan]) -> Any:
    """What a sweep's answers depend on, as far as it is known without the model: every byte of its weights counts."""
    asked = [[one.name, [asdict(question) for question in (*one.examples, *one.questions)]] for one in plans]
    return [identity["content_sha256"], [content_sha256(one.folder) for one in healed], plan.to_json(), asked]


def walk_questions(
    model: Any,
    tokenizer: Any,
    plan: SweepPlan,
    tasks: Sequence[AnswerTask],
    prompting: Prompting,
    *,
    max_length: int,
    batch_tokens: int = BATCH_TOKENS,
    switch: Any = None,
    kept: Kept | None = None,
    shown: bool = True,
) -> Measured:
    """Answer the tasks' questions on all variants of a loaded model, and let lm-eval read them variant by variant.

    Args:
        tasks: `AnswerTask`s.
        prompting: how the questions are put.
        max_length: tokens of context.
        switch: what `eval.sweeps.healed.attach` gave, where the plan has an adapter.
        kept: the file of the answers so far, if one is kept.
    """
    from eval.asking.trees import plain_tokens
    from eval.asking.walk import choose_way, score
    from eval.runs.samples import hash_prompt
    from eval.sweeps.files import Kept
    from eval.sweeps.lookup import Bank, collect, collector, read
    from eval.sweeps.scores import slim

    began = time.monotonic()
    scorer = collector(model, tokenizer, max_length)
    pairs, requests, owners, cut = collect(tasks, scorer, prompting)
    way = choose_way(model, requests)
    kept = kept or Kept(None, None)
    known_before = kept.restore([[asdict(r) for r in requests], plan.to_json(), asdict(way), str(model.dtype)])
    with progress(f"Asking {len(plan.variants)} variants", len(requests), shown=shown) as bar:
        if way.why:
            bar.note(f"contexts are not shared: {way.why}")
        answers = score(
            model,
            requests,
            _routes(plan),
            way=way,
            batch_tokens=batch_tokens,
            switch=switch,
            answers=known_before,
            keep=kept.keep,
            advance=bar.advance,
        )
    walked = time.monotonic()
    logged = []
    with progress("Reading the answers", len(plan.variants), shown=shown) as bar:
        for row in range(len(plan.variants)):
            known = {
                pair: (float(answers.logprob[row, number]), bool(answers.greedy[row, number]))
                for pair, number in zip(pairs, owners, strict=True)
            }
            samples = read(tasks, Bank(known, scorer), prompting)["samples"]
            logged.append({name: [slim(entry) for entry in entries] for name, entries in samples.items()})
            bar.advance()
    kept.clear()
    prompts = {name: [hash_prompt(entry["arguments"]) for entry in entries] for name, entries in samples.items()}
    seconds = {"walk": walked - began, "read": time.monotonic() - walked}
    asked = len(requests)
    return Measured(logged, prompts, pairs, owners, answers, way, asked, plain_tokens(requests), cut, seconds)


def assemble(
    plan: SweepPlan,
    plans: Sequence[TaskPlan],
    measured: Measured,
    prose: list[dict[str, Any]],
    settings: dict[str, Any],
    facts: dict[str, Any],
    *,
    notes: list[str],
    seconds: dict[str, float],
    peak: dict[str, int],
) -> Sweep:
    """The documents of sweep.json and costs.json from what was measured."""
    from eval.sweeps import scores
    from prune.choosing.costs import Costs

    tasks = [
        scores.task_scores(one, [found[one.name] for found in measured.logged], measured.prompts[one.name])
        for one in plans
    ]
    notes = [*notes, *scores.warnings(tasks)]
    if measured.truncated:
        notes.append(f"the start of {measured.truncated} requests was cut to fit the context")
    passes = plan.passes()
    document = {
        "format": FORMAT,
        **plan.to_json(),
        "tasks": [
            {"domain": t.plan.domain, "protocol": t.plan.protocol, "n": t.n, "chance": scores.chance_of(t)}
            for t in tasks
        ],
        "rows": scores.rows(plan, tasks),
        "curves": scores.curves(plan, tasks),
        "healed": scores.healed(plan, tasks),
        "maps": scores.maps(plan, tasks),
        "prose": prose,
        "how": {
            "path": measured.way.name,
            "why": measured.way.why,
            "layer_passes": passes,
            "relative_passes": passes / plan.layers,
            "requests": measured.asked,
            "tokens": measured.answers.read,
            "tokens_one_by_one": measured.one_by_one,
            "head_positions": measured.answers.heads,
        },
        "settings": settings,
        "truncated": measured.truncated,
        "notes": notes,
        "measured": {"seconds": {key: round(value, 1) for key, value in seconds.items()}, "peak_memory": peak},
        "provenance": provenance(**facts),
    }
    costs = Costs(
        layers=plan.layers, measure=scores.COST, domains=scores.costs(plan, tasks), provenance=provenance(**facts)
    )
    return Sweep(plan, document, tuple(tasks), costs.to_json())


def _routes(plan: SweepPlan) -> list[Route]:
    from prune.models.walking import Route

    return [Route(frozenset(v.dropped), v.adapter, v.adapted_from) for v in plan.variants]


def _prose(
    model: Any, tokenizer: Any, plan: SweepPlan, drawn: dict[str, list[list[int]]], *, shown: bool
) -> list[dict[str, Any]]:
    from eval.billing.bill import bill_prose
    from eval.runs.prose import measure_prose
    from prune.models.variants import score_variants

    plain = [variant for variant in plan.variants if variant.adapter is None]
    found: list[dict[str, Any]] = []
    for text, windows in drawn.items():
        with progress(f"Prose {text}", sum(map(len, windows)), shown=shown) as bar:
            variants = [frozenset(variant.dropped) for variant in plain]
            losses = score_variants(model, windows, variants, kl=False, advance=bar.advance).loss
        full = None
        for variant, own in zip(plain, losses, strict=True):
            prose = measure_prose(own.tolist(), tokenizer, windows)
            full = full or prose
            row = asdict(bill_prose(variant.label, text, prose, None if prose is full else full))
            found.append({"variant": row.pop("model"), "size": variant.n, "start": variant.start, **row})
    return found
