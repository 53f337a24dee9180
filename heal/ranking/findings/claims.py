"""What an interval says of a published claim, and an interval over queries that are drawn anew. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prune.common.files.artefact import Part
from prune.common.intervals import Interval

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Verdict = Literal["seen", "not seen", "cannot tell"]
FEWEST = 8  # queries of a kind; fewer have no interval
FEWEST_OF_A_STRATUM = 3


class Claim(Part):
    """A claim of arXiv 2411.12580 as a difference that it holds to be above 0."""

    name: str = Field(description="which difference")
    value: Interval | None = Field(description="with its 95 % interval; null where `note` says why there is none")
    margin: float = Field(description="a difference below it is too small to speak of")
    verdict: Verdict = Field(
        description="`seen`: the interval lies above 0; `not seen`: it does not, and lies below the margin; else "
        "`cannot tell`"
    )
    note: str = Field(description="why a number is missing; else empty")


def judge(name: str, value: Interval | None, *, margin: float, note: str = "") -> Claim:
    """The claim with its verdict.

    The rule stood before anything was measured: `seen` where the whole interval is above 0; `not seen` where it is not,
    and the whole interval is below the margin; else, and without an interval, `cannot tell`.
    """
    verdict: Verdict = "cannot tell"
    if value is not None and not math.isnan(value.low + value.high):
        verdict = "seen" if value.low > 0 else "not seen" if value.high < margin else "cannot tell"
    return Claim(name=name, value=value, margin=margin, verdict=verdict, note=note)


def jackknife(statistic: Callable[[Flags], Floats], strata: Sequence[Sequence[int]], count: int) -> list[Interval]:
    """K estimates of queries in fixed strata, with Student's t intervals from leaving out one query at a time.

    Means over pairs of queries are U-statistics: a query is in many pairs, so pairs are not independent, and queries
    are. The jackknife is consistent for them (Arvesen, Ann. Math. Statist. 40(6), 1969). The variance is the sum over
    strata of (n - 1) / n times the squares of the estimates without each one around their mean; the degrees of freedom
    are Satterthwaite's.

    Args:
        statistic: of the queries that are kept, flags of shape (count,), to K numbers. NaN for one that cannot be made.
        strata: the queries of each, three or more; queries of no stratum are never kept.
        count: of all queries.

    Raises:
        ValueError: a stratum of fewer than three.
    """
    from scipy.special import stdtrit

    if any(len(members) < FEWEST_OF_A_STRATUM for members in strata):
        raise ValueError(f"a stratum needs {FEWEST_OF_A_STRATUM} queries")
    kept = np.zeros(count, dtype=bool)
    kept[[number for members in strata for number in members]] = True
    whole = statistic(kept)
    parts = np.zeros((len(strata), len(whole)))
    for row, members in zip(parts, strata, strict=True):
        without = []
        for number in members:
            kept[number] = False
            without.append(statistic(kept))
            kept[number] = True
        row += np.var(without, axis=0) * (len(members) - 1)
    variances = parts.sum(0)
    freedom = np.array([[len(members) - 1] for members in strata], dtype=np.float64)
    squares = (parts**2 / freedom).sum(0) if strata else variances
    degrees = np.divide(variances**2, squares, out=np.ones_like(variances), where=squares > 0)
    margins = stdtrit(degrees, 0.975) * np.sqrt(variances)
    return [Interval(float(e), float(e - m), float(e + m)) for e, m in zip(whole, margins, strict=True)]
