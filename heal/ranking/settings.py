"""What `heal rank` is asked: the pool, the questions, how documents are scored, and which of them are selected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from eval.settings import CHAT, split_names
from heal.settings import BITS, BITS_TOLD, PRODUCTS, RANK, TARGETS, Run, Settings, check_seed
from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import Option
from prune.common.sizes import parse_tokens
from prune.text.documents import local_files

METHODS = ("gradient", "bm25", "random", "ek-fac")
SHORTEST_READING = 16  # tokens; less of a document says nothing of what it teaches
_MOST_SKETCHED = 1 << 24  # dimensions

_pool, _asks, _scores, _adapts, _selects, _computes = (
    partial(Option, panel=title)
    for title in ("Pool", "Questions", "Scores", "Adapter", "Selection", "Model and memory")
)


def check_methods(methods: str | Iterable[str]) -> tuple[str, ...]:
    """`gradient,bm25` or a list of methods as a tuple in the order of `METHODS`, without repeats."""
    named = split_names(methods, "--methods")
    if unknown := [name for name in named if name not in METHODS]:
        raise UsageError(f"--methods {unknown[0]} is unknown; use {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in named)


def _texts(texts: str | Iterable[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


@dataclass(frozen=True)
class RankSettings(Checked):
    """Which documents are ranked, for which questions, by what.

    The adapter's options stand for the warm-up; those of a ready --adapter come from its heal.json.

    Raises:
        UsageError: a setting is out of range.
    """

    text: Annotated[
        tuple[str, ...],
        _pool(
            f"The pool: {wording.SOURCE}; several times: equal shares. Rows may say their `source`, `topic` and "
            "`kind`.",
            typed=list[str] | None,
            parse=_texts,
        ),
    ] = ()
    field: Annotated[str, _pool(wording.FIELD)] = "text"
    documents: Annotated[int, _pool("Documents that are drawn from it, at most.")] = 200
    pool_tokens: Annotated[
        int | None,
        _pool(
            "No more documents once they hold so many tokens, such as 200k.",
            typed=str,
            parse=partial(parse_tokens, option="--pool-tokens"),
            least=1,
        ),
    ] = None
    length: Annotated[int, _pool("Tokens of a document that are read, from its beginning.")] = 256
    data: Annotated[Path | None, _asks("Folder of prepared questions: one <domain>.jsonl each.", parse=Path)] = None
    domains: Annotated[tuple[str, ...], _asks("Domains, as medical,math.", typed=str | None, parse=split_names)] = ()
    questions: Annotated[int, _asks("Questions of a domain.")] = 40
    procedures: Annotated[
        int, _asks("Made-up queries of each of three procedures, and as many controls; 0 for none.")
    ] = 8
    chat_template: Annotated[str, _asks("on, off, or auto: on where the tokenizer has a chat template.")] = "auto"
    methods: Annotated[
        tuple[str, ...],
        _scores(
            f"Some of {', '.join(METHODS)}, with commas between them; the last needs the extra `influence`.",
            typed=str,
            parse=check_methods,
        ),
    ] = ("gradient", "bm25", "random")
    sketch: Annotated[int, _scores("Dimensions that gradients are projected to.")] = 1 << 19
    moments: Annotated[int, _scores("Documents that Adam's second moments are estimated on.")] = 32
    adapter: Annotated[
        Path | None, _adapts("Adapter of an earlier heal qlora on this model, in place of a warm-up.", parse=Path)
    ] = None
    warm_up: Annotated[int | str, _adapts("Tokens of the pool that a fresh adapter is trained on.", typed=str)] = "16k"
    rank: Annotated[int | None, _adapts(RANK, shown=str(Settings.rank), least=1)] = None
    targets: Annotated[str | None, _adapts(TARGETS, shown=Settings.targets)] = None
    bits: Annotated[int | None, _computes(BITS_TOLD, shown=str(Settings.bits))] = None
    dtype: Annotated[str, _computes(PRODUCTS)] = "auto"
    seed: Annotated[int, _computes("Draws documents and questions, the warm-up and the projection.")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, settled in (
            ("text", _texts(self.text)),
            ("domains", split_names(self.domains) if self.domains else ()),
            ("methods", check_methods(self.methods)),
        ):  # in Python one name may be given as it is
            object.__setattr__(self, name, settled)
        check_seed(self.seed)
        least = {"documents": 2, "length": SHORTEST_READING, "questions": 2, "procedures": 0, "sketch": 16}
        for name, fewest in {**least, "moments": 1}.items():
            if getattr(self, name) < fewest:
                raise UsageError(f"--{name} {getattr(self, name)} is too few; use {fewest} or more")
        if self.procedures > 100:
            raise UsageError(f"--procedures {self.procedures} is too many; use 100 at most")
        if self.sketch > _MOST_SKETCHED:
            raise UsageError(f"--sketch {self.sketch} is too many; use {_MOST_SKETCHED} at most")
        if self.bits is not None and self.bits not in BITS:
            raise UsageError(f"--bits {self.bits} is unknown; use {', '.join(map(str, BITS))}")
        if self.chat_template not in CHAT:
            raise UsageError(f"--chat-template {self.chat_template} is unknown; use {', '.join(CHAT)}")
        parse_tokens(self.warm_up, option="--warm-up")
        given = [name for name in ("rank", "targets", "bits") if getattr(self, name) is not None]
        if self.adapter is not None and given:
            raise UsageError(f"--{given[0]} does not go with --adapter, which has its own in its heal.json")

    @property
    def files_read(self) -> tuple[Path, ...]:
        """Files and folders of this machine that the settings name, and the files of questions."""
        questions = () if self.data is None else tuple(Path(self.data) / f"{domain}.jsonl" for domain in self.domains)
        return (*super().files_read, *questions, *local_files(self.text))

    def check(self) -> None:
        """Refuse settings that name no pool or no questions.

        Raises:
            UsageError: they do not.
        """
        if not self.text:
            raise UsageError("nothing to rank: name the pool with --text")
        if not self.domains:
            raise UsageError("nothing to rank by: name --domains such as medical,math")
        if self.data is None:
            raise UsageError("--domains needs --data, the folder that `evaluate prepare` makes")


@dataclass(frozen=True)
class Selection(Checked):
    """Which of the ranked documents are written as text to heal on.

    Raises:
        UsageError: options that do not go together.
    """

    select: Annotated[
        str | None, _selects("How much of the pool's tokens is selected: a share such as 10%, or a count such as 30k.")
    ] = None
    select_by: Annotated[str, _selects("The method that says which documents come first.")] = "gradient"
    select_for: Annotated[str | None, _selects("One domain; the mean over all of them if not given.")] = None
    select_out: Annotated[Path | None, _selects("File of JSON lines for heal qlora --text.", parse=Path)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.select is None) != (self.select_out is None):
            raise UsageError("--select and --select-out go together: how much, and where it is written")
        check_methods(self.select_by)
        if self.select is None and (self.select_for is not None or self.select_by != METHODS[0]):
            raise UsageError("--select-for and --select-by go with --select")
        if self.select is not None:
            parse_share(self.select)
            if self.select_out is not None and self.select_out.suffix != ".jsonl":
                raise UsageError(f"--select-out {self.select_out}: rows are written; give it the ending .jsonl")

    def check(self, settings: RankSettings) -> None:
        """Refuse what the settings do not rank.

        Raises:
            UsageError: a method or a domain that is not among theirs.
        """
        if self.select is None:
            return
        if self.select_by not in settings.methods:
            raise UsageError(
                f"--select-by {self.select_by} is not scored; name it in --methods, or use one of "
                f"{', '.join(settings.methods)}"
            )
        if self.select_for is not None and self.select_for not in settings.domains:
            raise UsageError(f"--select-for {self.select_for} is not among --domains {','.join(settings.domains)}")


def parse_share(select: str) -> float | int:
    """`10%` as a share of 1, `30k` as a number of tokens.

    Raises:
        UsageError: neither, nothing, or more than 100%.
    """
    if not select.strip().endswith("%"):
        return parse_tokens(select, option="--select")
    try:
        share = float(select.strip()[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--select {select}: give a share above 0 and up to 100%, or tokens such as 30k")
    return share


@dataclass(frozen=True)
class RankRun(Run):
    """Where a ranking computes, and what it may replace."""

    resume: Annotated[bool, Option(wording.RESUME, flag="--resume")] = False
    plot: Annotated[Path | None, Option("Also draw the bins: an .svg file.", parse=Path)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plot is not None and self.plot.suffix.lower() != ".svg":
            raise UsageError(f"--plot {self.plot}: the figure is an .svg file; give it that ending")
