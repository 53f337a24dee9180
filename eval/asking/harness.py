"""The parts that stand on lm-eval's classes: our task, and its HFLM with progress and with batches that shrink.

Neither of lm-eval's caches is ever used: `use_cache` ignores which model answers, and `cache_requests` ignores
what the questions are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_metric
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from eval.answers.parsing import parse_letter, parse_value
from eval.answers.values import parse_gold
from eval.asking.tasks import TaskPlan
from eval.asking.trees import Asked, batch_tokens, plain_tokens
from eval.asking.walk import RouteAnswers, Way, choose_way, score
from prune.common.errors import RegrowthError
from prune.common.machine.memory import give_back
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.common.screen.terminal import Progress
from prune.instruments.detecting import Writer
from prune.instruments.prompts import Prompt
from prune.models.walks.walking import Route

logging.getLogger("lm_eval").setLevel(logging.ERROR)


for _name, _better, _kind in (  # known to lm-eval by name; our tasks compute them
    ("answer_nll_bits", False, "loglikelihood"),
    ("answer_greedy", True, "loglikelihood"),
    ("unparseable", False, "generate_until"),
):
    register_metric(metric=_name, higher_is_better=_better, output_type=_kind, aggregation="mean")(lambda items: items)


class PlannedTask(ConfigurableTask):
    """A `TaskPlan` as an lm-eval task; to lm-eval's own metrics it adds the answer NLL, in bits."""

    def __init__(self, plan: TaskPlan) -> None:
        self.plan = plan
        super().__init__(config=plan.config())

    def download(self, dataset_kwargs: Any = None, **kwargs: Any) -> None:
        """Hold the questions in memory: nothing is fetched, and nothing is cached on disk."""
        self.dataset = {"test": datasets.Dataset.from_list(self.plan.rows())}
        if rows := self.plan.example_rows():
            self.dataset["examples"] = datasets.Dataset.from_list(rows)
        self._asked = {item.id: item for item in self.plan.questions}

    def fewshot_context(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in lm-eval, but with the question's own examples before it, where it has some."""
        if self.plan.own_examples:
            self.sampler.replace_df(self.plan.example_rows(self._asked[doc["id"]]))
        return super().fewshot_context(doc, *args, **kwargs)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> Any:
        """One request per choice; for an open question the generation, then the key's answer on the same prompt."""
        if self.OUTPUT_TYPE == "multiple_choice" or self.plan.thinking is not None:
            return super().construct_requests(doc, ctx, **kwargs)
        return [super().construct_requests(doc, ctx, **kwargs), self.ask_for_key(doc, ctx, idx=1, **kwargs)]

    def ask_for_key(self, doc: dict[str, Any], ctx: str, *, idx: int, **kwargs: Any) -> Instance:
        """The request for the log-likelihood of an open question's own answer; `kwargs` as for `construct_requests`."""
        for name in ("apply_chat_template", "chat_template"):
            kwargs.pop(name, None)
        # a blank before it in a chat too: the answer goes on after gen_prefix, and does not open the turn
        return Instance("loglikelihood", doc=doc, arguments=(ctx, f" {doc['answer']}"), idx=idx, **kwargs)

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        """Per-question metrics; a RegrowthError where a log-likelihood is no finite number: no score is made up."""
        if self.OUTPUT_TYPE == "multiple_choice":
            for logprob, _ in results:
                check_finite(logprob, doc)
            scores = super().process_results(doc, results)
            return {**scores, "answer_nll_bits": to_bits(results[doc["answer"]][0])}
        if self.plan.thinking is not None:
            return self._judge(doc, results[0])
        response, (logprob, _) = results
        check_finite(logprob, doc)
        given, gold = parse_value(response), _gold(doc)
        return {
            "exact_match": float(given is not None and given == gold),
            "unparseable": float(given is None),
            "answer_nll_bits": to_bits(logprob),
        }

    def _judge(self, doc: dict[str, Any], response: str) -> dict[str, float]:
        prompts, thinking = self.plan.prompts, self.plan.thinking
        if prompts is not None and thinking is not None:
            response = prompts.mode(thinking).answer_part(response)
        if doc["choices"] is None:
            value = parse_value(response)
            return {"exact_match": float(value == _gold(doc)), "unparseable": float(value is None)}
        chosen = parse_letter(response, doc["choices"]) if prompts is None else prompts.chosen(response, doc["choices"])
        return {"exact_match": float(chosen == doc["answer"]), "unparseable": float(chosen is None)}

    def set_config(self, key: str, value: Any, update: bool = False) -> None:
        """As in lm-eval, but thinking keeps its own worked examples, whatever number of shots is asked for."""
        if key != "num_fewshot" or self.plan.thinking is None:
            super().set_config(key, value, update)


def _gold(doc: dict[str, Any]) -> Fraction:
    gold = parse_gold(doc["answer"])
    if gold is None:
        raise RegrowthError(f"question {doc['id']}: its answer {doc['answer']!r} is not one number")
    return gold


def to_bits(logprob: float) -> float:
    """A log-likelihood in nats as an NLL in bits."""
    return -float(logprob) / math.log(2)


def check_finite(logprob: float, doc: dict[str, Any]) -> None:
    """Raise RegrowthError where a question's log-likelihood is not a finite number."""
    if not math.isfinite(logprob):
        raise RegrowthError(
            f"the model gives no finite log-likelihood ({logprob}) on question {doc['id']} of {doc['domain']}; "
            "try --dtype float32, or check the checkpoint"
        )


_WORTH = 0.8  # share of the tokens, request by request, that trees may take before they are not worth their probe


class Scorer(HFLM):
    """HFLM on a loaded model, with a fixed batch size that is halved when memory runs out.

    The choices of a question share one reading of it (`eval.asking.trees`), with HFLM's own numbers to rounding; a
    family whose attention does not allow it is asked request by request, as HFLM does.
    `notes` says so where it happened.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, max_length: int, bar: Progress) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=max_length,
            softmax_dtype=torch.float32,
        )
        self.bar = bar
        self.notes: list[str] = []
        self.tokens = 0
        self._writers: dict[int, Writer] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """What loading settled: the precision, and requests at a time, as memory allowed so far."""
        return {"dtype": str(self.model.dtype).removeprefix("torch."), "batch_size": int(self.batch_size)}

    def window_nats(self, windows: Sequence[list[int]]) -> list[float]:
        """Summed NLL in nats of each window's tokens after the first; one at a time, so that no padding changes it."""
        losses = []
        for ids in windows:
            losses.append(self._nats(ids))
            self.cache_hook.add_partial("window", ids, losses[-1])
            self.bar.advance()
        return losses

    def _nats(self, ids: list[int]) -> float:
        tokens = torch.tensor([ids], device=self.device)
        with torch.inference_mode():
            logits = self.model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))

    def written(self, prompts: Sequence[list[int]], new_tokens: int) -> list[str]:
        """What the model writes after prompts of tokens, greedily, without what it thinks before.

        A batch reads what its prompts begin with but once, so neighbours should have much in common.
        """
        answers: list[str] = []
        writer = self._writer(new_tokens)
        while len(answers) < len(prompts):
            left = prompts[len(answers) :]
            answers += self._shrinking(partial(self._write, writer, left, new_tokens))
        return answers

    def _write(self, writer: Writer, prompts: Sequence[list[int]], new_tokens: int) -> list[str]:
        """The answers to one batch."""
        some = prompts[: 1 if writer.reader.one_by_one else int(self.batch_size)]
        with torch.no_grad():
            reading = writer.reader.read([Prompt(tuple(ids)) for ids in some])
            answers = writer.answer(reading)
        shared = reading.rows.shared
        self.tokens += shared + int(reading.rows.mask[:, shared:].sum())
        for ids, answer in zip(some, answers, strict=True):
            self.cache_hook.add_partial("written", [ids, new_tokens], answer)
            self.bar.advance()
        return answers

    def _writer(self, new_tokens: int) -> Writer:
        """One for all calls, as it remembers what the last prompts began with."""
        if new_tokens not in self._writers:
            self._writers[new_tokens] = Writer(self.model, self.tokenizer, new_tokens)
        return self._writers[new_tokens]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As in HFLM, without its own progress bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As in HFLM, without its own progress bar."""
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As in HFLM, without its own progress bar, and in smaller batches where memory runs out."""
        generate = super().generate_until
        return self._shrinking(lambda: generate(requests, disable_tqdm=True))

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        """As in HFLM; contexts that several requests share are read once, where the model reads them so faithfully."""
        if (shared := self._in_trees(requests)) is not None:
            return shared
        score = super()._loglikelihood_tokens
        return self._shrinking(lambda: score(requests, disable_tqdm=True))

    def _in_trees(self, requests: Any) -> list[tuple[float, bool]] | None:
        """The answers by `eval.asking.walk`, or None where there is little to share or the model reads no tree."""
        asked = [Asked(tuple([*ctx, *cont][-(self.max_length + 1) :][:-1]), tuple(cont)) for _, ctx, cont in requests]
        once = {request.context: len(request.context) for request in asked}
        branches = sum(len(request.answer) - 1 for request in asked)
        if not asked or sum(once.values()) + branches > _WORTH * plain_tokens(asked):
            return None
        if any(not 0 < len(request.answer) <= len(request.tokens) for request in asked):  # HFLM's own business
            return None
        try:
            if choose_way(self.model, asked).name != "tree":
                return None
        except (RegrowthError, MemoryError, RuntimeError) as error:  # no finite answers, say, or no room
            if isinstance(error, RegrowthError) or is_out_of_memory(error):
                return None  # HFLM will tell, or do with smaller batches
            raise
        told = np.zeros(len(asked), dtype=bool)

        def watch(answers: RouteAnswers, new: int) -> None:  # so that a killed run keeps what it got
            for number in np.flatnonzero(answers.done & ~told).tolist():
                self.cache_hook.add_partial("loglikelihood", requests[number][0], answers.of(0, number))
            told[:] = answers.done
            self.bar.advance(new)

        answers = score(
            self.model,
            asked,
            [Route()],
            way=Way(),
            batch_tokens=batch_tokens(int(self.batch_size)),
            watch=watch,
        )
        self.tokens += answers.read
        self.notes += answers.notes
        return [answers.of(0, number) for number in range(len(asked))]

    def _shrinking(self, work: Callable[[], Any]) -> Any:
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            size = int(self.batch_size)
            if size == 1:
                raise RegrowthError("out of memory with one question at a time; a smaller --max-length needs less")
            self.batch_size_per_gpu = size // 2
            self.notes.append(f"out of memory at batch size {size}: went on with {size // 2}")
            self.bar.note(self.notes[-1])
            give_back()

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
        self.tokens += inps.numel()
        self.bar.advance(inps.shape[0])
        return logits

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens: torch.Tensor = super()._model_generate(context, *args, **kwargs)
        self.tokens += tokens.numel()
        self.bar.advance(context.shape[0])
        return tokens
