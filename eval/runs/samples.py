"""What one model answered, question by question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eval.asking.lm_eval_tasks import LoggedAnswer
from eval.asking.tasks import TaskPlan
from eval.runs.needles import NeedleTrials
from eval.runs.prose import Prose


@dataclass(frozen=True)
class Sample:
    """One question as one model answered it.

    `correct` is the verdict we report: the choice of highest log-likelihood per character, or the exact number.
    `correct_raw` takes the highest log-likelihood as it is (the same as `correct` for an open question).
    `answer_nll_bits` is -log2 p(gold answer | question); None for a `thinking` sample, whose answer is parsed and
    not scored. `response` is the text generated, or the chosen index. `cut`: a chain of thought reached its limit.
    `cluster` is the same for questions that share a passage.
    """

    id: str
    domain: str
    protocol: str
    subject: str
    source: str
    correct: bool
    correct_raw: bool
    answer_nll_bits: float | None
    parsed: bool
    response: str | int
    prompt_hash: str
    thinking: str | None = None
    cut: bool = False
    cluster: str = ""

    @property
    def unit(self) -> str:
        """What is independent of all others: the cluster, or the question itself where it has none."""
        return self.cluster or self.id


@dataclass(frozen=True)
class RunResult:
    """What one model answered: samples per question, lm-eval's own results, and how it was measured.

    `prose` by the name of the text; `logged`: answers to the tasks of lm-eval that were named; `asked` and `known`:
    requests that the model answered in this run, and that an earlier run had answered; `needles` None if not asked;
    `stored_prose`: of a model in NF4, the loss of the same windows on the weights as they are stored.
    """

    label: str
    identity: dict[str, Any]
    tasks: tuple[TaskPlan, ...]
    samples: tuple[Sample, ...]
    harness: dict[str, Any]
    prose: dict[str, Prose]
    settings: dict[str, Any]
    seconds: float
    tokens: int
    truncated: int
    notes: tuple[str, ...] = ()
    asked: int = 0
    known: int = 0
    logged: tuple[LoggedAnswer, ...] = ()
    needles: NeedleTrials | None = None
    stored_prose: dict[str, Prose] = field(default_factory=dict)

    @property
    def needles_sha256(self) -> str | None:
        """Of the needle trials that were asked; None for none."""
        return None if self.needles is None else self.needles.sha256

    def of(self, task: TaskPlan) -> list[Sample]:
        """The samples of one task, in its order."""
        wanted = (task.domain, task.protocol, task.thinking)
        return [s for s in self.samples if (s.domain, s.protocol, s.thinking) == wanted]

    def to_json(self) -> dict[str, Any]:
        """The answers, without questions, scores and lm-eval's results: those are in the files of `write_run`."""
        document = asdict(replace(self, tasks=(), harness={}))
        del document["harness"]
        return {**document, "tasks": [task.name for task in self.tasks]}


def chosen_index(entry: Mapping[str, Any]) -> int:
    """The choice of highest log-likelihood per character of what was scored, of one of lm-eval's samples."""
    texts = entry["doc"].get("letters") or entry["doc"]["choices"]
    scores = [logprob / len(text) for (logprob, _), text in zip(entry["filtered_resps"], texts, strict=True)]
    return scores.index(max(scores))


def hash_prompt(arguments: Any) -> str:
    """SHA-256 of all that was asked for one question: prompts, continuations, generation settings."""
    return hashlib.sha256(json.dumps(arguments, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
