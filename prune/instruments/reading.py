"""Prompts read into a cache: what they have in common once, and after a change of upper layers only from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from prune.instruments.prompts import Prompt
from prune.models.loading import cache_argument, decoder_layers, forward_takes
from prune.models.walks.walking import standing_in


@dataclass(frozen=True)
class Rows:
    """Prompts side by side. A prompt shorter than the longest is padded behind what all have in common.

    Attributes:
        ids: (B, W). mask: (B, W), 0 at padding.
        shared: so many tokens at the beginning are the same in all.
        starts, stops: where each needle's answer stands in its row, (B,).
    """

    ids: torch.Tensor
    mask: torch.Tensor
    shared: int
    starts: torch.Tensor
    stops: torch.Tensor


def lay_out(prompts: Sequence[Prompt], *, share: bool = True, device: torch.device | str = "cpu") -> Rows:
    """Put prompts side by side; with `share`, what they have in common stands first and is never padded."""
    shared = _common(prompts) if share and len(prompts) > 1 else 0
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.ones_like(ids)
    starts, stops = [], []
    for row, prompt in enumerate(prompts):
        pad = width - len(prompt.ids)
        ids[row, :shared] = torch.tensor(prompt.ids[:shared])
        ids[row, shared + pad :] = torch.tensor(prompt.ids[shared:])
        mask[row, shared : shared + pad] = 0
        starts.append(prompt.start + pad)
        stops.append(prompt.stop + pad)
    return Rows(ids.to(device), mask.to(device), shared, torch.tensor(starts), torch.tensor(stops))


def _common(prompts: Sequence[Prompt]) -> int:
    """Tokens that all prompts begin with; two of each prompt at least are left, and all of its needle's answer."""
    most = min(min(len(prompt.ids) - 2, prompt.start or len(prompt.ids)) for prompt in prompts)
    first = prompts[0].ids
    same = (all(prompt.ids[place] == first[place] for prompt in prompts) for place in range(most))
    return next((place for place, equal in enumerate(same) if not equal), max(0, most))


@dataclass(frozen=True)
class Reading:
    """Prompts that were read, all tokens but the last.

    Attributes:
        cache: keys and values of all rows. beginning: of what the rows share; None if nothing.
        outputs: layer -> what the layer below it gave for the shared tokens, if any, and for the others.
    """

    rows: Rows
    cache: Any
    beginning: Any = None
    outputs: dict[int, list[Any]] = field(default_factory=dict)


class Reader:
    """Reads prompts with a loaded model.

    Attributes:
        stacks: whether layers hold keys and values alone, so that a run may begin at any of them.
        one_by_one: whether prompts must not be padded, as some layer keeps a state of all tokens before it.
    """

    def __init__(self, model: Any) -> None:
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        self.model = model
        self._layers = decoder_layers(model)
        kinds = {type(layer) for layer in self._new_cache().layers}
        self._shares = kinds == {DynamicLayer}  # a window forgets what rows share
        self.stacks = kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
        self.one_by_one = not self.stacks
        self._cache_name = cache_argument(model)
        self._places = forward_takes(model, "position_ids")
        self._keeps = forward_takes(model, "logits_to_keep")
        self._known: tuple[tuple[int, ...], Any] = ((), None)  # the beginning that was read last

    def read(self, prompts: Sequence[Prompt], keep: Iterable[int] = ()) -> Reading:
        """Read prompts; `keep` names layers from which on they will be read again."""
        rows = lay_out(prompts, share=self._shares, device=self.model.device)
        outputs: dict[int, list[Any]] = {layer: [] for layer in keep if layer and self.stacks}
        with self.keeping(outputs):
            beginning = self._beginning(rows, again=bool(outputs))
            cache = self._spread(beginning, rows)
            self._rest(rows, cache)
        return Reading(rows, cache, beginning, outputs)

    def read_again(self, reading: Reading, layer: int) -> Reading:
        """Read the same prompts by a model that has changed from `layer` on; the layers below it are not run."""
        rows = reading.rows
        if layer not in reading.outputs:
            fresh = self._spread(None, rows)
            self.run(rows.ids[:, :-1], rows.mask[:, :-1], fresh)
            return Reading(rows, fresh)
        outputs = list(reading.outputs[layer])
        beginning = None
        if reading.beginning is not None:
            beginning = self._new_cache()
            with self.standing_in(layer, outputs.pop(0)):
                self.run(rows.ids[:1, : rows.shared], rows.mask[:1, : rows.shared], beginning)
            beginning = _stacked(reading.beginning, beginning, layer)
        cache = self._spread(beginning, rows)
        with self.standing_in(layer, outputs.pop(0)):
            self._rest(rows, cache)
        return Reading(rows, _stacked(reading.cache, cache, layer), beginning)

    def run(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, *, last: int = 1) -> torch.Tensor:
        """Logits of the `last` of `ids`, (B, last, V); their keys and values join the cache, unless it is None.

        Args:
            mask: of all tokens so far, those in the cache included.
        """
        more: dict[str, Any] = {} if cache is None else {self._cache_name: cache}
        if self._places:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if self._keeps:
            more["logits_to_keep"] = last
        logits: torch.Tensor = self.model(
            input_ids=ids, attention_mask=mask, use_cache=cache is not None, **more
        ).logits
        return logits[:, -last:]

    def _new_cache(self) -> Any:
        from transformers.cache_utils import DynamicCache

        return DynamicCache(config=self.model.config)

    def _beginning(self, rows: Rows, *, again: bool) -> Any:
        """The cache of what the rows share, from the last time if it began so; None if they share nothing."""
        if not rows.shared:
            return None
        ids = tuple(rows.ids[0, : rows.shared].tolist())
        known, cache = self._known
        if again or known[: len(ids)] != ids:
            cache = self._new_cache()
            self.run(rows.ids[:1, : rows.shared], rows.mask[:1, : rows.shared], cache)
            self._known = (ids, cache)
        return cache

    def _spread(self, beginning: Any, rows: Rows) -> Any:
        """A cache that holds the beginning in every row."""
        cache = self._new_cache()
        if beginning is not None:
            for layer, known in zip(cache.layers, beginning.layers, strict=True):
                layer.update(
                    *(
                        part[:, :, : rows.shared].expand(len(rows.ids), -1, -1, -1)
                        for part in (known.keys, known.values)
                    )
                )
        return cache

    def _rest(self, rows: Rows, cache: Any) -> None:
        if rows.ids.shape[1] - 1 > rows.shared:
            self.run(rows.ids[:, rows.shared : -1], rows.mask[:, :-1], cache)

    @contextmanager
    def keeping(self, outputs: dict[int, list[Any]]) -> Iterator[None]:
        """While the block runs, what is handed to each layer of `outputs` joins its list."""

        def keep(kept: list[Any], _module: Any, _args: Any, output: Any) -> None:
            kept.append(output)

        handles = [
            self._layers[layer - 1].register_forward_hook(partial(keep, kept)) for layer, kept in outputs.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def standing_in(self, layer: int, output: Any) -> AbstractContextManager[None]:
        """While the block runs, the layers below `layer` are skipped, and it is handed `output`."""
        return standing_in(self._layers[:layer], lambda _call, _state: output)


def _stacked(lower: Any, upper: Any, layer: int) -> Any:
    """`upper`, whose layers below `layer` are those of `lower`; both may be read on without harm to the other."""
    upper.layers = [copy(part) for part in lower.layers[:layer]] + upper.layers[layer:]
    return upper
