"""From the trials' scores to what heads.json says of the heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prune.common.errors import RegrowthError
from prune.common.intervals import Interval
from prune.instruments import scores
from prune.instruments.ablation import Head
from prune.instruments.attention import Site
from prune.instruments.detecting import Detection
from prune.instruments.effects import Runs, verdict
from prune.instruments.prompts import Trial
from prune.instruments.result import Ablation, Effect, Estimate, Rows, Stability, TrialRow

TOP = 20  # heads whose agreement between the halves is told


def every_head(sites: Sequence[Site]) -> list[Head]:
    """(layer, head) of all heads, in the order of the scores."""
    return [(site.layer, head) for site in sites for head in range(site.heads)]


def head_facts(detection: Detection, trials: Sequence[Trial], sites: Sequence[Site], layers: int) -> dict[str, Any]:
    """Fields of `Heads` that follow from the trials.

    Raises:
        RegrowthError: the model has answered no trial.
    """
    answered = detection.answered
    if not answered.any():
        raise RegrowthError(
            f"the model answered none of {len(trials)} trials, so it has no retrieval to find; use shorter --lengths, "
            "or more --new-tokens if it thinks before it answers"
        )
    copy, write = detection.copy[answered], detection.write[answered]
    active, mean_copy, mean_write = scores.activity(copy), copy.mean(0), write.mean(0)
    retrieval = mean_copy > scores.RETRIEVAL
    names = every_head(sites)
    needles = np.array([trial.needle for trial in trials])[answered]
    return {
        "layers": layers,
        "heads": tuple(len(row) for row in by_layer(mean_copy, sites, layers)),
        "answered": int(answered.sum()),
        "trials": tuple(
            TrialRow(
                needle=trial.needle,
                length=trial.length,
                depth=trial.depth,
                tokens=len(trial.prompt.ids),
                recall=float(share),
                written=written,
            )
            for trial, share, written in zip(trials, detection.recall, detection.written, strict=True)
        ),
        "copy_score": by_layer(mean_copy, sites, layers),
        "write_score": by_layer(mean_write, sites, layers),
        "active": by_layer(active, sites, layers),
        "retrieval_share": float(retrieval.mean()),
        "steady": _named(names, retrieval & (active >= scores.NEARLY_EVERY)),
        "sometimes": _named(names, retrieval & (active < scores.NEARLY_EVERY)),
        "stability": _stability(copy, write, needles),
        "agreement": scores.rank_correlation(mean_copy, mean_write),
    }


def by_layer(values: scores.Floats, sites: Sequence[Site], layers: int) -> Rows:
    """Numbers of all heads, layer by layer; an empty row for a layer without attention."""
    rows: list[tuple[float, ...]] = [()] * layers
    begin = 0
    for site in sites:
        rows[site.layer] = tuple(values[begin : begin + site.heads].tolist())
        begin += site.heads
    return tuple(rows)


def _named(names: Sequence[Head], chosen: Any) -> tuple[Head, ...]:
    return tuple(name for name, named in zip(names, chosen, strict=True) if named)


def _stability(copy: scores.Floats, write: scores.Floats, needles: Any) -> Stability | None:
    halves = needles % 2 == 0
    if halves.all() or not halves.any():
        return None
    first, second = ((score[halves].mean(0), score[~halves].mean(0)) for score in (copy, write))
    count = min(TOP, max(1, copy.shape[1] // 4))
    return Stability(
        copy_score=scores.correlation(*first),
        write_score=scores.correlation(*second),
        copy_overlap=scores.overlap(*first, count),
        write_overlap=scores.overlap(*second, count),
        heads=count,
    )


def ablation_of(removals: Sequence[Sequence[Head]], by: Any, runs: dict[str, Runs]) -> Ablation:
    """What the runs of one ablation amount to; `removals` has the top heads first."""
    return Ablation(
        heads=tuple(removals[0]),
        by=by,
        random=tuple(map(tuple, removals[1:])),
        effects=tuple(_effect(measure, run) for measure, run in runs.items()),
    )


def _effect(measure: str, runs: Runs) -> Effect:
    return Effect(
        measure=measure,
        questions=len(runs.full),
        clusters=len(set(runs.clusters)),
        full=float(runs.full.mean()),
        without_top=float(runs.without[0].mean()),
        without_random=tuple(runs.without[1:].mean(1).tolist()),
        fall=_estimate(runs.fall()),
        random_fall=_estimate(runs.random_fall()),
        beyond_random=_estimate(runs.beyond_random()),
        verdict=None if measure.endswith("bits") else verdict(measure, runs),
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(estimate=interval.estimate, low=interval.low, high=interval.high)
