"""What all heads do at the steps of an answer: which needle tokens they copy, and what they write to its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from prune.instruments.attention import Site, listening
from prune.instruments.reading import Rows
from prune.instruments.scores import CopiedTokens, Floats, WrittenLogits
from prune.models.loading import decoder_layers


@dataclass
class _Seen:
    """One attention at one step.

    Attributes:
        top: the place in the row that each head attends to most, (B, heads).
        needle, whole: what comes of the needle's places, and of all, (B, heads, width).
        share: places seen inside the needle's answer, over those seen outside, (B, 1).
    """

    top: torch.Tensor
    needle: torch.Tensor
    whole: torch.Tensor
    share: torch.Tensor


class HeadWatcher:
    """Scores every head of a model on one batch after another.

    A layer's heads are handled at once, and so are all trials of a batch. After `write(..., watcher)`, `copy` and
    `write` hold the batch's scores, (B, H), the heads of all layers one after the other.
    """

    copy: Floats
    write: Floats

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = {id(site.module): site for site in sites}
        self._heads = sum(site.heads for site in sites)
        self._seen: dict[int, _Seen] = {}
        self._projected: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._last: torch.Tensor
        self._starts: torch.Tensor
        self._stops: torch.Tensor
        self._length = 0  # tokens of a row so far

    @contextmanager
    def begin(self, model: Any, rows: Rows) -> Iterator[None]:
        """Listen to the model while a batch is answered."""
        self._starts, self._stops = (places[:, None].to(rows.ids.device) for places in (rows.starts, rows.stops))
        self._length = rows.ids.shape[1]
        spans = [row[start:stop].tolist() for row, start, stop in zip(rows.ids, rows.starts, rows.stops, strict=True)]
        copied, written = CopiedTokens(spans, self._heads), WrittenLogits(len(spans), self._heads)
        self._copied, self._written = copied, written
        handles = [decoder_layers(model)[-1].register_forward_hook(self._cut)]
        handles += [
            site.projection.register_forward_hook(partial(self._on_projection, key))
            for key, site in self._sites.items()
        ]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        try:
            with listening(self._on_attention):
                yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            for handle in handles:
                handle.remove()
        self.copy, self.write = copied.scores(), written.scores()

    def look(self, written: torch.Tensor, counts: torch.Tensor, ids: torch.Tensor, logits: torch.Tensor) -> None:
        """Score the step that has written `written`; see `prune.instruments.detecting.Watcher`."""
        asked = torch.zeros_like(logits).scatter_(1, written[:, None], 1)
        upward = torch.autograd.grad(logits, self._last, asked)[0][:, -1]
        hits, needle, elsewhere, shares = [], [], [], []
        for key, site in self._sites.items():
            seen, (given, projected) = self._seen.pop(key), self._projected.pop(key)
            top = seen.top.to(ids.device)
            inside = (top >= self._starts) & (top < self._stops)
            hits.append(inside & (ids.gather(1, top) == written[:, None]) & counts[:, None])
            weight = site.pull(upward.to(given), projected) * _ratio(given, seen.whole)
            of_needle = (weight * seen.needle).sum(-1).float()
            needle.append(of_needle)
            elsewhere.append((weight * seen.whole).sum(-1).float() - of_needle)
            shares.append(seen.share.expand_as(of_needle))
        self._length += 1
        self._copied.add(written.tolist(), _joined(hits))
        self._written.add(_joined(needle), _joined(elsewhere), _joined(shares), counts.cpu().numpy())

    def _cut(self, _module: torch.nn.Module, _args: Any, output: Any) -> Any:
        """Begin the graph at the last layer's output: its gradient tells what is added to the stream counts.

        The layers themselves run without a graph, which nearly halves their time on a CPU.
        """
        torch.set_grad_enabled(True)
        state = output[0] if isinstance(output, tuple | list) else output
        self._last = state.detach().requires_grad_()
        return (self._last, *output[1:]) if isinstance(output, tuple | list) else self._last

    def _on_projection(self, key: int, _module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        batch = len(self._starts)  # whose last token alone is run
        self._projected[key] = args[0].reshape(batch, -1), output.reshape(batch, -1)

    def _on_attention(
        self,
        module: torch.nn.Module,
        weights: torch.Tensor,
        output: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> None:
        if (key := id(module)) not in self._sites:
            return
        weights = weights[:, :, -1]
        first = self._length - weights.shape[-1]  # the place in the row of the first key that is still there
        places = torch.arange(first, self._length, device=weights.device)
        visible = _visible(mask, places).expand(len(weights), -1)
        starts, stops = self._starts.to(weights.device), self._stops.to(weights.device)
        inside = visible & (places >= starts) & (places < stops)
        seen_inside = inside.sum(1, keepdim=True)
        share = seen_inside / (visible.sum(1, keepdim=True) - seen_inside).clamp(min=1)
        needle = _weighted_values(weights, values, inside)
        self._seen[key] = _Seen(weights.argmax(-1) + first, needle, output[:, -1], share)


def _visible(mask: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor:
    """Which keys the last query sees, (B or 1, K); the mask is added to the scores."""
    if mask is None:
        return torch.ones_like(places, dtype=torch.bool)[None]
    row = mask[:, 0, -1]
    return row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2


def _weighted_values(weights: torch.Tensor, values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """The heads' outputs from the keys that are `inside`, (B, heads, width); groups of heads share their values.

    Args:
        weights: (B, heads, K). values: (B, groups, K, width). inside: (B, K), few of them.
    """
    batch, heads, _ = weights.shape
    groups, width = values.shape[1], values.shape[-1]
    most = max(1, int(inside.sum(1).max()))
    places = inside.int().topk(most, dim=1).indices  # all that are inside, and any others where a row has fewer
    weights = (weights * inside[:, None]).gather(2, places[:, None].expand(-1, heads, -1))
    values = values.gather(2, places[:, None, :, None].expand(-1, groups, -1, width))
    return (weights.view(batch, groups, heads // groups, most) @ values).view(batch, heads, width)


def _ratio(given: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """What the projection takes in over what attention gave out: 1, unless a gate or a norm stands between them."""
    return torch.where(whole == 0, 0, given.view(whole.shape) / whole)


def _joined(parts: Sequence[torch.Tensor]) -> Any:
    joined = torch.cat([part.cpu() for part in parts], 1)
    return joined.numpy() if joined.dtype == torch.bool else joined.double().numpy()
