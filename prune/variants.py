"""Loss, and KL to the full model, of many variants of one loaded model, with what they share computed once.

A variant is the set of layers it drops. The model is walked once from the bottom: at each layer the states of all
variants that have dropped the same layers so far are one state. So variants that differ from layer s on share the
walk up to s, and the full model is one of them. Nothing is stored but the states at the layer being run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prune.batching import padded, plan_batches
from prune.errors import RegrowthError
from prune.models import decoder_layers

Variant = frozenset[int]
FULL: Variant = frozenset()
BATCH_TOKENS = 1024  # of one batch, padding included
_HEAD_BYTES = 1 << 27  # logits of one chunk, in float32, stay below this


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
    batch_tokens: int = BATCH_TOKENS,
    advance: Callable[[float], None] = lambda tokens: None,
) -> Scores:
    """Run all variants of a loaded causal language model over `windows` (lists of token ids).

    Args:
        variants: layers to drop, 0-based, one set a variant; FULL (the empty set) for the model as it is.
        kl: also compare with the full model, which is then run whether it is among the variants or not.
        batch_tokens: tokens of one batch, padding included.
        advance: called with each batch's tokens.

    Raises:
        RegrowthError: a loss is not finite (the message names the dropped layers).
    """
    shape = (len(variants), len(windows))
    scores = Scores(np.zeros(shape), np.zeros(shape), np.zeros(len(windows)))
    device = model.get_input_embeddings().weight.device
    wanted = {FULL, *variants} if kl else set(variants)
    with torch.no_grad(), _walking(model, wanted) as walk:
        for batch in plan_batches([len(w) for w in windows], batch_size="auto", budget=batch_tokens):
            ids, mask = (t.to(device) for t in padded([windows[i] for i in batch]))
            states = walk.states(ids, mask)
            scores.layer_tokens += walk.layers_run * ids.numel()
            scores.tokens[batch] = mask[:, 1:].sum(1).cpu().numpy()
            loss, apart, head_tokens = _heads(walk, ids, mask, states, variants, kl)
            scores.loss[:, batch], scores.kl[:, batch] = loss, apart
            scores.head_tokens += head_tokens
            advance(float(mask.sum()))
    bad = ~(np.isfinite(scores.loss) & np.isfinite(scores.kl)).all(1)
    if bad.any():
        worst = sorted(variants[int(bad.argmax())])
        raise RegrowthError(f"the loss without layers {worst} is not finite; try --dtype float32 or bfloat16")
    return scores


def _heads(
    walk: _Walk,
    ids: torch.Tensor,
    mask: torch.Tensor,
    states: dict[Variant, torch.Tensor],
    variants: Sequence[Variant],
    kl: bool,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Summed loss and KL, (V, B) each, by chunks of positions whose logits fit; and how many tokens met the head."""
    length = ids.shape[1]
    found = np.zeros((2, len(variants), len(ids)))
    step = length
    if walk.takes_positions:
        step = max(1, min(length, _HEAD_BYTES // (4 * len(ids) * walk.vocabulary)))
    met = 0
    for begin in range(0, length - 1, step):
        places = torch.arange(begin, min(begin + step, length - 1), device=ids.device)
        real = mask[:, places + 1].double()
        truth = ids[:, places + 1].unsqueeze(-1)
        chance, entropy = None, None
        if kl:
            ours = walk.logits(ids, mask, states[FULL], places).log_softmax(-1)
            chance = ours.exp()
            entropy = -torch.linalg.vecdot(chance, ours)
            met += ids.shape[0] * len(places)
        for row, variant in enumerate(variants):
            if variant == FULL and kl:
                found[0, row] += (-(ours.gather(-1, truth).squeeze(-1)).double() * real).sum(1).cpu().numpy()
                continue
            logits = walk.logits(ids, mask, states[variant], places)
            total = logits.logsumexp(-1)
            loss = (total - logits.gather(-1, truth).squeeze(-1)).double()
            found[0, row] += (loss * real).sum(1).cpu().numpy()
            if chance is not None and entropy is not None:
                apart = (total - torch.linalg.vecdot(chance, logits) - entropy).double()
                found[1, row] += (apart * real).sum(1).cpu().numpy()
            met += ids.shape[0] * len(places)
    return found[0], found[1], met


class _Walk:
    """A model whose layers are run by us while its own forward pass supplies their masks and positions."""

    def __init__(self, model: Any, wanted: set[Variant]) -> None:
        self.model, self.wanted = model, wanted
        self.layers = list(decoder_layers(model))
        self.forwards = [layer.forward for layer in self.layers]
        self.takes_positions = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.tracks: dict[Variant, torch.Tensor] = {}
        self.replayed: torch.Tensor | None = None
        self.layers_run = 0
        self.boxed = False  # a model's own code may hand states on in tuples

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[Variant, torch.Tensor]:
        """The last layer's output, (B, T, D), of every wanted variant."""
        self.replayed, self.layers_run = None, 0
        keep = {"logits_to_keep": 1} if self.takes_positions else {}
        self.model(input_ids=ids, attention_mask=mask, use_cache=False, **keep)
        tracks, self.tracks = self.tracks, {}
        return tracks

    def logits(self, ids: torch.Tensor, mask: torch.Tensor, state: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """float32 logits, (B, places, vocabulary), of a last layer's output, by the model's own norm, head and caps."""
        self.replayed = state
        keep = {"logits_to_keep": places} if self.takes_positions else {}
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits
        return (logits if self.takes_positions else logits[:, places]).float()

    def run(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for layer `index`: move every track on, or hand back what is replayed."""
        hidden = args[0] if args else kwargs.pop("hidden_states")
        if self.replayed is not None:
            return self._given(self.replayed if index == len(self.layers) - 1 else hidden)
        if index == 0:
            self.tracks = {FULL: hidden}
        here = {frozenset(layer for layer in variant if layer <= index) for variant in self.wanted}
        moved: dict[Variant, torch.Tensor] = {}
        for gone, state in self.tracks.items():
            if gone | {index} in here:
                moved[gone | {index}] = state
            if gone in here:
                out = self.forwards[index](state, *args[1:], **kwargs)
                self.boxed = isinstance(out, tuple)
                moved[gone] = out[0] if self.boxed else out
                self.layers_run += 1
        self.tracks = moved
        return self._given(next(iter(moved.values())))

    def _given(self, state: torch.Tensor) -> Any:
        return (state,) if self.boxed else state


@contextmanager
def _walking(model: Any, wanted: set[Variant]) -> Iterator[_Walk]:
    walk = _Walk(model, wanted)

    def stand_in(index: int) -> Callable[..., Any]:
        return lambda *args, **kwargs: walk.run(index, args, kwargs)

    own = ["forward" in vars(layer) for layer in walk.layers]  # accelerate, too, sets a forward on the instance
    for index, layer in enumerate(walk.layers):
        layer.forward = stand_in(index)
    try:
        yield walk
    finally:
        for layer, forward, kept in zip(walk.layers, walk.forwards, own, strict=True):
            if kept:
                layer.forward = forward
            else:
                del layer.forward
