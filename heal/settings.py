"""How to heal: the settings of each method and of a run, each with its option, and whether they fit the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

from prune.common.errors import UsageError
from prune.common.options import Option
from prune.common.sizes import parse_tokens
from prune.models.loading import text_config
from prune.models.precision import HELP as DTYPES

BITS = (4, 8, 16)
SCHEDULES = ("cosine", "linear", "constant")
REPORTERS = ("wandb", "trackio", "tensorboard", "none")
_TRAINING, _ADAPTER, _DISTILLATION, _PATCH, _RUNNING = "Training", "Adapter", "Distillation", "Patch", "Running"
_FOLLOWS = "Follows from --tokens if not given."
_ROW = "Tokens per row; documents are packed, and do not see one another."


@dataclass(frozen=True)
class Settings:
    """How to heal. What follows from the token budget is None; a plan's `schedule` has it settled.

    The defaults lead up to arXiv 2403.17887, whose budget is 5000 steps of 16 rows of 2048 or 4096 tokens. Its rank is
    64 but for Llama-2-7B (2), Llama-2-70B (8) and Mistral-7B (4). Its rate is 3e-4 but for Llama-2-70B (3e-5),
    Mistral-7B (3e-6) and Phi-2 (2e-4). Its projections are the feed-forward ones.
    """

    length: Annotated[int | None, Option(f"{_ROW} {_FOLLOWS}", panel=_TRAINING)] = None
    batch_size: Annotated[int | None, Option(f"Rows per forward pass. {_FOLLOWS}", panel=_TRAINING)] = None
    accumulate: Annotated[int | None, Option(f"Forward passes per step. {_FOLLOWS}", panel=_TRAINING)] = None
    learning_rate: Annotated[
        float | None, Option(f"Peak rate, reached after the warm-up. {_FOLLOWS}", panel=_TRAINING)
    ] = None
    schedule: Annotated[str, Option("How the rate falls: cosine, linear or constant.", panel=_TRAINING)] = "cosine"
    warmup: Annotated[
        str | None,
        Option("Steps in which the rate rises, such as 100 or 3%; the fewer of both if not given.", panel=_TRAINING),
    ] = None
    seed: Annotated[int, Option("Order of the text, first weights, dropout.", panel=_TRAINING)] = 0
    eval_every: Annotated[
        int | None, Option("Steps between measurements; a tenth of all if not given.", panel=_TRAINING)
    ] = None
    patience: Annotated[
        int | None,
        Option(
            "End after so many measurements without a better loss, and keep the best adapter, not the last.",
            panel=_TRAINING,
        ),
    ] = None
    checkpointing: Annotated[bool, Option("Trade time for memory: compute activations anew.", panel=_TRAINING)] = True
    rank: Annotated[int, Option("LoRA rank; the paper's is 64 for most models, 2 to 8 for some.", panel=_ADAPTER)] = 64
    alpha: Annotated[float | None, Option("LoRA alpha; the rank if not given.", panel=_ADAPTER)] = None
    dropout: Annotated[float, Option("Dropout before the adapter.", panel=_ADAPTER)] = 0.05
    targets: Annotated[
        str,
        Option(
            "Which projections to adapt: all or feed-forward; all of the layers after the cut: after-cut; both: "
            "feed-forward:after-cut.",
            panel=_ADAPTER,
        ),
    ] = "all"
    bits: Annotated[int, Option("4: NF4, double quantised; 8: LLM.int8(); 16: not quantised.", panel=_ADAPTER)] = 4
    dtype: Annotated[
        str,
        Option("Of the products: bfloat16, float32, or auto: bfloat16 where the device has it.", panel=_ADAPTER),
    ] = "auto"

    @property
    def lora_alpha(self) -> float:
        """LoRA's alpha, settled: the rank where none is given."""
        return float(self.rank if self.alpha is None else self.alpha)


@dataclass(frozen=True)
class DistillSettings(Settings):
    """How to distil, beside what all healing takes.

    What `match_hidden` weighs is |s - t|^2 / |t|^2, the mean over predicted tokens of the states that leave the first
    layer after the cut in the student, and the same layer in the teacher.
    """

    temperature: Annotated[
        float, Option("Softens both sides; the loss is multiplied by its square.", panel=_DISTILLATION)
    ] = 1.0
    plain_loss: Annotated[
        float,
        Option("Share of the plain loss on the text itself, 0 to 1; the rest is divergence.", panel=_DISTILLATION),
    ] = 0.5
    match_hidden: Annotated[
        float,
        Option("Weight of the distance of hidden states behind the cut's first layer; 0: none.", panel=_DISTILLATION),
    ] = 0.0
    teacher_data: Annotated[
        str,
        Option("text: train on the text; self: on responses that the full model first writes.", panel=_DISTILLATION),
    ] = "text"
    prompts: Annotated[
        str | None,
        Option("Source whose field `prompt` it answers; openings of --text if not named.", panel=_DISTILLATION),
    ] = None
    response_tokens: Annotated[int, Option("Longest response that it writes.", panel=_DISTILLATION)] = 256


@dataclass(frozen=True)
class PatchSettings:
    """How to patch. A ridge pulls towards the weights as they are, as a share of the mean squared feature."""

    objective: Annotated[str, Option("What counts as near: auto, normalised, capped or cosine.", panel=_PATCH)] = "auto"
    kind: Annotated[str, Option("auto; matrix: all weights; map: a linear map of the output.", panel=_PATCH)] = "auto"
    ridge: Annotated[
        float | None,
        Option("Pull to the old weights, 0 for none; the best of a ladder if not given.", panel=_PATCH),
    ] = None
    length: Annotated[int, Option(_ROW, panel=_PATCH)] = 512
    batch_size: Annotated[int, Option("Rows per forward pass.", panel=_PATCH)] = 4
    seed: Annotated[int, Option("Order of the text.", panel=_PATCH)] = 0


@dataclass(frozen=True)
class Run:
    """Where a run goes and what it may replace. `show_progress`: on stderr."""

    device: Annotated[str, Option("auto, cpu, cuda, cuda:1, ...")] = "auto"
    revision: Annotated[str | None, Option("Branch, tag or commit on the hub.")] = None
    overwrite: Annotated[bool, Option("Replace --out where it exists.", flag="--overwrite")] = False
    show_progress: bool = True


@dataclass(frozen=True)
class TrainingRun(Run):
    """A run that trains. Tokens are spent in whole steps, BOS and EOS included.

    Text that cannot be counted beforehand and ends sooner ends the run there; heal.json says so.
    """

    tokens: Annotated[int | str, Option("Budget, such as 60k, 2M or 164M.", panel=_TRAINING, typed=str)] = "2M"
    resume: Annotated[
        bool,
        Option(
            "Go on from the last checkpoint of a run into --out; begin if there is none.",
            flag="--resume",
            panel=_RUNNING,
        ),
    ] = False
    save_every: Annotated[
        int, Option("Steps between checkpoints, which stand hidden beside --out meanwhile.", panel=_RUNNING)
    ] = 50
    report_to: Annotated[str, Option("wandb, trackio, tensorboard or none.", panel=_RUNNING)] = "none"


@dataclass(frozen=True)
class PatchRun(Run):
    """A run that solves. The text to fit is taken in whole rows; sums are float64 whatever the dtype is."""

    tokens: Annotated[
        int | str,
        Option("How much text to fit; a quarter more, 4096 at most, chooses.", panel=_PATCH, typed=str),
    ] = "20k"
    dtype: Annotated[str, Option(f"To compute in: {DTYPES}")] = "auto"


@dataclass(frozen=True)
class Measuring:
    """What a merge is measured on, and compared with."""

    compare_logits: Annotated[
        bool, Option("Compare logits with those of the adapter as trained, on a few held-out rows.")
    ] = True
    held_out: Annotated[str | None, Option("Text to measure on; what the adapter was measured on if not named.")] = None
    field: Annotated[str, Option("Field of each row of --held-out that holds the text.")] = "text"
    held_out_tokens: Annotated[
        int | None,
        Option("How much of it; as much as the adapter was measured on if not named.", typed=str, parse=parse_tokens),
    ] = None
    device: Annotated[str, Option("What measures: auto, cpu, cuda, cuda:1, ...")] = "auto"


def check_running(run: TrainingRun) -> None:
    """Refuse a run that cannot go as asked.

    Raises:
        UsageError: one is out of its range, or needs a package that is not installed.
    """
    if run.save_every < 1:
        raise UsageError(f"--save-every {run.save_every} is not at least 1")
    name = run.report_to
    if name not in REPORTERS:
        raise UsageError(f"--report-to {name} is unknown; use {', '.join(REPORTERS)}")
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
        raise UsageError(f"--bits {settings.bits} is unknown; use {', '.join(map(str, BITS))}")
    if settings.learning_rate is not None and not 0 < settings.learning_rate < math.inf:
        raise UsageError(f"--learning-rate {settings.learning_rate} is not above 0")
    if not 0 < settings.lora_alpha < math.inf:
        raise UsageError(f"--alpha {settings.alpha} is not above 0")
    check_seed(settings.seed)
    if settings.eval_every is not None and settings.eval_every < 1:
        raise UsageError(f"--eval-every {settings.eval_every} is not at least 1")
    if settings.schedule not in SCHEDULES:
        raise UsageError(f"--schedule {settings.schedule} is unknown; use {', '.join(SCHEDULES)}")
    if settings.patience is not None and settings.patience < 1:
        raise UsageError(f"--patience {settings.patience} is not at least 1")


def longest_row(config: Any) -> int | None:
    """How many tokens the model of this config can read; None where the config sets no bound."""
    return getattr(text_config(config), "max_position_embeddings", None)


def check_length(config: Any, length: int) -> None:
    """Refuse rows that are longer than what the model of this config reads.

    Raises:
        UsageError: they are.
    """
    limit = longest_row(config)
    if limit is not None and length > limit:
        raise UsageError(f"--length {length} is beyond the {limit} tokens that the model can read")
