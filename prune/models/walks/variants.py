"""Loss, and KL to the full model, of many variants of one model, with what they share computed once.

A variant is the set of layers it drops; variants that differ from layer s on share the walk up to s
(`prune.models.walks.walking`), and the full model is one of them. A model that does not fit is walked from its files
(`prune.models.walks.layerwise`), to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prune.common.errors import RegrowthError
from prune.common.machine.memory import available
from prune.models.at_once import COMPARED_BYTES, WALK_TOKENS, at_once
from prune.models.batches import padded, plan_batches
from prune.models.loading import text_config
from prune.models.walks.layerwise import Layerwise, walked
from prune.models.walks.walking import Route, Walk, count_passes, walking

Variant = frozenset[int]
FULL: Variant = frozenset()
_LEAST_TOKENS = 1024  # of a batch, where free memory is what bounds it


@dataclass
class Scores:
    """Sums over each window's predicted tokens, in nats; V variants, W windows.

    loss: (V, W), -log p(next token). kl: (V, W), KL(full model || variant). tokens: (W,), predicted tokens.
    layer_tokens: tokens times layers run, padding included. head_tokens: tokens times runs of the LM head.
    """

    loss: np.ndarray
    kl: np.ndarray
    tokens: np.ndarray
    layer_tokens: int = 0
    head_tokens: int = 0

    def joined(self, other: Scores) -> Scores:
        """The scores over the windows of both, of the same variants."""
        return Scores(
            np.concatenate([self.loss, other.loss], 1),
            np.concatenate([self.kl, other.kl], 1),
            np.concatenate([self.tokens, other.tokens]),
            self.layer_tokens + other.layer_tokens,
            self.head_tokens + other.head_tokens,
        )


def score_variants(
    model: Any,
    windows: Sequence[Sequence[int]],
    variants: Sequence[Variant],
    *,
    kl: bool = True,
    batch_tokens: int | None = None,
    advance: Callable[[float], None] = lambda tokens: None,
) -> Scores:
    """Run all variants of a causal language model over `windows` (lists of token ids).

    Args:
        model: loaded, or to be run from its files: then they are read once for each call.
        variants: layers to drop, 0-based, one set a variant; FULL (the empty set) for the model as it is.
        kl: also compare with the full model, which is then run whether it is among the variants or not.
        batch_tokens: tokens of one batch, padding included; None: what suits the device (`walk_tokens`).
        advance: called with each batch's tokens.

    Raises:
        RegrowthError: a loss is not finite (the message names the dropped layers).
    """
    shape = (len(variants), len(windows))
    scores = Scores(np.zeros(shape), np.zeros(shape), np.zeros(len(windows)))
    routes = [Route(dropped) for dropped in dict.fromkeys([FULL, *variants] if kl else variants)]
    ends = _from_files if isinstance(model, Layerwise) else _in_memory
    batch_tokens = batch_tokens or walk_tokens(model, len(routes))
    batches = plan_batches([len(w) for w in windows], batch_size="auto", budget=batch_tokens)
    with torch.no_grad(), closing(ends(model, [padded([windows[i] for i in b]) for b in batches], routes)) as ended:
        for batch, end in zip(batches, ended, strict=True):
            scores.layer_tokens += end.passes * end.ids.numel()
            scores.tokens[batch] = end.mask[:, 1:].sum(1).cpu().numpy()
            loss, apart, head_tokens = _heads(end, variants, kl)
            scores.loss[:, batch], scores.kl[:, batch] = loss, apart
            scores.head_tokens += head_tokens
            advance(float(end.mask.sum()))
    bad = ~(np.isfinite(scores.loss) & np.isfinite(scores.kl)).all(1)
    if bad.any():
        worst = sorted(variants[int(bad.argmax())])
        raise RegrowthError(f"the loss without layers {worst} is not finite; try --dtype float32 or bfloat16")
    return scores


@dataclass(frozen=True)
class _End:
    """What left the last layer on every route, (B, T, D), of one batch; `head` makes logits of it.

    passes: layers that were run for it.
    """

    head: Walk | Layerwise
    ids: torch.Tensor
    mask: torch.Tensor
    states: dict[Variant, torch.Tensor]
    passes: int

    def logits(self, variant: Variant, positions: torch.Tensor) -> torch.Tensor:
        return self.head.logits(self.states[variant], positions, input_ids=self.ids, attention_mask=self.mask)


_Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]  # token ids and mask


def _in_memory(model: Any, batches: _Batches, routes: Sequence[Route]) -> Generator[_End]:
    device = model.get_input_embeddings().weight.device
    with walking(model, routes) as walk:
        for batch in batches:
            ids, mask = (part.to(device) for part in batch)
            states = {route.dropped: state for route, state in walk.states(input_ids=ids, attention_mask=mask)}
            yield _End(walk, ids, mask, states, walk.passes)


def _from_files(files: Layerwise, batches: _Batches, routes: Sequence[Route]) -> Generator[_End]:
    inputs = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches]
    passes = count_passes(len(files.layers), routes)
    with walked(files, inputs, routes) as ends, files.head():
        for number, batch in enumerate(batches):
            ids, mask = (part.to(files.device) for part in batch)
            states = {route.dropped: state for route, state in ends.states(number).items()}
            yield _End(files, ids, mask, states, passes)


def walk_tokens(model: Any, variants: int) -> int:
    """Tokens of one batch that a walk takes, padding included.

    On a GPU fewer than elsewhere it would, where the final states of all variants would fill an eighth of what is free.
    """
    if isinstance(model, Layerwise):
        return at_once(WALK_TOKENS, model.device)
    embeddings = model.get_input_embeddings().weight
    usual = at_once(WALK_TOKENS, embeddings.device)
    if embeddings.device.type != "cuda":
        return usual
    token_bytes = variants * text_config(model.config).hidden_size * model.dtype.itemsize
    return max(_LEAST_TOKENS, min(usual, available(str(embeddings.device)) // 8 // token_bytes))


def _heads(end: _End, variants: Sequence[Variant], kl: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Summed loss and KL, (V, B) each, by chunks of positions whose logits fit; and tokens that met the head."""
    ids, mask, head = end.ids, end.mask, end.head
    length = ids.shape[1]
    sums = np.zeros((2, len(variants), len(ids)))
    step = length
    if head.takes_positions:
        step = max(1, min(length, at_once(COMPARED_BYTES, ids.device) // (4 * len(ids) * head.vocabulary)))
    head_tokens = 0
    for begin in range(0, length - 1, step):
        positions = torch.arange(begin, min(begin + step, length - 1), device=ids.device)
        real = mask[:, positions + 1].double()
        truth = ids[:, positions + 1].unsqueeze(-1)
        chance, entropy = None, None
        if kl:
            ours = end.logits(FULL, positions).log_softmax(-1)
            chance = ours.exp()
            entropy = -torch.linalg.vecdot(chance, ours)
            head_tokens += ids.shape[0] * len(positions)
        for row, variant in enumerate(variants):
            if variant == FULL and kl:
                sums[0, row] += (-(ours.gather(-1, truth).squeeze(-1)).double() * real).sum(1).cpu().numpy()
                continue
            logits = end.logits(variant, positions)
            total = logits.logsumexp(-1)
            loss = (total - logits.gather(-1, truth).squeeze(-1)).double()
            sums[0, row] += (loss * real).sum(1).cpu().numpy()
            if chance is not None and entropy is not None:
                apart = (total - torch.linalg.vecdot(chance, logits) - entropy).double()
                sums[1, row] += (apart * real).sum(1).cpu().numpy()
            head_tokens += ids.shape[0] * len(positions)
    return sums[0], sums[1], head_tokens
