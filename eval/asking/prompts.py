"""A user's own prompts for fast and slow thinking, from a YAML file: they stand in the place of the built-in ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from eval.answers.parsing import parse_letter, parse_value
from prune.common.errors import RegrowthError, UsageError, first_line
from prune.common.files.artefact import first_fault
from prune.common.files.provenance import digest
from prune.writing.words import LETTERS

_SHIPPED, _PREFIX = files("eval.asking") / "protocols", "prompts-"
_NAMED = re.compile(r"\b(?:option|choice|number)\s+\(?(\d+)\b\)?", re.IGNORECASE)
_ALONE = re.compile(r"\W*(\d+)\s*[.:)\]]\s+(\S.*)")  # an option by its number, with its words behind


def _fields(text: str, takes: Collection[str]) -> set[str]:
    """The fields that a template names; a ValueError where it names another."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        raise ValueError("a brace that is text is written twice, as {{ or }}") from None
    names = {
        name + (f"!{how}" if how else "") + (f":{spec}" if spec else "")
        for _, name, spec, how in parts
        if name is not None
    }
    if unknown := sorted(names - set(takes)):
        known = " and ".join(f"{{{name}}}" for name in takes)
        raise ValueError(f"unknown field {{{unknown[0]}}}; it takes {known} (a brace that is text is written twice)")
    return names


def _template(*takes: str) -> AfterValidator:
    def check(text: str) -> str:
        given = _fields(text, takes)
        if missing := [name for name in takes if name not in given]:
            raise ValueError(f"has no {{{missing[0]}}}")
        return text

    return AfterValidator(check)


_WithChoices = Annotated[str, _template("question", "choices")]
_Open = Annotated[str, _template("question")]
_Line = Annotated[str, _template("label", "choice")]
_NotEmpty = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModePrompt(_Strict):
    """How a question is put in one mode, and how the answer is read from what the model writes.

    A prompt is one turn of the user where a chat template is on. No worked examples stand before it.
    """

    prompt: _WithChoices | None = Field(None, description="of a question with choices")
    open_prompt: _Open | None = Field(None, description="of an open question")
    answer_prefix: str = Field("", description="opens the model's answer, behind the prompt or as its turn of a chat")
    answer_after: str | None = Field(
        None, min_length=1, description="the answer stands behind the last of this; a text without it names none"
    )
    stop: Annotated[tuple[_NotEmpty, ...], Field(strict=False)] = Field((), description="texts that end the generation")

    @model_validator(mode="after")
    def _asks(self) -> ModePrompt:
        if self.prompt is None and self.open_prompt is None:
            raise ValueError("has neither a prompt nor an open_prompt")
        return self

    def answer_part(self, response: str) -> str:
        """What of a response is read for the answer: all, or what is behind the last `answer_after`, or nothing."""
        if self.answer_after is None:
            return response
        _, found, behind = (self.answer_prefix + response).rpartition(self.answer_after)
        return behind.lstrip(" \t\n:*#") if found else ""  # marks of a heading


class FastPrompt(ModePrompt):
    """Fast thinking: the answer at once."""

    max_tokens: int = Field(16, ge=1, description="new tokens, at most")


class SlowPrompt(ModePrompt):
    """Slow thinking: a chain of thought, then the answer."""

    @model_validator(mode="before")
    @classmethod
    def _no_limit(cls, given: Any) -> Any:
        if isinstance(given, dict) and "max_tokens" in given:
            raise ValueError("takes no max_tokens: --slow-tokens says how long a chain may be")
        return given


class Prompts(_Strict):
    """What a prompts file says."""

    labels: Literal["letters", "numbers"] = Field("letters", description="A, B, C or 1, 2, 3 before the choices")
    choice: _Line = Field("{label}. {choice}", description="the line of one choice")
    fast: FastPrompt | None = Field(None, description="the answer at once")
    slow: SlowPrompt | None = Field(None, description="after a chain of thought")

    @field_validator("choice")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if "\n" in text:
            raise ValueError("must be one line")
        return text

    @property
    def sha256(self) -> str:
        """Of the content: comments and the file's layout do not count."""
        return digest(self.model_dump(exclude_defaults=True))

    def mode(self, thinking: str) -> FastPrompt | SlowPrompt:
        """The prompts of `fast` or `slow`; a KeyError where the file has none."""
        found = {"fast": self.fast, "slow": self.slow}[thinking]
        if found is None:
            raise KeyError(thinking)
        return found

    def check(self, path: Path, thinking: Collection[str]) -> None:
        """Refuse modes that are asked and not there: a UsageError."""
        if not thinking:
            raise UsageError(
                f"--prompts {path} has prompts for --thinking, which is not given; add --thinking fast,slow"
            )
        for mode in thinking:
            if getattr(self, mode) is None:
                raise UsageError(f"--prompts {path} has no {mode}, and that mode is asked; add it to the file")

    def render(self, thinking: str, question: str, choices: Sequence[str] | None) -> str | None:
        """The prompt of one question; None where the file has none for its kind."""
        mode = self.mode(thinking)
        if choices is None:
            return None if mode.open_prompt is None else mode.open_prompt.format(question=question)
        lines = (self.choice.format(label=self.label(i), choice=text) for i, text in enumerate(choices))
        return None if mode.prompt is None else mode.prompt.format(question=question, choices="\n".join(lines))

    def label(self, index: int) -> str:
        """What stands before a choice, by its 0-based index."""
        return str(index + 1) if self.labels == "numbers" else LETTERS[index]

    def chosen(self, response: str, choices: Sequence[str]) -> int | None:
        """The 0-based choice that a response names; None where it names none, or two."""
        return parse_letter(response, choices) if self.labels == "letters" else _parse_number(response, choices)


def _parse_number(response: str, choices: Sequence[str]) -> int | None:
    for text in (response, _NAMED.sub(r"\1", response)):  # `Option 2` is 2 where nothing else can be read
        if (alone := _ALONE.fullmatch(text.strip())) is not None:
            index = int(alone[1]) - 1
            return (
                index if index in range(len(choices)) and alone[2].rstrip(".") == choices[index].rstrip(".") else None
            )
        if (value := parse_value(text)) is not None:
            return int(value) - 1 if value.denominator == 1 and 1 <= value <= len(choices) else None
    return None


def shipped_prompts() -> list[str]:
    """Names of the prompts that come with the package."""
    found = (entry.name for entry in _SHIPPED.iterdir() if entry.name.startswith(_PREFIX))
    return sorted(name.removeprefix(_PREFIX).removesuffix(".yaml") for name in found)


def read_prompts(path: str | Path) -> Prompts:
    """Read a prompts file, or prompts that come with the package, by their name.

    Raises:
        RegrowthError: it is missing, no YAML, or says what it cannot; one line with the field.
    """
    import yaml

    shipped = str(path) in shipped_prompts()
    try:
        file = _SHIPPED / f"{_PREFIX}{path}.yaml" if shipped else Path(path)
        document = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        names = ", ".join(shipped_prompts())
        raise RegrowthError(
            f"--prompts {path} cannot be read ({error.strerror}); it takes a YAML file, or a name: {names}"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RegrowthError(f"--prompts {path} is not YAML ({first_line(error)})") from None
    if not isinstance(document, dict) or not {"fast", "slow"} & document.keys():
        raise RegrowthError(f"--prompts {path} has neither fast nor slow")
    try:
        return Prompts.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["type"] != "extra_forbidden":
            raise RegrowthError(f"--prompts {path}: {first_fault(error)}") from None
        *inside, name = map(str, fault["loc"])
        parts: dict[str, type[BaseModel]] = {"": Prompts, "fast": FastPrompt, "slow": SlowPrompt}
        where = ".".join(inside)
        takes = f"{where or 'the file'} takes {', '.join(parts[where].model_fields)}"
        raise RegrowthError(f"--prompts {path}: unknown field {name}; {takes}") from None
