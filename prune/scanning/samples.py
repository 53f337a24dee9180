"""The samples that a scan runs: drawn from its text, labelled by what they have in common, and put into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune.common.machine.processes import rank_and_world
from prune.common.screen.terminal import progress, screen
from prune.models.at_once import SCAN_TOKENS, at_once
from prune.models.batches import plan_batches
from prune.models.loading import load_tokenizer
from prune.text.windows import draw_samples

if TYPE_CHECKING:
    from prune.checkpoint.source import Source
    from prune.scanning.settings import ScanSettings
    from prune.text.windows import Window

Label = tuple[str, str]
_FEW = 32  # a scan on fewer samples says little


@dataclass(frozen=True)
class Samples:
    """Windows of token ids, in drawn order; and the labels of each, such as ("half", "first"), or none at all."""

    windows: Sequence[Sequence[int]]
    labels: Sequence[Sequence[Label]] = ()


def batch_budget(device: str) -> int:
    """Tokens of one `auto` batch, padding included, on a device such as "cuda:1"."""
    return at_once(SCAN_TOKENS, device)


def own_batches(windows: Sequence[Sequence[int]], batch_size: int | str, budget: int) -> list[tuple[int, list[int]]]:
    """The batches that this process runs, each with its number: of several processes each takes one in turn."""
    rank, world = rank_and_world()
    return list(enumerate(plan_batches([len(w) for w in windows], batch_size=batch_size, budget=budget)))[rank::world]


def prepare_samples(
    source: Source, texts: Sequence[str], settings: ScanSettings, *, trust_remote_code: bool, show_progress: bool
) -> Samples:
    """Draw the samples of a scan, and say where they are fewer than was asked.

    Raises:
        TextError: a text is missing, empty or too short.
        CheckpointError: the model has no tokenizer that can be loaded.
    """
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    with progress("Drawing samples", None, shown=show_progress):
        drawn = draw_samples(
            texts, tokenizer, samples=settings.samples, length=settings.length, seed=settings.seed, field=settings.field
        )
    if show_progress and (line := few_samples_note(len(drawn), settings.samples)):
        screen().print(line)
    return Samples([sample.ids for sample in drawn], label_samples(drawn, texts))


def few_samples_note(drawn: int, asked: int) -> str:
    """What a reader has to know where there are fewer samples than were asked, or few; else empty."""
    if drawn < _FEW:
        remedy = "give more text with --text" if drawn < asked else "raise --samples"
        return f"Warning: the scan has {drawn} samples, and fewer than {_FEW} say little; {remedy}."
    return f"The text gives {drawn} samples, not {asked}: all of it is used." if drawn < asked else ""


def label_samples(samples: Sequence[Window], texts: Sequence[str]) -> list[list[Label]]:
    """The labels of each sample: its half of the scan, its text where there are several, and how it ends.

    A document that is taken whole ends in its own last token; a window of a longer one ends wherever it was cut.
    """
    wholes = {sample.whole for sample in samples}
    labels = []
    for number, sample in enumerate(samples):
        of_sample = [("half", "first" if number < (len(samples) + 1) // 2 else "second")]
        if len(texts) > 1:
            of_sample.append(("source", texts[sample.source]))
        if len(wholes) > 1:
            of_sample.append(("ending", "whole documents" if sample.whole else "cut inside a document"))
        labels.append(of_sample)
    return labels
