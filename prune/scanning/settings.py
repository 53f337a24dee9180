"""How a scan is made: its settings, which are also the options of `prune scan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import MAX_MEMORY, Option
from prune.models.at_once import SCAN_TOKENS
from prune.models.precision import HELP as DTYPES
from prune.text.documents import SHORTEST


def parse_batch_size(text: str) -> int | str:
    """`auto`, or a whole number of at least 1, as a command line gives it."""
    if text != "auto" and not (text.isdecimal() and int(text) >= 1):
        raise UsageError(f"--batch-size {text}: use auto or a whole number of at least 1")
    return text if text == "auto" else int(text)


@dataclass(frozen=True)
class ScanSettings(Checked):
    """How a scan is made.

    One sample is drawn of each document while there are documents, then further windows of the longer ones; fewer
    where the text is shorter. A sample is never longer than the model's context. Angles are float64 in any `dtype`.

    Attributes:
        max_memory: in bytes.
        device_map: as transformers takes it; a table names the place of each module ("disk" too).

    Raises:
        UsageError: a setting is out of range, or `max_memory` is given with `load_in_4bit` or `device_map`.
    """

    field: Annotated[str, Option(wording.FIELD)] = "text"
    samples: Annotated[int, Option("Samples to scan, each a window of one document.")] = 256
    length: Annotated[int, Option("Most tokens of a sample, BOS included.")] = 1024
    tokens: Annotated[Literal["last", "all"], Option("Average over samples at the last token, or over all tokens.")] = (
        "last"
    )
    batch_size: Annotated[
        int | str,
        Option(
            f"Samples a batch; auto fills {SCAN_TOKENS['cpu']} tokens ({SCAN_TOKENS['cuda']} on CUDA).",
            typed=str,
            parse=parse_batch_size,
        ),
    ] = "auto"
    device: Annotated[str, Option(wording.DEVICE)] = "auto"
    dtype: Annotated[str, Option(DTYPES)] = "auto"
    max_memory: Annotated[int | None, MAX_MEMORY] = None
    load_in_4bit: Annotated[bool, Option(wording.IN_4BIT, flag="--load-in-4bit")] = False
    device_map: Annotated[
        str | dict[str, Any] | None,
        Option(
            "auto spreads the layers over all GPUs; balanced and sequential as transformers takes them.",
            typed=str | None,
        ),
    ] = None
    seed: Annotated[int, Option("Draws the documents and places the windows.")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise UsageError(f"--samples {self.samples}: at least one sample is needed")
        if self.length < SHORTEST:
            raise UsageError(f"--length {self.length}: a sample needs at least {SHORTEST} tokens")
        if self.tokens not in ("last", "all"):
            raise UsageError(f"--tokens {self.tokens}: use last or all")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: use 0 or more")
        whole = "--load-in-4bit" if self.load_in_4bit else "--device-map" if self.device_map is not None else None
        if whole and self.max_memory is not None:
            raise UsageError(f"--max-memory streams a larger model, and {whole} loads the whole of it; leave one out")
        parse_batch_size(str(self.batch_size))

    @property
    def bits(self) -> int | None:
        """Bits of a weight as it is loaded; None for those of the dtype."""
        return 4 if self.load_in_4bit else None
