"""Needles in haystacks, by the trials of `prune heads`: what a model brings back of what stands in its context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from eval.settings import Settings
from prune.checkpoint.source import Source
from prune.choosing.heads import TrialRow
from prune.common.files.artefact import Part
from prune.common.files.provenance import digest
from prune.instruments.needles import NEEDLES
from prune.instruments.settings import HeadsSettings, check_context, spread_depths

if TYPE_CHECKING:
    from prune.instruments.prompts import Trial

NEW_TOKENS = HeadsSettings.new_tokens  # of an answer, thinking included
_OPTION = "--needle-lengths"
_Write = Callable[[Sequence[tuple[int, ...]], int], list[str]]


class NeedleTrials(Part):
    """What one model answered to needles in haystacks."""

    trials: tuple[TrialRow, ...] = Field(description="every trial")
    known: tuple[int, ...] = Field(description="needles that it answers without any text; a bill leaves them out")
    sha256: str = Field(description="of the prompts' tokens: two models are paired where it is the same")


@dataclass(frozen=True)
class DrawnNeedles:
    """What is asked of a model.

    Attributes:
        trials: needles in their haystacks. bare: the question of each needle alone, needle 0 first.
    """

    trials: tuple[Trial, ...]
    bare: tuple[tuple[int, ...], ...]

    @property
    def sha256(self) -> str:
        """Of the tokens of all prompts."""
        return digest([trial.prompt.ids for trial in self.trials])

    def __len__(self) -> int:
        return len(self.trials) + len(self.bare)


def draw_needles(settings: Settings, tokenizer: Any, source: Source, *, chat: bool) -> DrawnNeedles:
    """The trials: every needle at each depth of each length.

    Args:
        chat: ask through the tokenizer's chat template.

    Raises:
        UsageError: a length that the model does not take, or that no needle fits; no text.
        TextError: the text is missing, or too short.
        RegrowthError: a tokenizer that does not tell where a token stands.
    """
    from prune.instruments.prompts import Prompter, plan_trials, read_sentences
    from prune.models.loading import context_length

    sources = settings.haystacks
    check_context(context_length(source, trust_remote_code=False), settings.needle_lengths, NEW_TOKENS, _OPTION)
    documents = read_sentences(sources, settings.field, settings.seed)
    prompter, needles = Prompter(tokenizer, chat=chat), list(enumerate(NEEDLES))[: settings.needle_count]
    depths = spread_depths(settings.needle_depths)
    trials = plan_trials(prompter, needles, documents, settings.needle_lengths, depths, option=_OPTION)
    return DrawnNeedles(tuple(trials), tuple(prompter.ask(needle.question).ids for _, needle in needles))


def measure_needles(drawn: DrawnNeedles, write: _Write, batch_size: int) -> NeedleTrials:
    """Ask for all needles.

    Args:
        write: has the model write so many tokens at most after each of some prompts, neighbours of which are alike.
        batch_size: prompts at a time.
    """
    from prune.instruments.detecting import batches, recall_of, trial_rows
    from prune.instruments.scores import ANSWERED, recall

    known = [recall(NEEDLES[i].answer, text) > ANSWERED for i, text in enumerate(write(drawn.bare, NEW_TOKENS))]
    written = [""] * len(drawn.trials)
    for numbers in batches(drawn.trials, batch_size * max(trial.length for trial in drawn.trials)):
        answers = write([drawn.trials[number].prompt.ids for number in numbers], NEW_TOKENS)
        for number, answer in zip(numbers, answers, strict=True):
            written[number] = answer
    return NeedleTrials(
        trials=tuple(trial_rows(drawn.trials, recall_of(drawn.trials, written), written)),
        known=tuple(number for number, answered in enumerate(known) if answered),
        sha256=drawn.sha256,
    )
