"""lm-eval tasks of our own, by domain, protocol and thinking: built from prepared questions and a protocol's YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval.asking.letters import Group, describe_subject, group_of, missing_examples, subject_examples
from eval.asking.prompts import FastPrompt, Prompts, read_prompts
from eval.questions.domains import question_files
from eval.questions.examples import examples_path
from eval.questions.schema import Question, cluster_of, draw, read_questions
from eval.settings import EXAMPLES, PROTOCOLS, Questions, Settings
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.provenance import file_sha256
from prune.writing.words import LETTERS, show_options


@dataclass(frozen=True)
class TaskPlan:
    """One task: which questions of a domain are asked under which protocol.

    With `thinking` (`fast` or `slow`) the answer is generated, choices being shown with letters, and parsed;
    `slow_tokens` bounds the chain of thought. `examples` are shown, with their answers, before each question; by
    letters the `own_examples` of its set and subject, where there are any. With `prompts` thinking is asked for in a
    user's own words.
    """

    domain: str
    protocol: str
    questions: tuple[Question, ...]
    thinking: str | None = None
    slow_tokens: int = Settings.slow_tokens
    examples: tuple[Question, ...] = ()
    prompts: Prompts | None = None
    own_examples: Mapping[Group, tuple[Question, ...]] = field(default_factory=dict)

    @property
    def picks(self) -> bool:
        """Whether the answer is the likeliest of some choices (else it is written, and read)."""
        return self.thinking is None and self.protocol != "generation"

    @property
    def template(self) -> str:
        """The name of the YAML in `protocols/`."""
        return self.protocol if self.thinking is None else f"{self.protocol}-{self.thinking}"

    @property
    def name(self) -> str:
        """The task's name in lm-eval and in file names."""
        return f"regrowth_{self.domain}_{self.template}"

    @property
    def requests(self) -> int:
        """How many requests the model answers: one per choice, two per open question, one where it thinks."""
        if self.thinking is not None:
            return len(self.questions)
        return sum(len(item.choices or (0, 0)) for item in self.questions)

    @property
    def chance(self) -> float:
        """Mean accuracy of blind guesses."""
        return sum(item.chance for item in self.questions) / len(self.questions)

    @property
    def answer_bytes(self) -> dict[str, int]:
        """By question id, the UTF-8 bytes of its right answer as it is scored: a letter is one."""
        return {item.id: 1 if self.protocol == "letters" else item.answer_bytes for item in self.questions}

    def examples_for(self, item: Question) -> tuple[Question, ...]:
        """What is shown before a question."""
        return self.own_examples.get(group_of(item), self.examples)

    def config(self) -> dict[str, Any]:
        """The task's lm-eval configuration: the protocol's template under this task's name."""
        config = {**template(self.template), "task": self.name}
        if self.thinking == "slow":
            config["generation_kwargs"] = {**config["generation_kwargs"], "max_gen_toks": self.slow_tokens}
        if self.thinking is not None and self.prompts is not None:
            config |= _worded(self.prompts, self.thinking, self.slow_tokens)
            config.pop("fewshot_config")
        if shots := len(self.examples_for(self.questions[0])):  # as many before each of them
            config["doc_to_text"] = config["metadata"].get("few_shot_text", config["doc_to_text"])
            config |= {"num_fewshot": shots, "fewshot_split": "examples"}
            config["fewshot_config"] = {"sampler": "first_n"}
        return config

    def example_rows(self, item: Question | None = None) -> list[dict[str, Any]]:
        """The documents shown before a question; before the first one for None."""
        return [self._row(example) for example in self.examples_for(item or self.questions[0])]

    def rows(self) -> list[dict[str, Any]]:
        """The documents that lm-eval asks, one per question; where choices are shown, as text and with their letter."""
        rows = [self._row(item) for item in self.questions]
        if self.thinking is not None:
            for row, item in zip(rows, self.questions, strict=True):
                row["options"] = show_options(item.choices or ())
                row["target"] = LETTERS[item.answer] if isinstance(item.answer, int) else item.answer
                if self.prompts is not None:
                    row["prompt"] = self.words_for(item)
                    row["target"] = self.prompts.label(item.answer) if isinstance(item.answer, int) else item.answer
        return rows

    def _row(self, item: Question) -> dict[str, Any]:
        row = _row(item)
        if self.protocol == "letters" and item.choices is not None:
            row["options"], row["letters"] = show_options(item.choices), list(LETTERS[: len(item.choices)])
            row["description"] = describe_subject(item)
        return row

    def words_for(self, item: Question) -> str | None:
        """A question in the user's own prompt; None where there are none, or where this task does not think.

        Raises:
            UsageError: they have none for questions of its kind.
        """
        if self.prompts is None or self.thinking is None:
            return None
        if (words := self.prompts.render(self.thinking, item.question, item.choices)) is None:
            name, kind = ("open_prompt", "open questions") if item.choices is None else ("prompt", "choices")
            raise UsageError(
                f"--prompts: {self.thinking} has no {name}, and domain {item.domain} has {kind}; add it to the file, "
                "or choose other questions with --sets"
            )
        return words


def _worded(prompts: Prompts, thinking: str, slow_tokens: int) -> dict[str, Any]:
    """What the user's own prompts change in a task's lm-eval configuration; `prompt` is a field of each document."""
    mode = prompts.mode(thinking)
    limit = mode.max_tokens if isinstance(mode, FastPrompt) else slow_tokens
    return {
        "doc_to_text": "prompt",
        "target_delimiter": "",
        "gen_prefix": mode.answer_prefix or None,
        "num_fewshot": 0,
        "generation_kwargs": {"until": list(mode.stop), "do_sample": False, "max_gen_toks": limit},
        "metadata": {"version": 1.0, "prompts": prompts.sha256},
    }


def _row(question: Question) -> dict[str, Any]:
    row = question.as_row()
    for name in ("cluster", "rationale"):  # all rows of a task have the same fields
        row.pop(name, None)
    return row


def template(protocol: str) -> dict[str, Any]:
    """A fresh copy of `protocols/<protocol>.yaml`: prompt, targets, metrics."""
    import yaml

    document: dict[str, Any] = yaml.safe_load(_template_text(protocol))
    return document


@cache
def _template_text(protocol: str) -> str:
    return (files("eval.asking") / "protocols" / f"{protocol}.yaml").read_text("utf-8")


def plan_tasks(asked: Questions) -> list[TaskPlan]:
    """Read the domains' files and draw the questions: one task for each protocol that a domain has questions of.

    Every model gets the same questions. Thinking adds tasks on the same ones, one for each mode, after the plain ones
    of the protocol. Examples for few-shot prompts are of the same domain and protocol, and are not asked; by letters
    those of the question's own set and subject come first, where the set has them.

    Raises:
        UsageError: nothing to ask, an unknown domain, sets, protocols or examples that leave a domain without
            questions, too few examples of a subject, prompts that do not fit what is asked.
        RegrowthError: a missing or broken file, too few questions for an interval, too many choices to show by letter.
    """
    asked.check_asks()
    if asked.data is None or not asked.domains:
        return []
    modes, slow_tokens = (asked.thinking, asked.slow_tokens) if isinstance(asked, Settings) else ((), 0)
    prompts = prompts_of(asked)
    plans = []
    for domain, path in question_files(asked.data, asked.domains).items():
        questions = read_questions(path)
        usable = [item for item in questions if asked.sets is None or item.source in asked.sets]
        if not usable:
            sources = ", ".join(sorted({item.source for item in questions}))
            raise UsageError(f"--sets leaves no question in domain {domain}; its sets: {sources}")
        there = {name: [item for item in usable if item.protocol == PROTOCOLS[name]] for name in asked.protocols}
        if not any(there.values()):
            raise UsageError(f"--protocols {','.join(asked.protocols)} leaves no question in domain {domain}")
        for protocol, items in there.items():
            if items:
                plain = _plan_task(path, domain, protocol, items, asked, modes)
                thinks = replace(plain, slow_tokens=slow_tokens, examples=(), prompts=prompts)
                plans += [plain, *(replace(thinks, thinking=mode) for mode in modes if protocol != "letters")]
    for plan in plans:
        plan.words_for(plan.questions[0])  # all are of one kind
    return plans


def _plan_task(
    path: Path, domain: str, protocol: str, items: Sequence[Question], asked: Questions, modes: Sequence[str]
) -> TaskPlan:
    """The plain task of one protocol of a domain, whose questions that may be asked are `items`."""
    shots = asked.few_shot or 0
    own: Mapping[Group, tuple[Question, ...]] = {}
    if protocol == "letters" and asked.data is not None:
        own = subject_examples(asked.data, items, shots)
    examples = draw((item for item in items if group_of(item) not in own), limit=shots, seed=f"examples:{asked.seed}")
    drawn = draw((item for item in items if item not in examples), limit=asked.limit, seed=asked.seed)
    if not drawn:
        raise UsageError(f"--few-shot {asked.few_shot} leaves no {protocol} question to ask in domain {domain}")
    _check_drawn(path, protocol, drawn, modes)
    return TaskPlan(domain, protocol, tuple(drawn), examples=tuple(examples), own_examples=own)


def example_notes(plans: Iterable[TaskPlan]) -> list[str]:
    """Where questions asked by letters have no examples of their own, so that their score is no published one."""
    notes = []
    for plan in plans:
        sets = missing_examples(plan.questions, plan.own_examples)
        if plan.protocol == "letters" and plan.examples and sets:
            notes.append(
                f"{plan.domain} letters: no worked examples of {', '.join(sets)} are prepared ({EXAMPLES}/); other "
                "questions of the domain are shown instead"
            )
    return notes


def prompts_of(asked: Questions) -> Prompts | None:
    """The user's own prompts, if there are any.

    Raises:
        UsageError: they lack a mode that is asked, or none is asked.
        RegrowthError: the file cannot be read.
    """
    if not isinstance(asked, Settings) or asked.prompts is None:
        return None
    prompts = read_prompts(asked.prompts)
    prompts.check(asked.prompts, asked.thinking)
    return prompts


def hash_questions(asked: Questions) -> dict[str, str]:
    """File of questions -> its SHA-256, by name."""
    paths = question_files(asked.data, asked.domains).values() if asked.data and asked.domains else ()
    return {path.name: file_sha256(path) for path in sorted(paths)}


def hash_examples(plans: Iterable[TaskPlan], data: Path | None) -> dict[str, str]:
    """File of worked examples that are shown -> its SHA-256, by its path below `data`."""
    sets = sorted({name for plan in plans for name, _ in plan.own_examples})
    return {} if data is None else {f"{EXAMPLES}/{name}.jsonl": file_sha256(examples_path(data, name)) for name in sets}


def _check_drawn(path: Path, protocol: str, drawn: Sequence[Question], modes: Sequence[str]) -> None:
    """Refuse, before anything is asked, what would fail after all is answered."""
    if len({cluster_of(item) for item in drawn}) < 2:
        raise RegrowthError(
            f"{path}: one {protocol} question (or several on one passage) is too little: an interval needs two"
        )
    long = next((item for item in drawn if len(item.choices or ()) > len(LETTERS)), None)
    if (modes or protocol == "letters") and long is not None:
        what = "letters show" if protocol == "letters" else "--thinking shows"
        raise RegrowthError(
            f"{path}: question {long.id} has {len(long.choices or ())} choices, and {what} them by letter, "
            f"{len(LETTERS)} at most"
        )
