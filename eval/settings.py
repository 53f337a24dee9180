"""What is asked, and how: the settings that `evaluate run` and `evaluate compare` share, checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from prune.common.errors import UsageError
from prune.models.vllm_options import parse_engine_options

SHORTEST = 64  # tokens; below that a prompt and 16 new tokens do not fit
LONGEST = 4096  # tokens of context at most, however much a model can hold: our questions are shorter
BACKENDS = ("hf", "vllm")
CHAT = ("auto", "on", "off")


MODES = ("fast", "slow")  # of thinking: at once, and after a chain of thought
SLOW_TOKENS = 256  # of a chain of thought, its answer included


@dataclass(frozen=True)
class Settings:
    """Which questions are put to a model, and how; the same for all models of a comparison.

    data, domains: the prepared folder, and the domains of it that are asked.
    tasks, include_path: lm-eval tasks and groups to run as well, and a folder of YAML files to look for them in.
    limit, seed, sets: how many questions per domain and protocol (per task, too), drawn by which seed, of which sets.
    thinking, slow_tokens: modes to ask in as well (`fast`, `slow`, both or none), and the longest chain of thought.
    few_shot: worked examples before each question; None leaves it to the tasks (0 in our domains).
    chat_template: `on`, `off`, or `auto`: on where the (full) model's tokenizer has one.
    texts: held-out prose to measure the loss on: `SOURCE` or `NAME=SOURCE`, `field` its rows' field.
    backend_args: options of vLLM's engine, as pairs of name and value; as `name=value,...` or a mapping in `of`.
    max_length: tokens of context; the model's own, 4096 at most, if None.
    cache: where answers are kept, so that none is asked twice and an interrupted run goes on; nowhere if None.
    """

    data: Path | None = None
    domains: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    include_path: Path | None = None
    limit: int | None = None
    seed: int = 0
    sets: tuple[str, ...] | None = None
    thinking: tuple[str, ...] = ()
    slow_tokens: int = SLOW_TOKENS
    few_shot: int | None = None
    chat_template: str = "auto"
    texts: tuple[str, ...] = ()
    field: str = "text"
    backend: str = "hf"
    backend_args: tuple[tuple[str, Any], ...] = ()
    batch_size: int = 8
    max_length: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    cache: Path | None = None

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """Settings from options as a user writes them: names as `medical,math` or as a list, paths as text.

        Raises:
            UsageError: an option that is wrong in itself.
        """
        if (text := given.pop("text", None)) is not None:  # one source, by the name of its option
            given["texts"] = [text] if isinstance(text, str) else text
        unknown = sorted(set(given) - {one.name for one in fields(cls)})
        if unknown:
            raise UsageError(f"no setting is called {unknown[0]!r}")
        for name in ("data", "include_path", "cache"):
            if given.get(name) is not None:
                given[name] = Path(given[name])
        given["thinking"] = check_modes(given.get("thinking"))
        for name in ("domains", "tasks"):
            given[name] = _names(given.get(name), name)
        given["backend_args"] = parse_engine_options(given.get("backend_args"))
        given["texts"] = tuple(given.get("texts") or ())
        if given.get("sets") is not None:
            given["sets"] = _names(given["sets"], "sets")
        found = cls(**given)
        found._check()
        return found

    def check_asks(self) -> None:
        """Refuse settings that ask nothing; a comparison of finished runs needs none of this.

        Raises:
            UsageError: neither domains nor tasks, or domains without their folder.
        """
        if not self.domains and not self.tasks:
            raise UsageError("nothing to ask: name --domains such as medical,math, or --tasks of lm-eval")
        if self.domains and self.data is None:
            raise UsageError("--domains needs --data, the folder that `evaluate prepare` makes")

    def _check(self) -> None:
        if self.limit is not None and self.limit < 2:
            raise UsageError(f"--limit {self.limit} is too few questions; an interval needs 2 at least")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} must be 1 or more")
        if self.max_length is not None and self.max_length < SHORTEST:
            raise UsageError(f"--max-length {self.max_length} leaves no room for a question; take {SHORTEST} or more")
        if self.few_shot is not None and self.few_shot < 0:
            raise UsageError(f"--few-shot {self.few_shot} must be 0 or more")
        _check_one("--backend", self.backend, BACKENDS)
        if self.backend_args and self.backend != "vllm":
            raise UsageError("--backend-args are for vLLM's engine; add --backend vllm")
        _check_one("--chat-template", self.chat_template, CHAT)

    def with_chat(self, on: bool) -> Settings:
        """The same with the chat template decided."""
        return replace(self, chat_template="on" if on else "off")


def _names(given: str | Iterable[str] | None, option: str) -> tuple[str, ...]:
    if given is None or given == ():
        return ()
    try:
        return tuple(split_names(given))
    except UsageError:
        what = "no domain is named" if option == "domains" else f"--{option} names nothing"
        raise UsageError(f"{what}; it takes names with commas between them, such as --domains medical,math") from None


def _check_one(option: str, given: str, known: Iterable[str]) -> None:
    if given not in known:
        raise UsageError(f"{option} {given} is unknown; take {', '.join(known)}")


def default_cache() -> Path:
    """Where the commands keep answers if not told: `regrowth/scores` below $XDG_CACHE_HOME, or below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "regrowth" / "scores"


def named_texts(texts: Iterable[str]) -> dict[str, str]:
    """`NAME=SOURCE` or `SOURCE` (named `held-out`) as name to source, in order.

    Raises:
        UsageError: two sources of one name.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, mark, source = text.partition("=")
        if not mark or not name or any(sign in name for sign in "/\\:. "):  # a path may hold `=` too
            name, source = "held-out", text
        if name in found:
            raise UsageError(f"--text gives {name} twice; name them apart, as --text medical=FILE --text math=FILE")
        found[name] = source
    return found


def check_modes(thinking: str | Iterable[str] | None) -> tuple[str, ...]:
    """`fast,slow` or a list of modes as a tuple in the order of `MODES`, without repeats; () for none.

    Raises:
        UsageError: a mode that there is not.
    """
    words = thinking.split(",") if isinstance(thinking, str) else (thinking or ())
    given = {word.strip() for word in words} - {""}
    if unknown := sorted(given - set(MODES)):
        raise UsageError(f"--thinking {unknown[0]} is no mode; it takes {' or '.join(MODES)}, or both: fast,slow")
    return tuple(mode for mode in MODES if mode in given)


def split_names(names: str | Iterable[str]) -> list[str]:
    """`medical,math` or a list of names, without repeats, in order."""
    parts = names.split(",") if isinstance(names, str) else list(names)
    found = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not found:
        raise UsageError("no domain is named; --domains takes names such as medical,math")
    return found
