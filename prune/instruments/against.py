"""A model's heads beside those of the model that it was cut from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prune.common.errors import CheckpointError
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.instruments.result import Against, Heads
from prune.instruments.scores import RETRIEVAL, correlation


def layers_in(other: Heads, name: str | Path, folder: Path, layers: int) -> tuple[int, ...]:
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
    raise CheckpointError(
        f"--against {name} is of {other.model} with {other.layers} layers, and {folder} has {layers} and no plan that "
        "says it was cut from that; use the heads.json of the model that it was cut from"
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
    all_copy, all_write = _flat(other.copy_score), _flat(other.write_score).clip(min=0)
    their_write = _flat(other.write_score[number] for number in layer_of)
    return Against(
        model=other.model,
        layer_of=layer_of,
        removed_copy=_removed(all_copy, theirs),
        removed_write=_removed(all_write, their_write.clip(min=0)),
        copy_correlation=correlation(ours, theirs),
        write_correlation=correlation(_flat(facts["write_score"]), their_write),
        retrieval_heads=int((all_copy > RETRIEVAL).sum()),
        kept=int(were.sum()),
        still=int((were & are).sum()),
        new=int((are & ~were).sum()),
    )


def _flat(rows: Any) -> Any:
    return np.array([value for row in rows for value in row], dtype=np.float64)


def _removed(every: Any, kept: Any) -> float:
    total = float(every.sum())
    return 1 - float(kept.sum()) / total if total > 0 else 0.0
