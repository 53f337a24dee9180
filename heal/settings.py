"""How to heal: the settings of each method, and whether they fit one another and the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from prune.common.errors import UsageError
from prune.models.loading import text_config

# A setting that follows from the token budget. Its type is what it has in a plan, where all are settled.
_FROM_BUDGET: Any = None


BITS = (4, 8, 16)


@dataclass(frozen=True)
class Settings:
    """How to heal. What is None follows from the token budget (`heal.defaults`), up to that of arXiv 2403.17887.

    The paper's budget is 5000 steps of 16 rows of 2048 or 4096 tokens. Its rank is 64 but for Llama-2-7B (2),
    Llama-2-70B (8) and Mistral-7B (4). Its rate is 3e-4 but for Llama-2-70B (3e-5), Mistral-7B (3e-6) and Phi-2 (2e-4).

    Attributes:
        length: tokens per row.
        batch_size: rows per forward pass.
        accumulate: forward passes per step.
        learning_rate: the peak rate, reached after the warm-up.
        alpha: LoRA's alpha; the rank if None, so that the scale is 1.
        targets: `all` or `feed-forward` (the paper's), and where: `feed-forward:after-cut`, `all:after-cut` or, for
            short, `after-cut`. See `heal.models.targets.find_targets`.
        bits: 4 (NF4 + double quantisation), 8 (LLM.int8()) or 16 (not quantised).
        dtype: of the products and of what is not quantised: `bfloat16`, `float32`, or `auto`: bfloat16 where the device
            multiplies it. In the settings of a plan it is one of the first two.
        eval_every: optimiser steps between two measurements of held-out loss; a tenth of all steps if None.
        checkpointing: keep one activation per layer and compute the rest anew.
        schedule: how the rate falls after the warm-up: `cosine` as in the paper, `linear`, or `constant`.
        warmup: see `heal.training.schedule.plan_steps`.
        patience: end after so many measurements without a better held-out loss, and keep the best adapter, not the
            last; None: neither.
    """

    length: int = _FROM_BUDGET
    batch_size: int = _FROM_BUDGET
    accumulate: int = _FROM_BUDGET
    rank: int = 64
    alpha: float | None = None
    dropout: float = 0.05
    learning_rate: float = _FROM_BUDGET
    targets: str = "all"
    bits: int = 4
    dtype: str = "auto"
    seed: int = 0
    eval_every: int | None = None
    checkpointing: bool = True
    schedule: str = "cosine"
    warmup: str | None = None
    patience: int | None = None

    @property
    def lora_alpha(self) -> float:
        """LoRA's alpha, settled: the rank where none is given."""
        return float(self.rank if self.alpha is None else self.alpha)


@dataclass(frozen=True)
class DistillSettings(Settings):
    """How to distil, beside what all healing takes.

    Attributes:
        temperature: softens both sides of the divergence; the loss is multiplied by its square.
        plain_loss: share of the plain loss (of the text's own next tokens), in [0, 1]; the rest is divergence.
        match_hidden: weight of the distance between the states that leave the first layer after the cut in the student,
            and the same layer in the teacher: |s - t|^2 / |t|^2, the mean over predicted tokens. 0: not taken.
        teacher_data: `text`, to train on the text itself, or `self`: on what the full model first writes.
        prompts: a SOURCE whose field `prompt` holds what the full model answers, in its chat template if it has one;
            None: it goes on from the first 32 tokens of the text's documents. For `self` alone.
        response_tokens: at most so many a response. Prompt and response are both trained on.
    """

    temperature: float = 1.0
    plain_loss: float = 0.5
    match_hidden: float = 0.0
    teacher_data: str = "text"
    prompts: str | None = None
    response_tokens: int = 256


@dataclass(frozen=True)
class PatchSettings:
    """How to patch.

    Attributes:
        objective: what counts as near, one of `heal.patching.least_squares.OBJECTIVES`, or `auto`: the best of them.
        kind: `matrix` (the projection's weights, freely), `map` (a linear map of its output), or `auto`: the better.
        ridge: pull towards the weights as they are, as a share of the mean squared feature; the best of a ladder if
            None.
        length: tokens per row.
        batch_size: rows per forward pass.
    """

    objective: str = "auto"
    kind: str = "auto"
    ridge: float | None = None
    length: int = 512
    batch_size: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Running:
    """How a run goes, with no bearing on what comes out of it.

    Attributes:
        resume: go on from the last checkpoint of a run with the same `out`, or begin if there is none.
        save_every: optimiser steps between two checkpoints.
        report_to: `wandb`, `trackio`, `tensorboard` or `none`.
    """

    resume: bool = False
    save_every: int = 50
    report_to: str = "none"


SCHEDULES = ("cosine", "linear", "constant")
REPORTERS = ("wandb", "trackio", "tensorboard", "none")


def check_running(running: Running) -> None:
    """Refuse a run that cannot go as asked.

    Raises:
        UsageError: one is out of its range, or needs a package that is not installed.
    """
    if running.save_every < 1:
        raise UsageError(f"--save-every {running.save_every} is not at least 1")
    name = running.report_to
    if name not in REPORTERS:
        raise UsageError(f"--report-to {name} is unknown; take {', '.join(REPORTERS)}")
    if name != "none" and find_spec(name) is None:
        raise UsageError(f"--report-to {name} needs a package that is not installed: pip install {name}")


def check_seed(seed: int) -> None:
    """Raise UsageError for a seed that a generator does not take: numpy's reads 32 bits."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed} is not between 0 and {2**32 - 1}")


def check(settings: Settings) -> None:
    """Refuse settings that no model can be healed with.

    Raises:
        UsageError: one is out of its range.
    """

    if settings.bits not in BITS:
        raise UsageError(f"--bits {settings.bits} is unknown; take {', '.join(map(str, BITS))}")
    if not 0 < settings.learning_rate < math.inf:
        raise UsageError(f"--learning-rate {settings.learning_rate} is not above 0")
    if not 0 < settings.lora_alpha < math.inf:
        raise UsageError(f"--alpha {settings.alpha} is not above 0")
    check_seed(settings.seed)
    if settings.eval_every is not None and settings.eval_every < 1:
        raise UsageError(f"--eval-every {settings.eval_every} is not at least 1")
    if settings.schedule not in SCHEDULES:
        raise UsageError(f"--schedule {settings.schedule} is unknown; take {', '.join(SCHEDULES)}")
    if settings.patience is not None and settings.patience < 1:
        raise UsageError(f"--patience {settings.patience} is not at least 1")


def _positions(config: Any) -> int | None:
    return getattr(text_config(config), "max_position_embeddings", None)


def check_length(config: Any, length: int) -> None:
    """Refuse rows that are longer than what the model of this config reads.

    Raises:
        UsageError: they are.
    """
    limit = _positions(config)
    if limit is not None and length > limit:
        raise UsageError(f"--length {length} is beyond the {limit} tokens that the model can read")
