"""From the trials' scores to what heads.json says: of the heads, of their removal, and beside another model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prune.choosing.heads import RETRIEVAL, Ablation, Against, Effect, Estimate, Head, Heads, Rows, Stability
from prune.common.errors import CheckpointError, RegrowthError
from prune.common.layers import layers_without
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.instruments import scores
from prune.instruments.attention import Site
from prune.instruments.detecting import Detection, trial_rows
from prune.instruments.effects import Runs, verdict
from prune.instruments.prompts import Trial
from prune.instruments.scores import correlation

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
    retrieval = mean_copy > RETRIEVAL
    names = every_head(sites)
    needles = np.array([trial.needle for trial in trials])[answered]
    return {
        "layers": layers,
        "heads": tuple(len(row) for row in by_layer(mean_copy, sites, layers)),
        "answered": int(answered.sum()),
        "trials": tuple(trial_rows(trials, detection.recall, detection.written)),
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
        fall=Estimate.of(runs.fall()),
        random_fall=Estimate.of(runs.random_fall()),
        beyond_random=Estimate.of(runs.beyond_random()),
        verdict=None if measure.endswith("bits") else verdict(measure, runs),
    )


class MeasuredModel(Protocol):
    """What an instrument wrote of a model, such as `Heads`."""

    @property
    def model(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def provenance(self) -> dict[str, Any]: ...


def layers_in(other: MeasuredModel, name: str | Path, folder: Path, layers: int) -> tuple[int, ...]:
    """For each layer of the model in `folder`, its number in the model that `other` is of.

    Args:
        name: of the file that `other` was read from.

    Raises:
        CheckpointError: the model was not cut from that one, and has not its depth either.
    """
    plan_file = folder / PLAN_FILE
    if plan_file.is_file():
        plan = CutPlan.read(plan_file)
        shards = other.provenance.get("model", {}).get("shards")
        if plan.layers == other.layers and plan.identity.get("shards") == shards and len(plan.kept) == layers:
            return plan.kept
        if plan.history and plan.history[0].layers == other.layers and len(plan.original) == layers:
            return plan.original
    if other.layers == layers:
        return tuple(range(layers))
    kind = f"{type(other).__name__.lower()}.json"
    raise CheckpointError(
        f"--against {name} is of {other.model} with {other.layers} layers, and {folder} has {layers} and no plan that "
        f"says it was cut from that; use the {kind} of the model that it was cut from"
    )


def compare(facts: dict[str, Any], other: Heads, layer_of: tuple[int, ...], name: str | Path) -> Against:
    """Compare the facts of this model's heads with another's.

    Raises:
        CheckpointError: a layer has another number of heads there.
    """
    for layer, number in enumerate(layer_of):
        if facts["heads"][layer] != other.heads[number]:
            raise CheckpointError(
                f"--against {name} has {other.heads[number]} heads in layer {number}, and this model "
                f"{facts['heads'][layer]} there: it is of another model"
            )
    ours, theirs = _flat(facts["copy_score"]), _flat(other.copy_score[number] for number in layer_of)
    were, are = theirs > RETRIEVAL, ours > RETRIEVAL
    their_write = _flat(other.write_score[number] for number in layer_of)
    removed = other.removed_with(layers_without(layer_of, other.layers))
    return Against(
        model=other.model,
        layer_of=layer_of,
        removed_copy=removed.copy_score,
        removed_write=removed.write_score,
        copy_correlation=correlation(ours, theirs),
        write_correlation=correlation(_flat(facts["write_score"]), their_write),
        retrieval_heads=len(other.retrieval_heads),
        kept=int(were.sum()),
        still=int((were & are).sum()),
        new=int((are & ~were).sum()),
    )


def _flat(rows: Any) -> Any:
    return np.array([value for row in rows for value in row], dtype=np.float64)
