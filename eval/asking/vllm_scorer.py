"""lm-eval's LM on vLLM, in pieces, so that progress shows and a killed run keeps what it got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.vllm_causallms import VLLM

from eval.settings import Settings
from prune.models import Source
from prune.precision import pick_dtype
from prune.terminal import Progress

PIECE = 512  # requests handed to vLLM at a time; it makes its own batches of them


class VllmScorer(VLLM):
    """VLLM as lm-eval drives it; the same face as `eval.asking.harness.Scorer`."""

    def __init__(self, source: Source, settings: Settings, *, max_length: int, bar: Progress) -> None:
        dtype = str(pick_dtype(settings.dtype, device="cuda")).removeprefix("torch.")
        super().__init__(pretrained=str(source.folder), dtype=dtype, max_model_len=max_length, seed=settings.seed)
        self.bar = bar
        self.notes: list[str] = []
        self.tokens = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What loading settled: the precision, where `auto` is what the model's config states."""
        dtype = str(self.model_args["dtype"])
        return {"dtype": str(self._config.dtype).removeprefix("torch.") if dtype == "auto" else dtype}

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> Any:
        """As in VLLM, piece by piece."""
        return self._in_pieces(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> Any:
        """As in VLLM, piece by piece."""
        return self._in_pieces(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> Any:
        """As in VLLM, piece by piece."""
        return self._in_pieces(super().generate_until, requests)

    def window_nats(self, ids: Sequence[int]) -> float:
        """Summed NLL in nats of the tokens after the first, each given those before it."""
        ((logprob, _),) = self._loglikelihood_tokens([(None, list(ids[:1]), list(ids[1:]))], disable_tqdm=True)
        self.bar.advance()
        return -float(logprob)

    def _in_pieces(self, work: Any, requests: list[Instance]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(requests), PIECE):
            piece = requests[start : start + PIECE]
            found += work(piece, disable_tqdm=True)
            self.tokens += sum(len(self.tok_encode(str(request.args[0]))) for request in piece)
            self.bar.advance(len(piece))
        return found
