"""How to heal: the settings of each method and of a run, each with its option, and whether they fit the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import MAX_MEMORY, Option
from prune.common.sizes import parse_size, parse_tokens
from prune.models.attention import HELP as ATTENTIONS
from prune.models.loading import longest_context
from prune.models.precision import HELP as DTYPES
from prune.scanning.settings import parse_batch_size
from prune.text.documents import local_files

AUTO = "auto"
BITS = (4, 8, 16)
CHOICE_TOKENS = 4096  # at most: text that a patch's candidates are judged on, a quarter of what is fitted
SCHEDULES = ("cosine", "linear", "constant")
ADAPTER_COMPUTES = ("auto", "float32", "bfloat16")
KERNELS = ("auto", "liger", "none")
REPORTERS = ("wandb", "trackio", "tensorboard", "none")
_training, _adapter, _distillation, _patch, _running = (
    partial(Option, panel=title) for title in ("Training", "Adapter", "Distillation", "Patch", "Running")
)
# What the help says of an adapter, here and in ranking.
RANK = "LoRA rank; the paper's is 64 for most models, 2 to 8 for some."
TARGETS = (
    "Which projections to adapt: all, feed-forward, after-cut (all, but only in the layers after the cut), or "
    "feed-forward:after-cut."
)
BITS_TOLD = "4: NF4, double quantised; 8: LLM.int8(); 16: not quantised."
PRODUCTS = "Of matrix products: bfloat16, float32, or auto: bfloat16 where the device has it."
_FOLLOWS = "Follows from --tokens if not given."
_ROW = "Tokens per row; documents are packed, and do not see one another."


def parse_checkpointing(written: str) -> bool | str:
    """`on`, `off` or `auto`.

    Raises:
        UsageError: another word.
    """
    known: dict[str, bool | str] = {"on": True, "off": False, AUTO: AUTO}
    if written not in known:
        raise UsageError(f"--checkpointing {written}: use on, off or auto")
    return known[written]


@dataclass(frozen=True)
class Settings(Checked):
    """How to heal. What follows from the token budget is None; a plan's `schedule` has it settled.

    The defaults lead up to arXiv 2403.17887, whose budget is 5000 steps of 16 rows of 2048 or 4096 tokens. Its rank is
    64 but for Llama-2-7B (2), Llama-2-70B (8) and Mistral-7B (4). Its rate is 3e-4 but for Llama-2-70B (3e-5),
    Mistral-7B (3e-6) and Phi-2 (2e-4). Its projections are the feed-forward ones.
    """

    length: Annotated[int | None, _training(f"{_ROW} {_FOLLOWS}")] = None
    batch_size: Annotated[
        int | str | None,
        _training(
            f"Rows per forward pass; auto: the fastest number that fits in free memory (a step keeps its rows). "
            f"{_FOLLOWS}",
            typed=str | None,
            parse=parse_batch_size,
        ),
    ] = None
    accumulate: Annotated[int | None, _training(f"Forward passes per step. {_FOLLOWS}")] = None
    learning_rate: Annotated[float | None, _training(f"Peak rate, reached after the warm-up. {_FOLLOWS}")] = None
    schedule: Annotated[str, _training("How the rate falls: cosine, linear or constant.")] = "cosine"
    warmup: Annotated[
        str | None, _training("Steps in which the rate rises, such as 100 or 3%; the fewer of these two if not given.")
    ] = None
    seed: Annotated[int, _training("Order of the text, first weights, dropout.")] = 0
    eval_every: Annotated[int | None, _training("Steps between measurements; a tenth of all if not given.")] = None
    patience: Annotated[
        int | None,
        _training("End after so many measurements without a better loss, and keep the best adapter, not the last."),
    ] = None
    checkpointing: Annotated[
        bool | str,
        _training(
            "Gradient checkpointing: recompute activations to save memory. on, off, or auto: off where free memory "
            "allows.",
            typed=str,
            parse=parse_checkpointing,
            shown="on",
        ),
    ] = True
    rank: Annotated[int, _adapter(RANK, least=1)] = 64
    alpha: Annotated[float | None, _adapter("LoRA alpha; the rank if not given.")] = None
    dropout: Annotated[float, _adapter("Dropout before the adapter.")] = 0.05
    targets: Annotated[
        str,
        _adapter(TARGETS),
    ] = "all"
    bits: Annotated[int, _adapter(BITS_TOLD)] = 4
    dtype: Annotated[str, _adapter(PRODUCTS)] = "auto"
    adapter_compute: Annotated[
        str,
        _adapter(
            "Of the adapter's products: bfloat16, float32, or auto: bfloat16 on a GPU that has it. Weights stay fp32."
        ),
    ] = "auto"

    attention: Annotated[str, _training(f"What computes attention: {ATTENTIONS}")] = "auto"
    kernels: Annotated[
        str, _training("Fused norms, rotary positions and gates: auto (liger on a GPU, if installed), liger, or none.")
    ] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.checkpointing, str):  # in Python too it may be given as it is typed
            object.__setattr__(self, "checkpointing", parse_checkpointing(self.checkpointing))

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
        float, _distillation("Softens both models' predictions; the loss is multiplied by its square.")
    ] = 1.0
    plain_loss: Annotated[
        float, _distillation("Share of the plain loss on the text itself, 0 to 1; the rest is divergence.")
    ] = 0.5
    match_hidden: Annotated[
        float,
        _distillation("Weight of the distance of the hidden states that leave the first layer after the cut; 0: none."),
    ] = 0.0
    teacher_data: Annotated[
        str, _distillation("text: train on the text; self: on responses that the full model first writes.")
    ] = "text"
    prompts: Annotated[
        str | None,
        _distillation(
            "With self: source whose field `prompt` is answered, or whose chats (`messages`) up to their first answer; "
            "openings of --text if not given."
        ),
    ] = None
    response_tokens: Annotated[int, _distillation("With self: longest response, in tokens.")] = 256
    backend: Annotated[
        str, _distillation("With self: what writes, hf (transformers, in --bits) or vllm (not quantised).")
    ] = "hf"

    @property
    def files_read(self) -> tuple[Path, ...]:
        """As in `Settings`, and the prompts."""
        return (*super().files_read, *local_files([self.prompts]))


@dataclass(frozen=True)
class PatchSettings(Checked):
    """How to patch. A ridge pulls towards the weights as they are, as a share of the mean squared feature."""

    objective: Annotated[str, _patch("What counts as near: auto, normalised, capped or cosine.")] = "auto"
    kind: Annotated[str, _patch("auto; matrix: all weights; map: a linear map of the output.")] = "auto"
    ridge: Annotated[
        float | None,
        _patch("How strongly the weights are pulled to the old ones; 0: not. Several are tried if not given."),
    ] = None
    length: Annotated[int, _patch(_ROW)] = 512
    batch_size: Annotated[int, _patch("Rows per forward pass.")] = 4
    seed: Annotated[int, _patch("Order of the text.")] = 0


@dataclass(frozen=True)
class Run(Checked):
    """Where a run goes and what it may replace. `show_progress`: on stderr."""

    device: Annotated[str, Option(wording.DEVICE)] = "auto"
    revision: Annotated[str | None, Option(wording.REVISION)] = None
    overwrite: Annotated[bool, Option(wording.OVERWRITE, flag="--overwrite")] = False
    show_progress: bool = True


@dataclass(frozen=True)
class TrainingRun(Run):
    """A run that trains. Tokens are spent in whole steps, BOS and EOS included.

    Text that cannot be counted beforehand and ends sooner ends the run there; heal.json says so.
    """

    tokens: Annotated[int | str, _training("Budget, such as 60k, 2M or 164M.", typed=str)] = "2M"
    resume: Annotated[bool, _running(wording.RESUME, flag="--resume")] = False
    save_every: Annotated[
        int | None,
        _running(
            "Steps between checkpoints, which stand hidden beside --out meanwhile; one every 5 minutes if not given."
        ),
    ] = None
    report_to: Annotated[str, _running("wandb, trackio, tensorboard or none.")] = "none"
    max_memory: Annotated[
        int | None,
        _running(
            "An unquantised cut that takes more than this (4GiB) is measured layer by layer at the end.",
            typed=str | None,
            parse=parse_size,
            shown="what the machine has",
            least=1,
        ),
    ] = None
    device_map: Annotated[str | None, _running(wording.DEVICE_MAP)] = None


@dataclass(frozen=True)
class PatchRun(Run):
    """A run that solves. The text to fit is taken in whole rows; sums are float64 whatever the dtype is."""

    tokens: Annotated[
        int | str, _patch("Tokens to fit on; a quarter more (4096 at most) chooses among the candidates.", typed=str)
    ] = "20k"
    dtype: Annotated[str, Option(DTYPES)] = "auto"
    max_memory: Annotated[int | None, MAX_MEMORY] = None


@dataclass(frozen=True)
class BudgetQuery(Checked):
    """What `heal budget` is asked, beside the settings of healing. By default of as many tokens as a run."""

    n: Annotated[int, Option("Layers that the cut will drop; 0 for a model that is cut.", flag="--n", least=0)] = 0
    start: Annotated[
        int | None,
        Option(
            "Where the cut begins, 0-based; that of the deepest block that keeps the last layer if not given.", least=0
        ),
    ] = None
    card: Annotated[
        str | None, Option("Card to plan for, such as H100, RTX-4090 or cpu; the first visible GPU here if not given.")
    ] = None
    gpu_memory: Annotated[
        int | None,
        Option(
            "Memory of a card of your own, such as 40GiB; at the speed of --card, or of an A100.",
            typed=str,
            parse=partial(parse_size, option="--gpu-memory"),
            least=1,
        ),
    ] = None
    tokens: Annotated[
        int | str,
        Option(
            "Tokens to heal on, such as 20M. The default is that of heal qlora and heal distill; the paper's budget is "
            "164M.",
            panel="Healing",
            typed=str,
        ),
    ] = TrainingRun.tokens
    method: Annotated[str, Option("qlora, or distill, which keeps the full model loaded.", panel="Healing")] = "qlora"


@dataclass(frozen=True)
class Measuring(Checked):
    """What a merge is measured on, and compared with."""

    compare_logits: Annotated[
        bool, Option("Compare logits with those of the adapter as trained, on a few held-out rows.")
    ] = True
    held_out: Annotated[str | None, Option("Text to measure on; what the adapter was measured on if not given.")] = None
    field: Annotated[str, Option("Field of each row of --held-out that holds the text.")] = "text"
    held_out_tokens: Annotated[
        int | None,
        Option(
            "How much of it, in tokens; as much as the adapter was measured on if not given.",
            typed=str,
            parse=partial(parse_tokens, option="--held-out-tokens"),
            least=1,
        ),
    ] = None
    device: Annotated[str, Option(wording.DEVICE)] = "auto"
    max_memory: Annotated[int | None, MAX_MEMORY] = None

    @property
    def files_read(self) -> tuple[Path, ...]:
        """Files of this machine that the settings name."""
        return (*super().files_read, *local_files([self.held_out]))


def check_running(run: TrainingRun) -> None:
    """Refuse a run that cannot go as asked.

    Raises:
        UsageError: one is out of its range, or needs a package that is not installed.
    """
    if run.save_every is not None and run.save_every < 1:
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
    if settings.adapter_compute not in ADAPTER_COMPUTES:
        raise UsageError(f"--adapter-compute {settings.adapter_compute} is unknown; use {', '.join(ADAPTER_COMPUTES)}")
    if settings.kernels not in KERNELS:
        raise UsageError(f"--kernels {settings.kernels} is unknown; use {', '.join(KERNELS)}")
    if settings.learning_rate is not None and not 0 < settings.learning_rate < math.inf:
        raise UsageError(f"--learning-rate {settings.learning_rate} is not above 0")
    if not 0 < settings.lora_alpha < math.inf:
        raise UsageError(f"--alpha {settings.alpha} is not above 0")
    check_seed(settings.seed)
    if settings.eval_every is not None and settings.eval_every < 1:
        raise UsageError(f"--eval-every {settings.eval_every} is not at least 1")
    if settings.schedule not in SCHEDULES:
        raise UsageError(f"--schedule {settings.schedule} is unknown; use {', '.join(SCHEDULES)}")
    if isinstance(settings.batch_size, str):
        parse_batch_size(settings.batch_size)
    if settings.patience is not None and settings.patience < 1:
        raise UsageError(f"--patience {settings.patience} is not at least 1")


def check_length(config: Any, length: int) -> None:
    """Refuse rows that are longer than what the model of this config reads.

    Raises:
        UsageError: they are.
    """
    limit = longest_context(config)
    if limit is not None and length > limit:
        raise UsageError(f"--length {length} is beyond the {limit} tokens that the model can read")
