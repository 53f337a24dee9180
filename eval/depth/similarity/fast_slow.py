"""How alike a layer's states are under the fast and the slow prompt of the same questions: linear CKA by depth.

The curve of arXiv 2507.18178 ("Decoupling Knowledge and Reasoning"), which states neither its kernel nor its token.
Here the kernel is linear, and HSIC is estimated without bias (`prune.scanning.cka`): there are fewer questions than
dimensions, where the plain estimator is near 1 for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from eval.depth.similarity.pairs import Prompt, PromptPair
from eval.questions.schema import Question, cluster_of
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.artefact import OptionalFloat, Part
from prune.common.intervals import Interval
from prune.models.batches import padded, plan_batches
from prune.scanning.cka import paired_cka, plain_cka

RESAMPLES = 1000
# For a claim: of 5 the intervals leave out the truth in 10 to 13 % of draws, of 8 and more in 0 to 3.
LEAST_CLUSTERS = 8
_SEEN, _REVERSE, _OPEN = "seen", "the reverse", "cannot tell here"


class SimilarityCurve(Part):
    """CKA of fast and slow states by depth, over the questions of one domain and protocol, or of one protocol."""

    domain: str | None = Field(description="null for all domains together")
    protocol: str = Field(description="choice or generation: questions of one form of prompt")
    n: int = Field(description="questions")
    clusters: int = Field(description="questions that share no passage count one each")
    estimate: tuple[OptionalFloat, ...] = Field(
        description="by x[0] .. x[L]: debiased CKA, at most 1; null where the states do not vary over the questions "
        "(x[0] at the last token, which all prompts of a form share), and of fewer than 4 questions"
    )
    low: tuple[OptionalFloat, ...] = Field(description="lower ends of its 95 % intervals, each for itself")
    high: tuple[OptionalFloat, ...] = Field(description="upper ends")
    plain: tuple[OptionalFloat, ...] = Field(
        description="plain CKA, for comparison with figures that do not say which it is: with fewer questions than "
        "dimensions it is near 1 for anything"
    )
    late_less_early: Interval | None = Field(
        description="mean of `estimate` over the last third of the states less that over the first third, without nulls"
    )
    declines: Literal["seen", "the reverse", "cannot tell here"] = Field(
        description="whether likeness falls with depth, by whether that interval is below 0, above 0, or holds 0; "
        "never told by fewer than 8 clusters, of which the intervals are too narrow"
    )


class FastSlowSimilarity(Part):
    """How alike each layer's states are under the fast and the slow prompt of the same questions."""

    layers: int = Field(description="L; states are x[0] .. x[L], the last before the final norm")
    token: Literal["last"] = Field(default="last", description="whose state: the prompt's last token")
    kernel: Literal["linear"] = Field(default="linear", description="of CKA")
    estimator: Literal["unbiased HSIC"] = Field(
        default="unbiased HSIC",
        description="Song et al. (JMLR 13, 2012), equation 5, as in Nguyen et al. (arXiv 2010.15327)",
    )
    seed: int = Field(description="of the bootstrap")
    resamples: int = Field(description="of the bootstrap over questions, drawn by clusters")
    truncated: int = Field(description="prompts whose start was cut to fit the context")
    over_all: tuple[SimilarityCurve, ...] = Field(
        description="by protocol, over all domains, a question that is in two counted once; what tells domains apart "
        "is in both prompts, and makes their states more alike than within a domain"
    )
    domains: tuple[SimilarityCurve, ...] = Field(description="by domain and protocol")


def fast_slow_similarity(
    model: Any,
    questions: Sequence[Question],
    prompts: Sequence[PromptPair],
    *,
    seed: int,
    progress: Callable[[int], None] = lambda prompts: None,
) -> FastSlowSimilarity:
    """Run both prompts of each question through a loaded model's decoder, and compare the states layer by layer.

    Usage, with what a command has at hand:

        pairs = pair_prompts(questions, tokenizer, chat=chat, prompts=prompts_of(settings), max_length=context)
        found = fast_slow_similarity(model, questions, pairs, seed=seed, progress=bar.advance)  # bar: prompts of both

    Args:
        model: a loaded causal language model in eval mode.
        questions: of any domains and protocols; a question may stand in several domains.
        prompts: both prompts of each, by `eval.depth.similarity.pairs.pair_prompts`, in the same order.
        seed: of the bootstrap.
        progress: called with the prompts of each batch.

    Raises:
        UsageError: no question is given.
        RegrowthError: a state is not finite.
    """
    fast, slow = (
        _states(model, [getattr(pair, mode) for pair in prompts], questions, progress) for mode in ("fast", "slow")
    )
    groups: dict[tuple[str | None, str], dict[str, int]] = {}
    for number, item in enumerate(questions):
        for domain in (None, item.domain):
            groups.setdefault((domain, item.protocol), {}).setdefault(item.id, number)
    curves = [
        _curve(domain, protocol, [questions[i] for i in picked.values()], fast, slow, list(picked.values()), seed)
        for (domain, protocol), picked in groups.items()
    ]
    return FastSlowSimilarity(
        layers=fast.shape[1] - 1,
        seed=seed,
        resamples=RESAMPLES,
        truncated=sum(pair.fast.cut + pair.slow.cut for pair in prompts),
        over_all=tuple(curve for curve in curves if curve.domain is None),
        domains=tuple(curve for curve in curves if curve.domain is not None),
    )


def compare_states(fast: np.ndarray, slow: np.ndarray, clusters: Sequence[str], *, seed: int) -> dict[str, Any]:
    """CKA by depth of two states of each question, with intervals: the numbers of a `SimilarityCurve`.

    Args:
        fast, slow: (N, L+1, D), row i of both of the same question.
        clusters: shape (N,); questions of one are drawn together.
        seed: of the bootstrap.
    """
    _, places = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(places.max()) + 1
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    weights = np.vstack([np.ones(len(places)), counts[:, places]])
    table = np.stack([paired_cka(fast[:, x], slow[:, x], weights) for x in range(fast.shape[1])], axis=1)
    low, high = _bounds(table[1:])
    difference = _late_less_early(table)
    return {
        "n": len(places),
        "clusters": groups,
        "estimate": tuple(table[0].tolist()),
        "low": tuple(low.tolist()),
        "high": tuple(high.tolist()),
        "plain": tuple(plain_cka(fast[:, x], slow[:, x]) for x in range(fast.shape[1])),
        "late_less_early": difference,
        "declines": _claim(difference if groups >= LEAST_CLUSTERS else None),
    }


def _curve(
    domain: str | None,
    protocol: str,
    questions: Sequence[Question],
    fast: np.ndarray,
    slow: np.ndarray,
    rows: list[int],
    seed: int,
) -> SimilarityCurve:
    clusters = [cluster_of(item) for item in questions]
    return SimilarityCurve(
        domain=domain, protocol=protocol, **compare_states(fast[rows], slow[rows], clusters, seed=seed)
    )


def _bounds(draws: np.ndarray) -> np.ndarray:
    """(2, K): the ends of percentile intervals of (R, K) draws; NaN where no draw has a value."""
    bounds = np.full((2, draws.shape[1]), np.nan)
    known = ~np.isnan(draws).all(0)
    bounds[:, known] = np.nanquantile(draws[:, known], [0.025, 0.975], axis=0)
    return bounds


def _late_less_early(table: np.ndarray) -> Interval | None:
    """Of the estimates (row 0) and their draws (the other rows); None where there are fewer than two states."""
    known = table[:, ~np.isnan(table[0])]
    third = known.shape[1] // 3
    if third < 1:
        return None
    difference = known[:, -third:].mean(1) - known[:, :third].mean(1)
    ((low,), (high,)) = _bounds(difference[1:, None])
    return None if np.isnan(low) else Interval(float(difference[0]), float(low), float(high))


def _claim(difference: Interval | None) -> str:
    if difference is None or difference.low <= 0 <= difference.high:
        return _OPEN
    return _SEEN if difference.high < 0 else _REVERSE


def _states(
    model: Any,
    prompts: Sequence[Prompt],
    questions: Sequence[Question],
    progress: Callable[[int], None],
) -> np.ndarray:
    """(N, L+1, D) float32: each prompt's x[0] .. x[L] at its last token."""
    import torch

    from prune.models.loading import decoder_layers
    from prune.models.walks.hooks import decoder_of, watching
    from prune.scanning.samples import batch_budget

    depths = len(decoder_layers(model)) + 1
    device = model.get_input_embeddings().weight.device
    decoder = decoder_of(model)
    states: np.ndarray | None = None
    lengths = [len(prompt.tokens) for prompt in prompts]
    with torch.no_grad(), watching(model) as watch:
        for batch in plan_batches(lengths, batch_size="auto", budget=batch_budget(device.type)):
            ids, mask = padded([prompts[number].tokens for number in batch])
            kept: dict[int, np.ndarray] = {}

            def receive(index: int, hidden: torch.Tensor, batch: list[int] = batch, kept: Any = kept) -> None:
                last = [hidden[row, lengths[number] - 1].float() for row, number in enumerate(batch)]
                kept[index] = torch.stack(last).cpu().numpy()

            watch.receive = receive
            decoder(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
            watch.receive = None
            found = np.stack([kept[index] for index in range(depths)], axis=1)
            if states is None:
                states = np.empty((len(prompts), *found.shape[1:]), dtype=np.float32)
            states[batch] = found
            progress(len(batch))
    if states is None:
        raise UsageError("no question is given")
    if (bad := np.argwhere(~np.isfinite(states))).size:
        row, index = bad[0][:2]
        raise RegrowthError(f"x[{index}] is not finite on question {questions[row].id}; try --dtype float32")
    return states
