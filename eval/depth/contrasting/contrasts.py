"""What a contrast of depth and domain says: the parts of depth.json that hold it, and its answer in words.

`eval.depth.contrasting.interaction` has the definitions.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eval.billing.judging.verdict import rounded_up
from prune.common.files.artefact import Part
from prune.common.intervals import Interval
from prune.common.screen.numbers import bracketed, signed

Verdict = Literal["seen", "the reverse", "cannot tell here"]
CrossoverVerdict = Literal["seen", "the reverse", "not seen", "cannot tell here"]


class Contrast(Part):
    """One contrast of depth and domain: what deep blocks cost beyond shallow ones, first domain less second."""

    value: Interval | None = Field(description="with its 95 % interval; null where `note` says why there is none")
    verdict: Verdict = Field(
        description="`seen`: the interval lies above 0; `the reverse`: below 0; `cannot tell here`: neither"
    )
    detectable: float | None = Field(
        description="about the smallest true contrast that as many questions would show in 80 % of such runs"
    )
    questions_needed: tuple[int, int] | None = Field(
        description="about how many questions of the first and of the second would show it in 80 % of runs, were the "
        "value the truth; null where it is shown already, or `note` says why there is no number"
    )
    note: str = Field(description="why a number is missing; else empty")


class Region(Part):
    """What blocks of one depth cost on the mean: both domains, and their difference."""

    blocks: int = Field(description="how many blocks")
    first: Interval = Field(description="mean cost in the first domain")
    second: Interval = Field(description="mean cost in the second domain")
    difference: Interval = Field(
        description="first less second; the intervals of the deep and of the shallow difference hold together with 95 %"
    )


class Crossover(Part):
    """The whole claim: deep blocks cost the first domain more *and* shallow blocks cost the second more."""

    deep: Region = Field(description="blocks whose middle is in the last third of the layers")
    shallow: Region = Field(description="blocks whose middle is in the first third")
    verdict: CrossoverVerdict = Field(
        description="`seen`: both differences have the sign that is claimed for certain; `the reverse`: both have the "
        "other; `not seen`: one has the other sign for certain; else `cannot tell here`"
    )


class BlockCosts(Part):
    """One block's relative cost in both domains."""

    depth: float = Field(description="the block's middle, as a share of the layers")
    first: Interval = Field(description="relative cost in the first domain: 1 is its mean block")
    second: Interval = Field(description="the same in the second domain")
    difference: Interval = Field(description="first less second; the intervals of all blocks hold together with 95 %")


class Interaction(Part):
    """Whether deep blocks cost the first domain (or measure) more than the second, and shallow blocks the reverse."""

    first: str = Field(description="name of the first domain, or measure")
    second: str = Field(description="name of the second")
    paired: bool = Field(description="whether both are of the same questions: two measures, not two domains")
    questions: tuple[int, int] = Field(description="questions of the first and of the second")
    clusters: tuple[int, int] = Field(description="of these, how many share no passage")
    blocks: tuple[int, int] = Field(description="shallow and deep blocks that the contrast is made of")
    left_out: tuple[float, ...] = Field(
        description="depths of the blocks left out, as they cost both over ten times the median block"
    )
    left_out_share: tuple[float, float] | None = Field(
        description="share of the summed cost of the first, and of the second, that the blocks left out make up; null "
        "where a sum is not above 0"
    )
    relative: Contrast = Field(
        description="the main one: of relative costs (a block's mean cost over that of the mean block)"
    )
    bits: Contrast = Field(description="of mean costs, in the unit of the costs")
    all_blocks: Contrast = Field(description="as `relative`, with no block left out")
    rank: Contrast = Field(
        description="of the chance that a deep block costs a question more than a shallow block costs it; all blocks"
    )
    relative_crossover: Crossover | None = Field(
        description="in relative costs, whose mean is 1 in both: where one region differs, another must differ the "
        "other way, so it says little beyond `relative`; null without relative costs"
    )
    bits_crossover: Crossover | None = Field(
        description="in the unit of the costs: the claim to the letter; null without blocks of both depths"
    )
    profile: tuple[BlockCosts, ...] = Field(
        description="each block that was not left out, by rising depth; empty without relative costs"
    )

    @property
    def verdict(self) -> Verdict:
        """That of the main contrast."""
        return self.relative.verdict


def in_words(found: Interaction) -> str:
    """The question and its answer in one sentence, with the relative contrast and, if need be, how many would tell."""
    asked = f"Deep blocks cost {found.first} more than {found.second}, shallow blocks the reverse: {found.verdict}"
    if found.relative.value is None:
        return f"{asked} ({found.relative.note})."
    value = found.relative.value
    numbers = f"{signed(value.estimate, 2)} {bracketed(value.low, value.high, 2)}"
    needed, note = found.relative.questions_needed, found.relative.note
    if needed is not None and found.paired:
        note = f"about {rounded_up(needed[0]):,} questions would tell"
    elif needed is not None:
        note = f"about {rounded_up(needed[0]):,} and {rounded_up(needed[1]):,} questions would tell"
    return f"{asked} ({numbers} of the mean block's cost{'; ' if note else ''}{note})."
