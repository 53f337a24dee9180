"""Stored answers in the shape of an lm-eval LM: lm-eval asks, they are looked up, and every metric stays lm-eval's own.

`AnswerTask` is a domain's questions as tasks of log-likelihoods alone. `collect` puts their requests into tokens with
lm-eval's HFLM itself; `StoredAnswers` gives one variant's answers back to lm-eval, by context and continuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from eval.asking.harness import PlannedTask, Scorer, check_finite, to_bits
from eval.asking.tasks import TaskPlan
from eval.asking.trees import Asked
from prune.common.errors import RegrowthError
from prune.common.screen.terminal import Progress

Pair = tuple[str, str]  # context, continuation
Answer = tuple[float, bool]  # log p(continuation | context) in nats, whether it is what greedy decoding says


class AnswerTask(PlannedTask):
    """A plan's questions, asked for log-likelihoods alone: of each choice, or of an open question's own answer.

    For an open question there is no verdict: `answer_greedy` is 1 where each token of the key's answer is the most
    likely one after the prompt and the answer's tokens before it.
    """

    def __init__(self, plan: TaskPlan) -> None:
        questions, examples, own = plan.questions, plan.examples, plan.own_examples
        super().__init__(_AsAnswers(plan.domain, plan.protocol, questions, examples=examples, own_examples=own))

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> Any:
        """One request per choice, or one for the key's answer, in the very words that `compare` uses."""
        if self.OUTPUT_TYPE == "multiple_choice":
            return super().construct_requests(doc, ctx, **kwargs)
        return self.ask_for_key(doc, ctx, idx=0, **kwargs)

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        """Per-question metrics; see `PlannedTask.process_results`."""
        if self.OUTPUT_TYPE == "multiple_choice":
            return super().process_results(doc, results)
        ((logprob, greedy),) = results
        check_finite(logprob, doc)
        return {"answer_nll_bits": to_bits(logprob), "answer_greedy": float(greedy)}


@dataclass(frozen=True)
class _AsAnswers(TaskPlan):
    """A plan whose open questions are scored, not generated."""

    def config(self) -> dict[str, Any]:
        config = super().config()
        if config["output_type"] == "multiple_choice":
            return config
        for key in ("generation_kwargs", "filter_list"):
            config.pop(key, None)
        metrics = [{"metric": "answer_nll_bits", "aggregation": "mean", "higher_is_better": False}]
        metrics.append({"metric": "answer_greedy", "aggregation": "mean", "higher_is_better": True})
        return {**config, "output_type": "loglikelihood", "metric_list": metrics}


@dataclass(frozen=True)
class Prompting:
    """How the questions are put: through the chat template or not, and the seed of lm-eval's own draws."""

    chat: bool = False
    seed: int = 0


class StoredAnswers(LM):
    """An lm-eval LM that never computes: it knows the answers of one model to a set of requests.

    `scorer`: whose chat template and tokenizer lm-eval should use to write the prompts.
    """

    def __init__(self, answers: Mapping[Pair, Answer], scorer: Any = None) -> None:
        super().__init__()
        self._answers, self._scorer = answers, scorer

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Answer]:
        """Look each (context, continuation) up."""
        return [self._known(request.args) for request in requests]

    def _known(self, pair: Any) -> Answer:
        if tuple(pair) not in self._answers:
            raise RegrowthError(f"no answer is stored to {pair[1]!r} after a prompt that ends in {pair[0][-40:]!r}")
        return self._answers[tuple(pair)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Raises RegrowthError: whole texts are no answers."""
        raise RegrowthError("a sweep holds log-likelihoods of answers, not of whole texts")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Raises RegrowthError: nothing can be generated from them."""
        raise RegrowthError("a sweep holds log-likelihoods of answers, and no generated text")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt in the model's own chat format."""
        prompt: str = self._scorer.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)
        return prompt

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name, for lm-eval."""
        return str(self._scorer.tokenizer_name)


class _Collector(Scorer):
    """HFLM up to the point where tokens would meet the model."""

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        return requests


def collector(model: Any, tokenizer: Any, max_length: int) -> Scorer:
    """HFLM's tokenisation and chat template of a loaded model."""
    return _Collector(model, tokenizer, batch_size=1, max_length=max_length, bar=Progress())


@dataclass(frozen=True)
class Collected:
    """All requests of some tasks.

    pairs: the unlike ones of context and continuation. requests: the unlike ones in tokens. owners: for each pair its
    request's number. truncated: pairs longer than the context, so that their start was cut.
    """

    pairs: list[Pair]
    requests: list[Asked]
    owners: list[int]
    truncated: int


def collect(tasks: Sequence[AnswerTask], scorer: Scorer, prompting: Prompting) -> Collected:
    """All requests of some tasks, in tokens as HFLM reads them."""
    pairs: dict[Pair, None] = {}
    for task in tasks:
        for request in requests_of(task, scorer, prompting):
            pairs.setdefault(request.args)
    return encode(pairs, scorer)


def requests_of(task: AnswerTask, scorer: Scorer, prompting: Prompting) -> list[Instance]:
    """The requests of a task, in the order of its questions, whose prompts lm-eval writes."""
    _prepare(task, prompting)
    task.build_all_requests(
        rank=0,
        world_size=1,
        apply_chat_template=prompting.chat,
        fewshot_as_multiturn=prompting.chat,  # as in lm-eval's simple_evaluate, by which models are compared
        chat_template=scorer.apply_chat_template if prompting.chat else None,
        tokenizer_name=scorer.tokenizer_name if prompting.chat else "",
    )
    return list(task.instances)


def encode(pairs: Iterable[Pair], scorer: Scorer) -> Collected:
    """Pairs of context and continuation, all unlike, in tokens as HFLM reads them."""
    pairs = list(pairs)
    instances = [Instance("loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    numbers: dict[Asked, int] = {}
    owners, truncated = [], 0
    for (_, continuation), before, answer in scorer.loglikelihood(instances):
        if not 0 < len(answer) <= scorer.max_length:
            raise RegrowthError(f"the answer {continuation!r} takes {len(answer)} tokens of {scorer.max_length}")
        whole = [*before, *answer]
        truncated += len(whole) > scorer.max_length + 1
        asked = Asked(tuple(whole[-(scorer.max_length + 1) :][:-1]), tuple(answer))
        owners.append(numbers.setdefault(asked, len(numbers)))
    return Collected(pairs, list(numbers), owners, truncated)


def read(tasks: Sequence[AnswerTask], answers: LM, prompting: Prompting) -> dict[str, Any]:
    """What lm-eval makes of stored answers (or of a real LM): its results, with the samples."""
    for task in tasks:
        _prepare(task, prompting)
    results: dict[str, Any] = evaluate(
        lm=answers,
        task_dict={task.plan.name: task for task in tasks},
        bootstrap_iters=1,  # all our metrics are means, whose standard error is in closed form
        log_samples=True,
        apply_chat_template=prompting.chat,
        fewshot_as_multiturn=prompting.chat,
    )
    return results


def _prepare(task: AnswerTask, prompting: Prompting) -> None:
    """As lm-eval's simple_evaluate sets a task up before it evaluates it."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=prompting.seed)
