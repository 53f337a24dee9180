"""What `evaluate compare --from-lm-eval` takes beside the settings of every comparison."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

from eval.settings import ComparisonSettings
from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen.options import Option

_reads = partial(Option, panel="Runs of lm-eval")
_ALSO = ("domains", "labels", "max_loss", "policy", "sweep", "cache")  # settings of a comparison that ask nothing


@dataclass(frozen=True)
class ForeignSettings(Checked):
    """Folders of lm-eval in the place of models: which scores of theirs are billed, and in which domains."""

    from_lm_eval: Annotated[
        bool, _reads("FULL and OTHER are folders of plain lm-eval output (--log_samples).", flag="--from-lm-eval")
    ] = False
    mapping: Annotated[
        Path | None, _reads("YAML file: domain -> its tasks, groups or MMLU subjects; our own domains if not given.")
    ] = None
    filter: Annotated[
        str | None,
        _reads("The filter that counts where a task has several, as flexible-extract; its first if not given."),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mapping", "filter"):
            if getattr(self, name) is not None and not self.from_lm_eval:
                raise UsageError(f"--{name} goes with --from-lm-eval")

    def check(self, settings: ComparisonSettings) -> None:
        """Refuse settings that would ask a model something: all is answered."""
        for field in fields(ComparisonSettings):
            if field.name not in _ALSO and getattr(settings, field.name) != field.default:
                option = "text" if field.name == "texts" else field.name.replace("_", "-")
                raise UsageError(f"--{option} asks a model, and --from-lm-eval reads what was asked; leave it out")
