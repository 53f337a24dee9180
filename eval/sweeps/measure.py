"""One walk through the layers: all variants' answers to all questions, and what lm-eval makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.asking.harness import Scorer
from eval.asking.trees import share_requests
from eval.asking.walk import RouteAnswers, Way, choose_way, score
from eval.billing.rows.bill import bill_prose
from eval.billing.sweep import VariantProse
from eval.runs.prose import Prose, measure_prose
from eval.runs.samples import hash_prompt
from eval.sweeps.lookup import AnswerTask, Collected, Prompting, StoredAnswers, collect, read
from eval.sweeps.plan import SweepPlan
from eval.sweeps.scores import slim
from eval.sweeps.unfinished import KeptAnswers
from prune.common.files.provenance import digest
from prune.common.machine.processes import gather, rank_and_world
from prune.common.screen.terminal import progress
from prune.models.walks.variants import score_variants


@dataclass(frozen=True)
class Walked:
    """What a walk gave.

    logged: per variant what lm-eval found on each question, by task name (`eval.sweeps.scores.slim`). prompts: the
    questions' prompt hashes, by task name. answers: every log-likelihood, by the numbers of the collected requests.
    seconds: by stage.
    """

    collected: Collected
    answers: RouteAnswers
    way: Way
    logged: list[dict[str, list[dict[str, Any]]]]
    prompts: dict[str, list[str]]
    seconds: dict[str, float]


def walk_questions(
    scorer: Scorer,
    plan: SweepPlan,
    tasks: Sequence[AnswerTask],
    prompting: Prompting,
    *,
    batch_tokens: int | None = None,
    switch: Callable[[str | None], None] | None = None,
    kept: KeptAnswers | None = None,
    show_progress: bool = True,
) -> Walked:
    """Answer the tasks' questions on all variants of a loaded model, and let lm-eval read them variant by variant.

    Of several processes each answers a share of the questions, and all have all answers in the end.

    `scorer` is what `eval.sweeps.lookup.collector` makes; `switch`, where the plan has an adapter, what
    `eval.sweeps.healed.attach` does.
    """
    began = time.monotonic()
    collected = collect(tasks, scorer, prompting)
    way = choose_way(scorer.model, collected.requests)
    rank, world = rank_and_world()
    mine = share_requests(collected.requests, rank, world)
    earlier = None
    if kept is not None:
        requests = digest([asdict(request) for request in collected.requests])
        earlier = kept.restore(requests=requests, way=asdict(way), dtype=str(scorer.model.dtype), process=(rank, world))
    with progress(f"Asking {len(plan.variants)} variants", int(mine.sum()), shown=show_progress) as bar:
        if way.why:
            bar.note(f"contexts are not shared: {way.why}")

        def watch(answers: RouteAnswers, new: int) -> None:
            bar.advance(new)
            if kept is not None:
                kept.keep(answers)

        answers = score(
            scorer.model,
            collected.requests,
            plan.routes,
            way=way,
            batch_tokens=batch_tokens,
            switch=switch,
            answers=earlier,
            mine=mine,
            watch=watch,
        )
        answers = RouteAnswers.joined(gather(answers))
    walked = time.monotonic()
    logged = []
    with progress("Reading the answers", len(plan.variants), shown=show_progress) as bar:
        for route in range(len(plan.variants)):
            pairs = zip(collected.pairs, collected.owners, strict=True)
            stored = StoredAnswers({pair: answers.of(route, number) for pair, number in pairs}, scorer)
            samples = read(tasks, stored, prompting)["samples"]
            logged.append({name: [slim(entry) for entry in entries] for name, entries in samples.items()})
            bar.advance()
    prompts = {name: [hash_prompt(entry["arguments"]) for entry in entries] for name, entries in samples.items()}
    return Walked(collected, answers, way, logged, prompts, {"walk": walked - began, "read": time.monotonic() - walked})


def walk_prose(
    model: Any,
    tokenizer: Any,
    plan: SweepPlan,
    drawn: dict[str, list[list[int]]],
    *,
    switch: Callable[[str | None], None] | None = None,
    show_progress: bool,
) -> tuple[list[VariantProse], dict[str, Prose]]:
    """Loss on held-out prose of all variants, and the full model's window by window.

    Args:
        drawn: windows of token ids, by text.
        switch: as in `walk_questions`. A variant with an adapter is walked by itself, while its adapter is on.
    """
    plain = [variant for variant in plan.variants if variant.adapter is None]
    healed = [variant for variant in plan.variants if variant.adapter is not None]
    rows: list[VariantProse] = []
    fulls: dict[str, Prose] = {}
    for text, windows in drawn.items():
        walks = 1 + len(healed)
        with progress(f"Prose {text}", walks * sum(map(len, windows)), shown=show_progress) as bar:
            variants = [frozenset(variant.dropped) for variant in plain]
            losses = [*score_variants(model, windows, variants, kl=False, advance=bar.advance).loss]
            for variant in healed:
                assert switch is not None
                switch(variant.adapter)
                alone = [frozenset(variant.dropped)]
                losses += [*score_variants(model, windows, alone, kl=False, advance=bar.advance).loss]
            if switch is not None:
                switch(None)
        full, *_ = measured = [measure_prose(loss.tolist(), tokenizer, windows) for loss in losses]
        fulls[text] = full
        for variant, prose in zip([*plain, *healed], measured, strict=True):
            billed = dict(vars(bill_prose(variant.label, text, prose, None if prose is full else full)))
            billed.pop("noise")  # of comparisons alone
            rows.append(VariantProse(variant=billed.pop("model"), size=variant.n, start=variant.start, **billed))
    return rows, fulls
