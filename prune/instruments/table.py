"""heads.json for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prune.common.tables import Table
from prune.instruments.result import Ablation, Estimate, Heads

if TYPE_CHECKING:
    from rich.console import Group

_SHOWN = 10  # of the first heads


def heads_table(heads: Heads) -> Group:
    """The result in words and tables: trials, the first heads, and what taking them out does."""
    from rich.console import Group
    from rich.text import Text

    parts = [Text(line) for line in _lines(heads)]
    return Group(*parts, _trial_table(heads), _first_table(heads), *map(_ablation_table, heads.ablations))


def _lines(heads: Heads) -> list[str]:
    retrieval = len(heads.steady) + len(heads.sometimes)
    lines = [
        f"{heads.model}: {heads.answered} of {len(heads.trials)} trials answered",
        f"{retrieval} of {sum(heads.heads)} heads ({heads.retrieval_share:.1%}) copy over a tenth of the needle: "
        f"{len(heads.steady)} in nearly every context, {len(heads.sometimes)} in some",
        f"copy and write score agree by a rank correlation of {_number(heads.agreement)}",
    ]
    if heads.left_out:
        lines.append(f"{len(heads.left_out)} needles were left out: the model answers them without any text")
    if heads.stability is not None:
        stable = heads.stability
        lines.append(
            f"between halves of the needles: correlation {_number(stable.copy_score)} (copy) and "
            f"{_number(stable.write_score)} (write); {stable.copy_overlap:.0%} and {stable.write_overlap:.0%} of the "
            f"first {stable.heads} heads are the same"
        )
    if heads.against is not None:
        other = heads.against
        lines.append(
            f"against {other.model}: dropped layers held {other.removed_copy:.0%} of its copy score and "
            f"{other.removed_write:.0%} of its write score; of its {other.retrieval_heads} retrieval heads "
            f"{other.kept} are kept and {other.still} still are such; {other.new} are new"
        )
    return lines


def _trial_table(heads: Heads) -> Table:
    lengths = sorted({trial.length for trial in heads.trials})
    depths = sorted({trial.depth for trial in heads.trials})
    rows = []
    for length in lengths:
        cells = []
        for depth in depths:
            some = [trial.recall for trial in heads.trials if (trial.length, trial.depth) == (length, depth)]
            cells.append(f"{sum(some) / len(some):.2f}")
        rows.append([f"{length:,}", *cells])
    head = ["tokens", *(f"depth {depth:.2f}" for depth in depths)]
    return Table.of("Needle recall", head, rows)


def _first_table(heads: Heads) -> Table:
    rows = [
        [
            f"{layer}.{head}",
            f"{heads.write_score[layer][head]:.3f}",
            f"{heads.copy_score[layer][head]:.2f}",
            f"{heads.active[layer][head]:.0%}",
        ]
        for layer, head in heads.ranked()[:_SHOWN]
    ]
    return Table.of("First heads (layer.head)", ["head", "write score", "copy score", "active in"], rows)


def _ablation_table(ablation: Ablation) -> Table:
    rows = [
        [
            effect.measure,
            str(effect.questions),
            f"{effect.full:.2f}",
            f"{effect.without_top:.2f}",
            f"{sum(effect.without_random) / len(effect.without_random):.2f}",
            _estimate(effect.beyond_random),
            effect.verdict or "",
        ]
        for effect in ablation.effects
    ]
    head = ["measure", "questions", "full", "without", "random", "random less without", "claim"]
    title = f"Without the first {len(ablation.heads)} heads by {ablation.by} score"
    caption = (
        f"random: mean of {len(ablation.random)} draws of as many heads of the same layers; 95 % intervals. "
        "Claimed: needles fall by more than with random heads, facts and sums do not."
    )
    return Table.of(title, head, rows, words=["measure", "claim"], caption=caption)


def _estimate(value: Estimate) -> str:
    return f"{value.estimate:+.2f} [{value.low:+.2f}, {value.high:+.2f}]".replace("-", "−")


def _number(value: float) -> str:
    return "none (one of them is constant)" if math.isnan(value) else f"{value:.2f}"
