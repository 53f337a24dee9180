"""lm-eval's LM on vLLM, as the process that `prune.models.vllm.process` starts runs it: a list in, answers out."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.vllm_causallms import VLLM


class VllmScorer(VLLM):
    """VLLM of lm-eval, asked by plain values that can travel between processes."""

    @property
    def facts(self) -> dict[str, Any]:
        """What loading settled: the precision that the engine runs in, which may not be the checkpoint's; sequences
        at a time, at most.
        """
        engine = self.model.llm_engine
        dtype = str(engine.model_config.dtype).removeprefix("torch.")
        return {"dtype": dtype, "batch_size": int(engine.vllm_config.scheduler_config.max_num_seqs)}

    def answer(self, kind: str, requests: list[Any]) -> tuple[list[Any], int]:
        """The answers to requests of one kind, and how many tokens went through the model for them."""
        if kind == "window":
            return self._window_nats(requests), sum(map(len, requests))
        instances = [Instance(kind, {}, arguments, index) for index, arguments in enumerate(requests)]
        answers = getattr(self, kind)(instances, disable_tqdm=True)
        texts = [arguments[0] + arguments[1] if kind == "loglikelihood" else arguments[0] for arguments in requests]
        if kind == "loglikelihood":
            answers = [(float(value), bool(greedy)) for value, greedy in answers]
        return answers, sum(len(self.tok_encode(text)) for text in texts)

    def _window_nats(self, windows: list[list[int]]) -> list[float]:
        asked = [(None, ids[:1], ids[1:]) for ids in windows]
        return [-float(logprob) for logprob, _ in self._loglikelihood_tokens(asked, disable_tqdm=True)]
