"""Log-likelihoods of many requests under many variants of one loaded model, in one walk through its layers.

Each batch of rows (`eval.asking.trees`) is read once by each layer for all variants that are still one there
(`prune.models.walks.walking`), and the head sees the positions that predict answers and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from eval.asking.trees import Asked, TokenRow, pack_chains, pack_trees
from prune.common.errors import RegrowthError
from prune.common.machine.memory import give_back
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.models.at_once import ANSWERED_BYTES, WALK_TOKENS, at_once
from prune.models.batches import plan_batches
from prune.models.loading import forward_takes
from prune.models.walks.walking import Route, Walk, walking

ROW_TOKENS = 384  # of one row of trees: longer rows share more, but attention grows with their square
LONGEST_ROW = 4096  # where worked examples are shared: no longer than a context may be, so that no more memory is taken
WAYS = ("tree", "plain", "whole")


@dataclass(frozen=True)
class Way:
    """How requests are read: `name` is one of WAYS, and `why` says why it is not the first.

    tree: contexts shared under a tree mask. plain: a row for each request. whole: so too, and the head sees all
    positions of a batch, for models whose norm or head looks beyond the position at hand.
    """

    name: str = "tree"
    why: str | None = None


@dataclass
class RouteAnswers:
    """What R routes answered to N requests; `done` says to which.

    logprob: (R, N) float64, log p(answer | context) in nats. greedy: (R, N) bool, whether each answer token was the
    most likely one. done: (N,) bool. read: tokens read by one pass, padding apart. heads: positions that met the head.
    """

    logprob: np.ndarray
    greedy: np.ndarray
    done: np.ndarray
    read: int = 0
    heads: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, routes: int, requests: int) -> RouteAnswers:
        """Nothing answered yet."""
        shape = (routes, requests)
        return cls(np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(requests, dtype=bool))

    @classmethod
    def joined(cls, parts: Sequence[RouteAnswers]) -> RouteAnswers:
        """What several processes answered, each its share of the same requests; the first's notes."""
        first, *others = parts
        whole = cls(
            first.logprob.copy(), first.greedy.copy(), first.done.copy(), sum(part.read for part in parts),
            sum(part.heads for part in parts), first.notes,
        )  # fmt: skip
        for part in others:
            whole.logprob[:, part.done] = part.logprob[:, part.done]
            whole.greedy[:, part.done] = part.greedy[:, part.done]
            whole.done |= part.done
        return whole

    def of(self, route: int, request: int) -> tuple[float, bool]:
        """One answer, as lm-eval has it: log p, and whether greedy decoding says it."""
        return float(self.logprob[route, request]), bool(self.greedy[route, request])


def score(
    model: Any,
    requests: Sequence[Asked],
    routes: Sequence[Route],
    *,
    way: Way,
    batch_tokens: int | None = None,
    switch: Callable[[str | None], None] | None = None,
    answers: RouteAnswers | None = None,
    mine: np.ndarray | None = None,
    watch: Callable[[RouteAnswers, int], None] = lambda answers, new: None,
) -> RouteAnswers:
    """Answer all requests on all routes.

    Args:
        routes: variants of the model, all unlike each other.
        way: as `choose_way` found it.
        batch_tokens: tokens of one batch, padding included; None: what suits the device. Halved where memory runs out.
        switch: turns an adapter on and off; see `prune.models.walks.walking.walking`.
        answers: those of an earlier run, to go on from.
        mine: (N,) bool, the requests to be answered; all if None.
        watch: called after each batch, with all answers and how many of them are new; first with those given.

    Raises:
        RegrowthError: out of memory with a single row, or a model whose layers cannot be walked.
    """
    answers = answers or RouteAnswers.empty(len(routes), len(requests))
    batch_tokens = batch_tokens or at_once(WALK_TOKENS, model.get_input_embeddings().weight.device)
    mine = np.ones(len(requests), dtype=bool) if mine is None else mine
    watch(answers, int(answers.done.sum()))
    with torch.no_grad(), walking(model, routes, switch=switch) as walk:
        while (missing := mine & ~answers.done).any():
            open_ = np.flatnonzero(missing).tolist()
            trees = way.name == "tree"
            capacity, most = min(ROW_TOKENS, batch_tokens), min(LONGEST_ROW, batch_tokens)
            rows = pack_trees(requests, open_, capacity, most) if trees else pack_chains(requests, open_)
            try:
                for batch in plan_batches([len(row) for row in rows], batch_size="auto", budget=batch_tokens):
                    some = [rows[number] for number in batch]
                    _answer(walk, requests, routes, some, way, answers)
                    watch(answers, sum(len(row.asked) for row in some))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                batch_tokens = _halved(batch_tokens, max(map(len, rows)), answers)
    return answers


def choose_way(model: Any, requests: Sequence[Asked]) -> Way:
    """The first of WAYS by which the full model answers as its own plain forward pass does.

    Tried on the first question and on the one of the longest context, where a window of attention would show, among
    others that fill a row.
    In float32 answers have to agree within 1e-4 nats; in 16 bits within what rounding does to them.
    """
    tried, fillers = _probe(requests)
    truth = _plain_answers(model, tried)
    why: list[str] = []
    for name in WAYS:
        why.append(_misses(model, tried + (fillers if name == "tree" else []), Way(name), truth))
        if not why[-1]:
            return Way(name, why[0] or None)
    raise RegrowthError(
        f"{type(model).__name__} cannot be swept: walking its layers does not give its own answers ({why[-1]}); "
        "cut the variants with `prune cut` and use `evaluate compare`"
    )


def _halved(batch_tokens: int, longest: int, answers: RouteAnswers) -> int:
    if batch_tokens // 2 < longest // 2 or batch_tokens < 64:
        raise RegrowthError("out of memory with one question at a time; a smaller --max-length needs less")
    give_back()
    answers.notes.append(f"out of memory at {batch_tokens} tokens a batch: went on with {batch_tokens // 2}")
    return batch_tokens // 2


def _answer(
    walk: Walk,
    requests: Sequence[Asked],
    routes: Sequence[Route],
    rows: list[TokenRow],
    way: Way,
    answers: RouteAnswers,
) -> None:
    device = walk.model.get_input_embeddings().weight.device
    inputs = {name: tensor.to(device) for name, tensor in _inputs(rows, way, walk.model.dtype).items()}
    scored = _Scored(requests, rows, inputs["input_ids"].shape[1], device)
    numbers = {route: number for number, route in enumerate(routes)}
    walked: list[int] = []
    answered: list[tuple[torch.Tensor, torch.Tensor]] = []
    for route, state in walk.states(**inputs):
        if way.name == "whole":
            chunks: Iterator[torch.Tensor] = iter([walk.logits(state, **inputs).flatten(0, 1)[scored.places]])
        else:
            picked = state.to(device).flatten(0, 1)[scored.places]  # the last layer may be on another GPU
            step = max(16, at_once(ANSWERED_BYTES, device) // (4 * walk.vocabulary))
            chunks = (walk.head(part) for part in picked.split(step))
        walked.append(numbers[route])
        answered.append(scored.tokens(chunks))
        answers.heads += len(scored.places)
    logprobs, hits = (torch.stack(parts).cpu() for parts in zip(*answered, strict=True))  # the device is asked but now
    for number, logprob, hit in zip(walked, logprobs, hits, strict=True):
        answers.logprob[number, scored.asked], answers.greedy[number, scored.asked] = scored.sums(logprob, hit)
    answers.done[scored.asked] = True
    answers.read += sum(map(len, rows))


class _Scored:
    """Which positions of a batch predict which answer tokens; P positions, A answer tokens of N requests.

    places: (P,) into the flattened batch, rising. source: (A,) into places. target: (A,) token ids. owner: (A,) into
    asked, the requests' numbers.
    """

    def __init__(self, requests: Sequence[Asked], rows: Sequence[TokenRow], width: int, device: Any) -> None:
        self.asked = [number for row in rows for number in row.asked]
        flat = np.concatenate([places + index * width for index, row in enumerate(rows) for places in row.places])
        lengths = [len(requests[number].answer) for number in self.asked]
        unique, source = np.unique(flat, return_inverse=True)
        order = np.argsort(source, kind="stable")  # so that each chunk of positions owns one run of answer tokens
        target = np.concatenate([np.array(requests[number].answer) for number in self.asked])
        self.places = torch.from_numpy(unique).to(device)
        self._sources = source[order]
        self._source = torch.from_numpy(self._sources).to(device)
        self._target = torch.from_numpy(target[order]).to(device)
        self._owner = np.repeat(np.arange(len(lengths)), lengths)[order]

    def tokens(self, chunks: Iterator[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the answer tokens, in an order of its own: log p, float32, and whether each was the most likely; (A,).

        Both stay on the device.

        Args:
            chunks: float32 logits (p, vocabulary), of the places in turn.
        """
        values, hits, begin = [], [], 0
        for logits in chunks:
            chunk = slice(*np.searchsorted(self._sources, (begin, begin + len(logits))))
            at, target = self._source[chunk] - begin, self._target[chunk]
            # by torch's own log_softmax, as HFLM: its sum over a vocabulary is off by up to 1e-5 a token, always alike
            chances = logits.log_softmax(-1)
            logprobs = chances[at, target]
            values.append(logprobs)
            hits.append(likeliest(chances, at, target, logprobs))
            begin += len(logits)
        return torch.cat(values), torch.cat(hits)

    def sums(self, logprobs: torch.Tensor, hits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Per request, of what `tokens` gives: summed log p, and whether all its tokens were the most likely ones."""
        count = len(self.asked)
        logprob = np.bincount(self._owner, logprobs.double().numpy(), count)
        missed = np.bincount(self._owner, (~hits).double().numpy(), count)
        return logprob, missed == 0


def likeliest(chances: torch.Tensor, at: torch.Tensor, target: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """Whether each target is the most likely token of its row, (A,); of equal chances the first one counts.

    Args:
        chances: (p, vocabulary); `at`, (A,), says which row a target is of, and `logprobs` are the targets' own.
    """
    if chances.device.type != "cpu":
        return chances.argmax(-1)[at] == target
    # The first one is looked for only in rows where the target is no less likely than all. That spares a CPU most of
    # the search, but a GPU would have to say which rows these are.
    hit = logprobs >= chances.amax(-1)[at]
    hit[hit.clone()] = chances[at[hit]].argmax(-1) == target[hit]
    return hit


def _inputs(rows: Sequence[TokenRow], way: Way, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.from_numpy(row.tokens)
    if way.name != "tree":
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            mask[index, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}
    depth = torch.zeros_like(ids)
    sees = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding reads itself: no row without any
    for index, row in enumerate(rows):
        depth[index, : len(row)] = torch.from_numpy(row.depth)
        sees[index, : len(row), : len(row)] = torch.from_numpy(row.sees())
    mask = torch.zeros(len(rows), 1, width, width, dtype=dtype)
    mask.masked_fill_(~sees.unsqueeze(1), torch.finfo(dtype).min)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": depth}


def _probe(requests: Sequence[Asked]) -> tuple[list[Asked], list[Asked]]:
    """Requests to compare, and others to stand beside them."""
    longest = max(requests, key=lambda request: len(request.tokens)).context
    first = requests[0].context
    tried = [request for request in requests if request.context == first]
    if longest != first:
        tried += [request for request in requests if request.context == longest][:2]
    fillers, room = [], ROW_TOKENS
    for request in requests:
        if request.context not in (first, longest) and room > 0:
            fillers.append(request)
            room -= len(request.answer) + 8
    return tried, fillers


def _plain_answers(model: Any, requests: Sequence[Asked]) -> list[float]:
    """One request at a time through the model's own forward pass."""
    device = model.get_input_embeddings().weight.device
    keeps = forward_takes(model, "logits_to_keep")
    logprobs = []
    with torch.no_grad():
        for request in requests:
            ids = torch.tensor([request.tokens], device=device)
            keep = {"logits_to_keep": len(request.answer)} if keeps else {}
            logits = model(input_ids=ids, use_cache=False, **keep).logits[0]
            chances = logits[-len(request.answer) :].float().log_softmax(-1)
            answer = torch.tensor(request.answer, device=device)
            logprobs.append(float(chances.gather(1, answer[:, None]).sum()))
    return logprobs


def _misses(model: Any, requests: Sequence[Asked], way: Way, truth: Sequence[float]) -> str:
    """How the answers to the first of the requests fall short of their truth, in words; empty if they do not."""
    try:
        answers = score(model, requests, [Route()], way=way).logprob[0, : len(truth)]
    except (RegrowthError, TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:120]}"
    exact = model.dtype == torch.float32
    apart = np.abs(answers - np.array(truth))
    lengths = np.array([len(request.answer) for request in requests[: len(truth)]])
    if np.isfinite(apart).all() and (apart <= (1e-4 if exact else 0.1 * lengths)).all():
        return ""
    if not np.isfinite(apart).any():
        return "the model gives no finite answers"
    return f"answers differ by up to {np.nanmax(apart):.2g} nats from those of a plain pass"
