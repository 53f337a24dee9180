"""What each model lost against the full one, measure by measure, from the rows of a bill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.billing.rows.bill import DomainRow, ProseRow
from eval.billing.rows.needles import NeedleRow
from eval.billing.rows.thinking import ThinkingRow
from eval.billing.statistics import Interval
from prune.common.screen.numbers import bracketed, plain
from prune.common.thinking import MODES

IN_POINTS = ("accuracy", "a_fast", "a_slow", "needle_recall")  # shares of 1; the other measures are in bits
_OF = {
    "accuracy": "points of accuracy",
    "a_fast": "points of accuracy",
    "a_slow": "points of accuracy",
    "needle_recall": "points of recall",
    "answer_bits_per_byte": "bits per byte of its answers",
    "prose_bits_per_byte": "bits per byte",
}
MEASURES = tuple(_OF)
_UNITS = {"needle_recall": "trial", "prose_bits_per_byte": "window"}  # of the others it is a question


@dataclass(frozen=True)
class Loss:
    """What one model lost against the full one, and what that means for its limit; `docs/formats.md` tells the fields.

    `loss` is a share or in bits per byte, negative for a gain; `limit` is in the same unit, None where there is none.
    `room`: how far the full model is above chance; None where a measure has no such bound. `at_chance`: it is not
    above chance beyond doubt. `more_questions` is None where the loss is decided, not judged, or so near the limit that
    no number would do. `noise`: the loss is within the noise floor, where that was measured.
    """

    model: str
    domain: str
    protocol: str
    measure: str
    loss: Interval
    n: int
    at_chance: bool = False
    room: float | None = None
    noise: bool = False
    tier: str = "told"
    limit: float | None = None
    decision: str | None = None
    more_questions: int | None = None

    @property
    def task(self) -> str:
        """What was asked: `math generation (slow thinking)`."""
        mode = self.measure.removeprefix("a_")
        return f"{self.domain} {self.protocol}".strip() + (f" ({mode} thinking)" if mode in MODES else "")

    @property
    def unit(self) -> str:
        """What `n` counts: question, trial or window."""
        return _UNITS.get(self.measure, "question")

    def in_words(self) -> str:
        """`cut on math choice loses 7.0 points of accuracy [2.0, 12.0]`, or `changes by +1.0 points of accuracy`.

        A gain is told with the sign that the tables have: more accuracy and recall, fewer bits.
        """
        scale, digits = (100, 1) if self.measure in IN_POINTS else (1, 3)
        gains = round(scale * self.loss.estimate, digits) < 0
        change = self.loss.negated if gains and self.measure in IN_POINTS else self.loss
        sign = "+" if gains else ""
        estimate = plain(scale * change.estimate, digits, sign)
        interval = bracketed(scale * change.low, scale * change.high, digits, sign)
        told = f"{'changes by' if gains else 'loses'} {estimate} {_OF[self.measure]} {interval}"
        return f"{self.model} on {self.task} {told}{' (noise)' if self.noise else ''}"

    def allowed(self) -> str:
        """The limit as a user wrote it, without its unit."""
        return f"{(100 if self.measure in IN_POINTS else 1) * (self.limit or 0.0):g}"


def of_domains(rows: Sequence[DomainRow]) -> Iterator[Loss]:
    """Accuracy, and answer NLL per byte, of each domain and protocol."""
    full = {(row.domain, row.protocol): row.accuracy.estimate for row in rows if row.versus is None}
    for row in rows:
        if (versus := row.versus) is not None:
            room = full[row.domain, row.protocol] - row.chance
            lost, blind = versus.accuracy_difference.negated, not versus.full_above_chance
            noise = "accuracy_difference" in (versus.noise or ())
            yield Loss(row.model, row.domain, row.protocol, "accuracy", lost, row.n, blind, room, noise)
            if (rise := versus.answer_nll_bits_per_byte_difference) is not None:
                noise = "answer_nll_bits_per_byte_difference" in (versus.noise or ())
                yield Loss(row.model, row.domain, row.protocol, "answer_bits_per_byte", rise, row.n, noise=noise)


def of_thinking(rows: Sequence[ThinkingRow]) -> Iterator[Loss]:
    """Accuracy at once and after a chain of thought, each against the full model's in the same mode."""
    full = {(row.domain, row.protocol): row for row in rows if row.versus is None}
    for row in rows:
        if row.versus is not None:
            for measure in (f"a_{mode}" for mode in MODES):
                change, before = (getattr(side, measure) for side in (row.versus, full[row.domain, row.protocol]))
                blind, room = before.low <= row.chance, before.estimate - row.chance
                noise = measure in (row.versus.noise or ())
                yield Loss(row.model, row.domain, row.protocol, measure, change.negated, row.n, blind, room, noise)


def of_needles(rows: Sequence[NeedleRow]) -> Iterator[Loss]:
    """Recall over all lengths together."""
    full = {row.length: row.recall for row in rows if row.recall_difference is None}
    for row in rows:
        if row.length is None and row.recall_difference is not None:
            before, lost = full[None], row.recall_difference.negated
            blind, noise = before.low <= 0, "recall_difference" in (row.noise or ())
            about = ("needle", "recall", "needle_recall")
            yield Loss(row.model, *about, lost, row.trials, blind, before.estimate, noise)


def of_prose(rows: Sequence[ProseRow]) -> Iterator[Loss]:
    """Bits per byte of each text of several windows."""
    for row in rows:
        if (lost := row.difference_bits_per_byte) is not None:
            noise = "difference_bits_per_byte" in (row.noise or ())
            yield Loss(row.model, f"prose {row.text}", "", "prose_bits_per_byte", lost, row.windows, noise=noise)
