"""What is asked, and how: the settings of the commands, each with its option, checked when they are made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_type_hints

from prune.common.checked import Checked, field_value
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import Option
from prune.common.thinking import parse_modes
from prune.instruments.needles import NEEDLES
from prune.instruments.settings import HeadsSettings, parse_numbers, spell_numbers
from prune.models.precision import HELP as DTYPES
from prune.models.vllm.options import parse_engine_options
from prune.text.documents import local_files

SHORTEST = 64  # tokens; below that a prompt and 16 new tokens do not fit
LONGEST = 4096  # tokens of context if not told, however much a model can hold: our questions are shorter
EXAMPLES = "examples"  # below the folder of questions, whose own files are domains
BACKENDS = ("hf", "vllm")
CHAT = ("auto", "on", "off")
# How questions are put (`eval/asking/protocols`), and the kind of question that each is for.
PROTOCOLS = {"choice": "choice", "letters": "choice", "generation": "generation"}
PLAIN = (
    "choice",
    "generation",
)  # a question has one of these; both are asked if not told: none has options to read back
FEWEST_SLOW = 16  # tokens of a chain of thought
HEAD_SCORES = ("write", "copy")
TOP = 20  # heads that are taken out

# What the help says, here and of the commands that are no more than options.
MAX_LOSS = "Most points of accuracy that a domain may lose, as 5%."
POLICY = "YAML file of limits and gains, domain by domain, in the place of --max-loss."
SWEEP = "Folder of a sweep of the full model, to be shown in the report too."

_asks = partial(Option, panel="Questions")
_computes = partial(Option, panel="Model and memory")
_hides = partial(Option, panel="Needles")
_removes = partial(Option, panel="Heads taken out")
_repeats = partial(Option, panel="Noise floor")
_Text = str | None


def split_names(names: str | Iterable[str], option: str = "--domains") -> tuple[str, ...]:
    """`medical,math` or a list of names, without repeats, in order."""
    parts = names.split(",") if isinstance(names, str) else list(names)
    chosen = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not chosen:
        what = "no domain is named" if option == "--domains" else f"{option} names nothing"
        such = ", such as --domains medical,math" if option == "--domains" else ""
        raise UsageError(f"{what}; give names with commas between them{such}")
    return chosen


def check_protocols(protocols: str | Iterable[str]) -> tuple[str, ...]:
    """`choice,letters` or a list of protocols as a tuple in the order of `PROTOCOLS`, without repeats."""
    named = split_names(protocols, "--protocols")
    if unknown := [name for name in named if name not in PROTOCOLS]:
        raise UsageError(f"--protocols {unknown[0]} is unknown; use {', '.join(PROTOCOLS)}")
    return tuple(name for name in PROTOCOLS if name in named)


def _lengths(lengths: str | Iterable[int]) -> tuple[int, ...]:
    text = lengths if isinstance(lengths, str) else ",".join(map(str, lengths))
    return parse_numbers(text, "--needle-lengths")


def _texts(texts: str | Iterable[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _labels(labels: str | Iterable[str]) -> tuple[str, ...]:
    return tuple(labels.split(",") if isinstance(labels, str) else labels)


def _names(help: str, option: str) -> Option:
    return _asks(help, typed=_Text, parse=lambda names: split_names(names, option))


@dataclass(frozen=True)
class Questions(Checked):
    """Which questions are put to a model, in which words, and where it computes."""

    data: Annotated[Path | None, _asks("Folder of prepared questions: one <domain>.jsonl each.", parse=Path)] = None
    domains: Annotated[tuple[str, ...], _names("Domains, as medical,math.", "--domains")] = ()
    limit: Annotated[int | None, _asks("Questions per domain and protocol (or task), at most; all if not given.")] = (
        None
    )
    seed: Annotated[int, _asks("Which questions and which prose are drawn.", least=0)] = 0
    sets: Annotated[
        tuple[str, ...] | None, _names("Only questions of these sets, as mmlu,medmcqa,asdiv.", "--sets")
    ] = None
    protocols: Annotated[
        tuple[str, ...],
        _asks(
            "choice (texts are scored, options not shown), letters (options shown, the letter scored), generation.",
            typed=_Text,
            parse=check_protocols,
            shown=",".join(PLAIN),
        ),
    ] = PLAIN
    few_shot: Annotated[
        int | None,
        _asks("Worked examples before each question, of its domain and protocol; by letters the subject's own."),
    ] = None
    chat_template: Annotated[
        str, _asks("on, off, or auto: on where the (full) model's tokenizer has a chat template.")
    ] = "auto"
    texts: Annotated[
        tuple[str, ...],
        _asks(
            "Held-out prose to measure the loss on too: SOURCE, or NAME=SOURCE for several; repeatable.",
            flag="--text",
            typed=list[str] | None,
            parse=_texts,
        ),
    ] = ()
    field: Annotated[str, _asks("Field of that prose's rows that holds the text.")] = "text"
    max_length: Annotated[
        int | None, _computes("Context in tokens; 4096 if not given, and never more than the model's own.")
    ] = None
    device: Annotated[str, _computes(wording.DEVICE)] = "auto"
    dtype: Annotated[str, _computes(DTYPES)] = "auto"
    load_in_4bit: Annotated[bool, _computes(wording.IN_4BIT, flag="--load-in-4bit")] = False
    device_map: Annotated[str | None, _computes(wording.DEVICE_MAP)] = None

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Settings from what a user writes: names as `medical,math` or as a list, paths as text, `text` for `texts`."""
        if "text" in given:
            given["texts"] = given.pop("text")
        hints = get_type_hints(cls, include_extras=True)
        if unknown := sorted(set(given) - set(hints)):
            raise UsageError(f"no setting is called {unknown[0]!r}")
        given = {name: field_value(cls, name, value) for name, value in given.items() if value is not None}
        return cls(**given)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "protocols", check_protocols(self.protocols))  # in Python any may be given
        if self.domains:
            object.__setattr__(self, "domains", split_names(self.domains))
        if self.sets is not None:
            object.__setattr__(self, "sets", split_names(self.sets, "--sets"))
        if self.limit is not None and self.limit < 2:
            raise UsageError(f"--limit {self.limit} is too few questions; an interval needs 2 at least")
        if self.max_length is not None and self.max_length < SHORTEST:
            raise UsageError(f"--max-length {self.max_length} leaves no room for a question; use {SHORTEST} or more")
        if self.few_shot is not None and self.few_shot < 0:
            raise UsageError(f"--few-shot {self.few_shot} must be 0 or more")
        _check_known("--chat-template", self.chat_template, CHAT)

    def check_asks(self) -> None:
        """Refuse settings without domains or their folder; a comparison of finished runs needs none of this."""
        if not self.domains:
            raise UsageError("nothing to ask: name --domains such as medical,math, or --tasks of lm-eval")
        if self.data is None:
            raise UsageError("--domains needs --data, the folder that `evaluate prepare` makes")

    @property
    def files_read(self) -> tuple[Path, ...]:
        """Files and folders of this machine that the settings name."""
        examples = () if self.data is None else (Path(self.data) / EXAMPLES,)
        return (*super().files_read, *examples, *local_files(named_texts(self.texts).values()))

    @property
    def draw(self) -> dict[str, Any]:
        """Which questions are drawn, for the record of a run."""
        sets = None if self.sets is None else sorted(self.sets)
        drawn = {"few_shot": self.few_shot, "limit": self.limit, "seed": self.seed, "sets": sets}
        return {**drawn, "protocols": list(self.protocols)}

    def with_chat(self, on: bool) -> Self:
        """The same with the chat template decided."""
        return replace(self, chat_template="on" if on else "off")


_Kind = TypeVar("_Kind", bound=Questions)
_Given = TypeVar("_Given", bound=Questions)


def settings_of(kind: type[_Kind], settings: _Given | None, options: Mapping[str, Any]) -> _Kind | _Given:
    """Settings as a function takes them: whole, or by the fields of `kind` as `options`, not both."""
    if settings is None:
        return kind.of(**options)
    if options:
        raise UsageError(f"{next(iter(options))} is given beside settings; set it in them")
    return settings


@dataclass(frozen=True)
class Settings(Questions):
    """What `evaluate run` and `evaluate compare` ask, the same of all models of a comparison."""

    tasks: Annotated[
        tuple[str, ...], _names("Tasks or groups of lm-eval to run as well, as arc_easy,mathqa.", "--tasks")
    ] = ()
    include_path: Annotated[Path | None, _asks("Folder of lm-eval task YAML files for --tasks.", parse=Path)] = None
    thinking: Annotated[
        tuple[str, ...],
        _asks(
            "Ask in these modes as well: fast (at once), slow (after a chain of thought), or fast,slow.",
            typed=_Text,
            parse=parse_modes,
        ),
    ] = ()
    slow_tokens: Annotated[int, _asks("New tokens of a chain of thought, at most.")] = 256
    prompts: Annotated[
        Path | None,
        _asks("YAML file of your own fast and slow prompts for --thinking, or one-turn (a study's form).", parse=Path),
    ] = None
    backend: Annotated[str, _computes("hf (transformers) or vllm, of lm-eval.")] = "hf"
    backend_args: Annotated[
        tuple[tuple[str, Any], ...],
        _computes(
            "Options of vLLM's engine, with commas between: gpu_memory_utilization=0.6.",
            typed=_Text,
            parse=parse_engine_options,
        ),
    ] = ()
    batch_size: Annotated[
        int | None,
        _computes("Requests at a time; halved where memory runs out.", shown="8; on CUDA what fits, up to 64"),
    ] = None
    needles: Annotated[
        bool,
        _hides(
            "Also measure recall of the context: ask for invented facts that are hidden in a text.", flag="--needles"
        ),
    ] = False
    needle_text: Annotated[str | None, _hides("SOURCE of the text to hide them in; --text if not given.")] = None
    needle_lengths: Annotated[
        tuple[int, ...],
        _hides(
            "Tokens of a prompt: a list of lengths.",
            typed=_Text,
            parse=_lengths,
            shown=spell_numbers(HeadsSettings.lengths),
        ),
    ] = HeadsSettings.lengths
    needle_depths: Annotated[int, _hides("Places of the needle in the text, from its beginning to its end.")] = 5
    needle_count: Annotated[int, _hides(f"Needles, 2 to {len(NEEDLES)}.")] = len(NEEDLES)
    cache: Annotated[
        Path | None,
        Option(
            "Where answers are kept: none is asked twice, and an interrupted run goes on.",
            panel="Kept answers",
            parse=Path,
        ),
    ] = None

    @classmethod
    def of(cls, **given: Any) -> Self:
        """As in `Questions`; `backend_args` may be a table too."""
        if isinstance(engine := given.get("backend_args"), Mapping):
            given["backend_args"] = parse_engine_options(engine)
        return super().of(**given)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "thinking", parse_modes(self.thinking))
        if self.tasks:
            object.__setattr__(self, "tasks", split_names(self.tasks, "--tasks"))
        if self.needle_lengths:
            object.__setattr__(self, "needle_lengths", _lengths(self.needle_lengths))
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} must be 1 or more")
        if self.slow_tokens < FEWEST_SLOW:
            least = f"use {FEWEST_SLOW} or more"
            raise UsageError(f"--slow-tokens {self.slow_tokens} leaves no room for a thought; {least}")
        _check_known("--backend", self.backend, BACKENDS)
        if self.backend == "vllm":
            self._check_vllm()
        if self.backend_args and self.backend != "vllm":
            raise UsageError("--backend-args are for vLLM's engine; add --backend vllm")
        if self.thinking and not set(self.protocols) & set(PLAIN):
            raise UsageError("--thinking is asked beside choice or generation; name one in --protocols")
        if self.needles:
            self._check_needles()
            return
        for field in fields(Settings):
            if field.name.startswith("needle_") and getattr(self, field.name) != field.default:
                raise UsageError(f"--{field.name.replace('_', '-')} goes with --needles")

    def _check_vllm(self) -> None:
        if self.load_in_4bit:
            quantised = "--backend-args quantization=bitsandbytes is the engine's own"
            raise UsageError(f"--load-in-4bit is of transformers; leave out --backend vllm ({quantised})")
        if self.device_map is not None:
            raise UsageError("--device-map is of transformers; use --backend-args tensor_parallel_size=2 for vLLM")

    def _check_needles(self) -> None:
        if self.backend == "vllm":
            raise UsageError("--needles are asked through transformers; leave out --backend vllm")
        if not self.needle_lengths:
            raise UsageError("--needle-lengths: give one length at least")
        if self.needle_depths < 1:
            raise UsageError(f"--needle-depths {self.needle_depths}: use 1 or more")
        if not 2 <= self.needle_count <= len(NEEDLES):
            raise UsageError(f"--needle-count {self.needle_count}: use 2 to {len(NEEDLES)}")

    @property
    def files_read(self) -> tuple[Path, ...]:
        """As in `Questions`, and the text that needles are hidden in."""
        return (*super().files_read, *local_files([self.needle_text]))

    @property
    def haystacks(self) -> tuple[str, ...]:
        """Sources of the text that needles are hidden in.

        Raises:
            UsageError: there is none.
        """
        sources = tuple(named_texts(self.texts).values()) if self.needle_text is None else (self.needle_text,)
        if not sources:
            raise UsageError("--needles are hidden in a text, and there is none; add --needle-text or --text")
        return sources

    def check_asks(self) -> None:
        """As in `Questions`; tasks of lm-eval will do."""
        if self.domains or not self.tasks:
            super().check_asks()


@dataclass(frozen=True)
class RunSettings(Settings):
    """What `evaluate run` asks, and which heads of the model are taken out before."""

    ablate_heads: Annotated[
        Path | None, _removes("heads.json of this model: take out its highest heads.", parse=Path)
    ] = None
    top: Annotated[int | None, _removes(f"How many heads; {TOP} if not given.")] = None
    heads_by: Annotated[
        str | None, _removes("The score that says which are highest: write (if not given) or copy.")
    ] = None
    ablate_random: Annotated[
        int | None, _removes("Take out as many random heads of the same layers in their place; drawn by this seed.")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        more = {"--top": self.top, "--heads-by": self.heads_by, "--ablate-random": self.ablate_random}
        if self.ablate_heads is None:
            if given := [option for option, value in more.items() if value is not None]:
                raise UsageError(f"{given[0]} goes with --ablate-heads, the heads.json of the model")
            return
        if self.backend == "vllm":
            raise UsageError("--ablate-heads takes heads out of a model of transformers; leave out --backend vllm")
        if self.top is not None and self.top < 1:
            raise UsageError(f"--top {self.top}: use 1 or more")
        if self.heads_by is not None:
            _check_known("--heads-by", self.heads_by, HEAD_SCORES)
        if self.ablate_random is not None and self.ablate_random < 0:
            raise UsageError(f"--ablate-random {self.ablate_random}: use 0 or more")


@dataclass(frozen=True)
class ComparisonSettings(Settings):
    """What `evaluate compare` asks, and how it bills the answers."""

    labels: Annotated[
        tuple[str, ...] | None,
        Option("Names for the models in order, as full,pruned,healed.", typed=_Text, parse=_labels),
    ] = None
    max_loss: Annotated[
        str | None,
        Option(f"{MAX_LOSS} Exit code 0 GO, 3 NO-GO, 4 INCONCLUSIVE."),
    ] = None
    policy: Annotated[
        Path | None,
        Option(POLICY, parse=Path),
    ] = None
    sweep: Annotated[Path | None, Option(SWEEP, parse=Path)] = None
    noise: Annotated[
        bool, _repeats("Ask FULL a second time in other batches: how much its scores change is noise.")
    ] = True
    noise_limit: Annotated[int, _repeats("Questions per domain and protocol that are asked again, at most.")] = 100
    noise_dtype: Annotated[str | None, _repeats("Ask again in this precision; in that of --dtype if not given.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_limit < 2:
            raise UsageError(f"--noise-limit {self.noise_limit} is too few questions; an interval needs 2 at least")
        if self.noise_options and not self.noise:
            raise UsageError(f"{self.noise_options[0]} is of the noise floor; leave out --no-noise")

    @property
    def noise_options(self) -> tuple[str, ...]:
        """The options of the noise floor that are not as they are where nothing is given."""
        given = {"--noise-dtype": self.noise_dtype, "--noise-limit": self.noise_limit}
        usual = (ComparisonSettings.noise_dtype, ComparisonSettings.noise_limit)
        return tuple(option for (option, value), other in zip(given.items(), usual, strict=True) if value != other)


def _check_known(option: str, given: str, known: Iterable[str]) -> None:
    if given not in known:
        raise UsageError(f"{option} {given} is unknown; use {', '.join(known)}")


def default_cache() -> Path:
    """Where the commands keep answers if not told: `regrowth/scores` below $XDG_CACHE_HOME, or below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "regrowth" / "scores"


def named_texts(texts: Iterable[str]) -> dict[str, str]:
    """`NAME=SOURCE` or `SOURCE` (named `held-out`) as name to source, in order."""
    sources: dict[str, str] = {}
    for text in texts:
        name, mark, source = text.partition("=")
        if not mark or not name or any(sign in name for sign in "/\\:. "):  # a path may hold `=` too
            name, source = "held-out", text
        if name in sources:
            raise UsageError(f"--text gives {name} twice; name them apart, as --text medical=FILE --text math=FILE")
        sources[name] = source
    return sources
