"""Where the change of likelihood and that of written answers agree, and where not (arXiv 2510.02091). Arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy import stats

from eval.billing.rows.thinking import ThinkingRow
from eval.depth.document import Disagreement, MeasureRow, RankAgreement
from prune.common.intervals import Interval
from prune.common.thinking import MODES


def disagreements(rows: Sequence[MeasureRow], thinking: Sequence[ThinkingRow]) -> tuple[Disagreement, ...]:
    """What likelihood and written answers say of each block on the same questions, in both modes."""
    nll = {(row.domain, row.protocol, row.variant): row.change for row in rows if row.measure == "fast"}
    found = []
    for row in thinking:
        change = nll.get((row.domain, row.protocol, row.model))
        if row.versus is None or change is None:
            continue
        for mode in MODES:
            accuracy = row.versus.a_fast if mode == "fast" else row.versus.a_slow
            found.append(
                Disagreement(
                    variant=row.model,
                    domain=row.domain,
                    protocol=row.protocol,
                    mode=mode,
                    nll=change,
                    accuracy=accuracy,
                    verdict=_verdict(_sign(change), -_sign(accuracy)),
                )
            )
    return tuple(found)


def _sign(change: Interval) -> int:
    return 1 if change.low > 0 else -1 if change.high < 0 else 0


def _verdict(nll: int, accuracy: int) -> Any:
    """Of two losses: 1 for certain, -1 a gain for certain, 0 neither."""
    if nll * accuracy < 0:
        return "opposite"
    if nll > 0 or accuracy > 0:
        return "both lose" if nll > 0 and accuracy > 0 else "likelihood alone" if nll > 0 else "accuracy alone"
    return "neither"


def rank_agreement(found: Sequence[Disagreement]) -> tuple[RankAgreement, ...]:
    """Per task and mode, Spearman's correlation over blocks of the rise of NLL and the fall of accuracy."""
    groups: dict[tuple[str, str, str], list[Disagreement]] = {}
    for row in found:
        groups.setdefault((row.domain, row.protocol, row.mode), []).append(row)
    return tuple(
        RankAgreement(domain=domain, protocol=protocol, mode=mode, blocks=len(some), spearman=_spearman(some))
        for (domain, protocol, mode), some in groups.items()
    )


def _spearman(some: Sequence[Disagreement]) -> float:
    rises, falls = [row.nll.estimate for row in some], [-row.accuracy.estimate for row in some]
    if len(some) < 3 or len(set(rises)) < 2 or len(set(falls)) < 2:
        return float("nan")
    return float(stats.spearmanr(rises, falls).statistic)
