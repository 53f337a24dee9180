"""Concepts beside those of another model: before and after a cut, and after its healing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.choosing.heads import Estimate
from prune.common.errors import CheckpointError, UsageError
from prune.common.intervals import student_mean
from prune.instruments.concepts.result import AgainstConcepts, Change, Concepts, LayerChange, LayerConcepts, Share
from prune.instruments.concepts.settings import Kind

# Settings that may differ between two runs that are compared.
_FREE = frozenset({"layers", "labels", "ward", "examples", "device", "dtype"})


def check_comparable(
    other: Concepts, name: str | Path, settings: dict[str, Any], kinds: Sequence[Kind], words: str
) -> None:
    """Refuse a file whose shares cannot be laid beside those of this run.

    Args:
        name: of the file that `other` was read from.
        settings: of this run, as JSON.
        words: hash of this run's occurrences.

    Raises:
        UsageError: the file was measured with other settings; the message names the first that differs.
        CheckpointError: it is of other words.
    """
    theirs = other.provenance.get("settings", {})
    for field, value in settings.items():
        if field not in _FREE and theirs.get(field) != value:
            option = f"--{field.replace('_', '-')}"
            raise UsageError(
                f"--against {name} was measured with {option} {theirs.get(field)}, not {value}; use the same"
            )
    if other.kinds != tuple(kinds):
        raise UsageError(
            f"--against {name} has the labels {','.join(other.kinds)}, and this run {','.join(kinds)}; give --labels, "
            "or install what is missing"
        )
    if other.provenance.get("words") != words:
        raise CheckpointError(
            f"--against {name} was measured on other words: another text, or a model of another tokenizer; measure "
            "both models on the same text"
        )


def state_pairs(layer_of: Sequence[int], other_layers: int, measured: Sequence[int]) -> dict[int, int]:
    """The states that both models have: l here -> l in the other, where it was measured.

    What enters a layer here goes with what enters the same layer there, and what leaves the last with what leaves the
    last.

    Args:
        layer_of: for each layer here, its number in the other model.
        other_layers: layers of the other model.
        measured: l of the states that were measured there.
    """
    every = {**dict(enumerate(layer_of)), len(layer_of): other_layers}
    return {here: there for here, there in every.items() if there in set(measured)}


def compare(states: Sequence[LayerConcepts], other: Concepts, pairs: dict[int, int]) -> AgainstConcepts:
    """The change of each share, in each layer that was measured in both models (one at least) and on the whole."""
    rows, changes = [], []
    for state in states:
        before = other.at(pairs[state.layer]) if state.layer in pairs else None
        if before is None:
            continue
        some = [(old, new) for old, new in zip(_shares(before), _shares(state), strict=True)]
        changes.append(some)
        rows.append(
            LayerChange(layer=state.layer, other_layer=before.layer, changes=tuple(_change([one]) for one in some))
        )
    overall = tuple(_change(one) for one in zip(*changes, strict=True))
    return AgainstConcepts(model=other.model, layers=tuple(rows), overall=overall)


def _shares(state: LayerConcepts) -> list[Share]:
    return [*state.kinds, state.unlabelled, state.several]


def _change(layers: Sequence[tuple[Share, Share]]) -> Change:
    """Of one share, the mean over layers, paired by sample."""
    before, after = (np.mean([pair[side].samples for pair in layers], axis=0) for side in (0, 1))
    interval = student_mean(after - before)
    return Change(
        name=layers[0][0].name,
        before=float(before.mean()),
        after=float(after.mean()),
        change=Estimate.of(interval),
    )
