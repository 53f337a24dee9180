"""What `prune concepts` reads, how it groups, and when a group has a label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.layers import parse_layers
from prune.common.screen import wording
from prune.common.screen.options import Option
from prune.common.sizes import parse_tokens
from prune.models.precision import HELP as DTYPES
from prune.text.documents import SHORTEST

Kind = Literal["lexical", "morphological", "syntactic", "semantic"]
KINDS: tuple[Kind, ...] = ("lexical", "morphological", "syntactic", "semantic")
OF_EXTRA: tuple[Kind, ...] = ("syntactic", "semantic")  # their labels come from packages of the extra `concepts`
PER_CLUSTER = 5  # a sample has at least so many occurrences for each cluster
WARD_MOST = 5000  # Ward holds the distances of all pairs


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Kinds of labels from a list such as `lexical,semantic`, in the order of `KINDS`.

    Raises:
        UsageError: a kind that there is not.
    """
    named = [part.strip() for part in text.split(",")]
    _check_kinds(named)
    return tuple(kind for kind in KINDS if kind in named)


def _check_kinds(named: Iterable[str]) -> None:
    for name in named:
        if name not in KINDS:
            raise UsageError(f"--labels: {name!r} is no kind of labels; use some of {','.join(KINDS)}")


@dataclass(frozen=True)
class ConceptsSettings(Checked):
    """The samples of words, the clusters, and the alignment.

    Attributes:
        layers: l of the states x[l]; None for about every tenth of the depth, and the last.
        labels: kinds of labels; None for all whose packages are installed.

    Raises:
        UsageError: a setting is out of range.
    """

    field: Annotated[str, Option(wording.FIELD)] = "text"
    tokens: Annotated[int, Option("Tokens of text in one sample, such as 30k.", typed=str, parse=parse_tokens)] = 30_000
    length: Annotated[int, Option("Most tokens of a window, BOS included.")] = 256
    min_occurrences: Annotated[int, Option("A word counts if a sample has it so often.")] = 5
    max_occurrences: Annotated[int, Option("Occurrences of one word that are kept, drawn by the seed.")] = 50
    layers: Annotated[
        tuple[int, ...] | None,
        Option(
            "States to look at: 0 enters the first layer, L leaves the last; a list such as 0,10-20,30.",
            typed=str | None,
            parse=partial(parse_layers, option="--layers"),
            shown="about every tenth of the depth",
        ),
    ] = None
    clusters: Annotated[int, Option("Clusters per layer.")] = 150
    scale: Annotated[
        Literal["standard", "raw", "unit"],
        Option(
            "standard: dimensions scaled to one variance; raw: states as they are; unit: states scaled to length 1."
        ),
    ] = "standard"
    ward: Annotated[
        int, Option(f"Occurrences that Ward's criterion clusters too, {WARD_MOST} at most; 0 for none.")
    ] = 2000
    theta: Annotated[float, Option("A cluster gets a label that more than this share of it carries.")] = 0.90
    min_types: Annotated[int, Option("A cluster of fewer distinct words can have no label but its word.")] = 3
    labels: Annotated[
        tuple[Kind, ...] | None,
        Option(
            f"Kinds of labels, a list of {', '.join(KINDS)}.",
            typed=str | None,
            parse=parse_kinds,
            shown="all whose packages are installed",
        ),
    ] = None
    reseeds: Annotated[int, Option("Samples, each of text of its own; intervals are over these.")] = 5
    shuffles: Annotated[int, Option("Shuffles of the labels, which say what share is chance.")] = 10
    examples: Annotated[
        int, Option("Clusters without a label, and with several kinds, that are shown in words, per layer.")
    ] = 5
    seed: Annotated[int, Option("Draws the text, the occurrences, the first centres and the shuffles.")] = 0
    device: Annotated[str, Option(wording.DEVICE)] = "auto"
    dtype: Annotated[str, Option(DTYPES)] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"tokens": 1, "length": SHORTEST, "min_occurrences": 1, "clusters": 2, "min_types": 1, "shuffles": 1}
        for name, number in {**least, "max_occurrences": self.min_occurrences, "examples": 0, "seed": 0}.items():
            if getattr(self, name) < number:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: use {number} or more")
        if self.reseeds < 2:
            raise UsageError(f"--reseeds {self.reseeds}: an interval needs 2 samples at least")
        if not 0.5 <= self.theta < 1:
            raise UsageError(f"--theta {self.theta}: use 0.5 or more, and less than 1")
        if self.scale not in ("standard", "raw", "unit"):
            raise UsageError(f"--scale {self.scale}: use standard, raw or unit")
        if self.ward and 2 * self.clusters > WARD_MOST:
            raise UsageError(
                f"--clusters {self.clusters}: Ward needs two occurrences a cluster and takes {WARD_MOST} at most; give "
                f"--ward 0, or {WARD_MOST // 2} clusters at most"
            )
        if self.ward and not 2 * self.clusters <= self.ward <= WARD_MOST:
            raise UsageError(
                f"--ward {self.ward}: use {2 * self.clusters} (two a cluster) to {WARD_MOST}, or 0 for none"
            )
        if self.layers is not None and not self.layers:
            raise UsageError("--layers: give one at least")
        if self.labels is not None and not self.labels:
            raise UsageError("--labels: give one kind at least")
        _check_kinds(self.labels or ())
