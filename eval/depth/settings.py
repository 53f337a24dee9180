"""Which blocks `evaluate depth` takes out of a model, and what it asks the rest: its settings, each with its option."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from eval.settings import FEWEST_SLOW, PLAIN, SHORTEST, Questions, Settings, split_names
from prune.common.errors import UsageError
from prune.common.screen.options import Option
from prune.common.thinking import MODES

MEASURES = ("fast", "using", "writing", "control")
EVERY = "every"  # start of a block

_asks = partial(Option, panel="Questions")
_computes = partial(Option, panel="Model and memory")
_removes = partial(Option, panel="Blocks")
_writes = partial(Option, panel="Answers in words")


def check_measures(measures: str | Iterable[str]) -> tuple[str, ...]:
    """`fast,writing` or a list of measures as a tuple in the order of `MEASURES`, without repeats."""
    named = split_names(measures, "--measures")
    if unknown := [name for name in named if name not in MEASURES]:
        raise UsageError(f"--measures {unknown[0]} is unknown; use {', '.join(MEASURES)}")
    return tuple(name for name in MEASURES if name in named)


@dataclass(frozen=True)
class DepthSettings(Questions):
    """Which blocks `evaluate depth` takes out of a model, and what it asks the rest."""

    limit: Annotated[int | None, _asks("Questions per domain and protocol, at most; those with a rationale first.")] = (
        30
    )
    sizes: Annotated[str, _removes("Layers of a block, as 1,2,4.")] = "1,2,4"
    starts: Annotated[str, _removes("How many starts of each size, spread evenly over the layers; or every.")] = "8"
    measures: Annotated[
        tuple[str, ...],
        _asks(
            "fast, using, writing, control: some of these, with commas between them; all if not given.",
            typed=str | None,
            parse=check_measures,
        ),
    ] = MEASURES
    max_rationale_tokens: Annotated[
        int, _asks("A question with a longer rationale is asked as if it had none; a line says how many.")
    ] = 160
    batch_tokens: Annotated[
        int | None, _computes("Tokens of one batch; halved where memory runs out.", shown="1024; on CUDA 8192")
    ] = None
    similarity: Annotated[
        bool, _writes("Also compare the states of fast and slow prompts, layer by layer, by CKA.")
    ] = True
    prompts: Annotated[
        Path | None,
        _writes(
            "YAML file of your own fast and slow prompts, for states and answers; or one-turn (a study's form).",
            parse=Path,
        ),
    ] = None
    generate: Annotated[
        int,
        _writes(
            "How many blocks, those that separate the domains most: without each of them, and without the deepest of "
            "each size, the model also writes its answers, fast and slow. Minutes a block on a CPU; 0 for none."
        ),
    ] = 0
    slow_tokens: Annotated[int, _writes("New tokens of a chain of thought, at most.")] = 256
    batch_size: Annotated[
        int | None,
        _writes("Answers written at a time; halved where memory runs out.", shown="8; on CUDA what fits, up to 64"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "measures", check_measures(self.measures))
        self.check_asks()
        if self.protocols != PLAIN:
            raise UsageError("evaluate depth scores the texts of answers; leave out --protocols")
        if self.device_map is not None:
            raise UsageError("evaluate depth works on one device; leave out --device-map")
        least = {"batch_tokens": SHORTEST, "slow_tokens": FEWEST_SLOW, "batch_size": 1, "max_rationale_tokens": 4}
        for name, fewest in {**least, "generate": 0}.items():
            if (value := getattr(self, name)) is not None and value < fewest:
                option = f"--{name.replace('_', '-')} {value}"
                raise UsageError(f"{option} is too few; use {fewest} or more")
        if self.prompts is not None and not self.similarity and not self.generate:
            raise UsageError(
                f"--prompts {self.prompts} is for fast and slow thinking, which is not asked; leave out "
                "--no-similarity, or add --generate 4"
            )
        if self.starts != EVERY and not (self.starts.isdecimal() and int(self.starts) >= 1):
            raise UsageError(f"--starts {self.starts}: give every, or a number of starts such as 8")

    @property
    def in_words(self) -> Settings:
        """The same questions, all of them, asked fast and slow, as `evaluate run` asks."""
        same = ("data", "domains", "seed", "sets", "chat_template", "slow_tokens", "prompts", "batch_size")
        return Settings(**{name: getattr(self, name) for name in same}, thinking=MODES)

    @property
    def chain_measures(self) -> tuple[str, ...]:
        """Those that need a rationale."""
        return tuple(name for name in self.measures if name != "fast")
