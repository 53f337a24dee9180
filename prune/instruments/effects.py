"""What taking heads out does to the recall of needles, to facts known by heart, and to sums; and what that says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from prune.choosing.heads import Head
from prune.common.files.resume import FinishedParts
from prune.common.intervals import Interval, bootstrap_mean
from prune.instruments.ablation import ablated
from prune.instruments.attention import Site
from prune.instruments.controls import FACTS, SUMS, ControlRun, ControlScores
from prune.instruments.detecting import Writer, batches, recall_of
from prune.instruments.prompts import Prompter, Trial
from prune.instruments.scores import ANSWERED, Floats

Verdict = Literal["seen", "not seen", "cannot tell"]
MARGIN = 0.1  # a control that falls by less than a tenth has not fallen, for the verdict
CONTROLS = {"facts": FACTS, "sums": SUMS}


@dataclass(frozen=True)
class Runs:
    """One measure under R ablations, that of the top heads first and those of random heads behind it.

    Attributes:
        full: the full model's value of each trial or question, (T,).
        without: with heads taken out, (R, T).
        clusters: what each belongs to: its needle, or the question itself, (T,).
    """

    full: Floats
    without: Floats
    clusters: Sequence[int]

    def fall(self) -> Interval:
        """By how much the mean falls without the top heads."""
        return bootstrap_mean(self.full - self.without[:1], self.clusters)

    def random_fall(self) -> Interval:
        """By how much it falls without as many random heads."""
        return bootstrap_mean(self.full - self.without[1:], self.clusters)

    def beyond_random(self) -> Interval:
        """By how much more it falls without the top heads than without random ones."""
        return bootstrap_mean(self.without[1:] - self.without[0], self.clusters)


def measure_effects(
    writer: Writer,
    prompter: Prompter,
    sites: Sequence[Site],
    removals: Sequence[Sequence[Head]],
    trials: Sequence[Trial],
    full: Floats,
    *,
    batch_tokens: int,
    parts: FinishedParts,
    name: str,
    advance: Callable[[float], None] = lambda trials: None,
) -> dict[str, Runs]:
    """Run trials and controls with heads taken out.

    Args:
        removals: the heads of each run, the top heads first.
        full: recall of each trial by the full model, (T,).
        parts: those that an earlier run has finished, and now this one.
        name: of this measurement, in the names of its parts.
        advance: called with the trials that are done.
    """
    lowest = min(layer for heads in removals for layer, _ in heads)
    recalls = np.zeros((len(removals), len(trials)))
    for count, numbers in enumerate(batches(trials, batch_tokens, one_by_one=writer.reader.one_by_one)):
        part = parts.get(f"{name}-{count}")
        if part is None:
            some = [trials[number] for number in numbers]
            part = {"recall": _recall_without(writer, sites, removals, some, lowest)}
            parts.put(f"{name}-{count}", part)
        recalls[:, numbers] = part["recall"]
        advance(len(numbers) * len(removals))
    needles = [trial.needle for trial in trials]
    runs = {
        "needle recall": Runs(full, recalls, needles),
        "needles answered": Runs(_shares(full), _shares(recalls), needles),
    }
    for control, questions in CONTROLS.items():
        asked = ControlRun(writer.reader, prompter, questions, [lowest])
        without: list[ControlScores] = []
        for heads in removals:
            with ablated(sites, heads):
                without.append(asked.again(lowest))
        each = range(len(questions))
        runs[f"{control} right"] = Runs(asked.full.right, np.stack([run.right for run in without]), each)
        runs[f"{control} bits"] = Runs(asked.full.bits, np.stack([run.bits for run in without]), each)
    return runs


def _shares(recall: Floats) -> Floats:
    return np.asarray(recall > ANSWERED, dtype=np.float64)


def _recall_without(
    writer: Writer, sites: Sequence[Site], removals: Sequence[Sequence[Head]], trials: Sequence[Trial], lowest: int
) -> Floats:
    """Recall of a batch of trials in each run, (R, B): it is read once, and again only from the lowest layer on."""
    with torch.no_grad():
        reading = writer.reader.read([trial.prompt for trial in trials], [lowest])
        recalls = []
        for heads in removals:
            with ablated(sites, heads):
                recalls.append(recall_of(trials, writer.answer(writer.reader.read_again(reading, lowest))))
    return np.stack(recalls)


def verdict(measure: str, runs: Runs) -> Verdict:
    """What the interval says of a claim of arXiv 2404.15574: `seen`, `not seen`, or `cannot tell`.

    Of needles the claim is that they fall by more than with random heads; of the shares of facts and of sums that are
    right, that they do not, by a tenth at most; a model that has few of them right cannot tell. Bits have no claim.
    """
    beyond = runs.beyond_random()
    if measure.startswith("needle"):
        return "seen" if beyond.low > 0 else "not seen" if beyond.high < MARGIN else "cannot tell"
    if runs.full.mean() < 2 * MARGIN:
        return "cannot tell"
    return "seen" if beyond.high < MARGIN else "not seen" if beyond.low > 0 else "cannot tell"
