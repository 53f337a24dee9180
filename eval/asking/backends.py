"""The real LMs behind an `Asker`: lm-eval's on transformers, and lm-eval's on vLLM."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from eval.settings import LONGEST, Settings
from prune.errors import CheckpointError, RegrowthError
from prune.models import Source, load_model, pick_device, text_config
from prune.precision import pick_dtype
from prune.terminal import Progress

if TYPE_CHECKING:
    from lm_eval.api.model import LM


def check_backend(settings: Settings) -> None:
    """Refuse a backend or device that is not there, before anything is read.

    Raises:
        RegrowthError: vLLM is not installed, the device cannot be used, the dtype is unknown.
    """
    if settings.backend == "vllm" and find_spec("vllm") is None:
        raise RegrowthError("--backend vllm: vLLM is not installed here; `pip install vllm`, or take --backend hf")
    pick_dtype(settings.dtype, device=pick_device(settings.device))


def context_length(source: Source, max_length: int | None) -> int:
    """Tokens of context: `max_length`, but never more than the model's own or 4096.

    Raises:
        CheckpointError: the model's config cannot be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{source.name} cannot be loaded as a causal language model ({why})") from error
    own = getattr(text_config(config), "max_position_embeddings", None) or LONGEST
    return min(max_length or LONGEST, LONGEST, own)


def open_model(source: Source, tokenizer: Any, settings: Settings, *, max_length: int, bar: Progress) -> LM:
    """Load the model behind the backend that `settings` names.

    Raises:
        CheckpointError: transformers or vLLM cannot load it.
    """
    return (_open_vllm if settings.backend == "vllm" else _open_hf)(source, tokenizer, settings, max_length, bar)


def _open_hf(source: Source, tokenizer: Any, settings: Settings, max_length: int, bar: Progress) -> LM:
    from eval.asking.harness import Scorer

    device = pick_device(settings.device)
    loaded = load_model(source, dtype=pick_dtype(settings.dtype, device=device), device=device)
    return Scorer(loaded, tokenizer, batch_size=settings.batch_size, max_length=max_length, bar=bar)


def _open_vllm(source: Source, tokenizer: Any, settings: Settings, max_length: int, bar: Progress) -> LM:
    from eval.asking.vllm_scorer import VllmScorer

    try:
        return VllmScorer(source, settings, max_length=max_length, bar=bar)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{source.name} cannot be loaded by vLLM ({why})") from error
