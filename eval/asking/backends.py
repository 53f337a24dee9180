"""The real LMs behind an `Asker`: lm-eval's on transformers, and lm-eval's on vLLM."""

from __future__ import annotations

from typing import Any

from eval.asking.removal import Removal
from eval.settings import LONGEST, Questions, Settings
from prune.checkpoint.source import Source
from prune.common.screen.terminal import Progress
from prune.models.fitting import rows_at_once
from prune.models.loading import context_length, pick_device
from prune.models.precision import pick_dtype
from prune.models.vllm.options import engine_device
from prune.models.whole import AS_STORED, NF4, check_4bit, load_whole

USUAL_ROWS = 8  # requests at a time on a CPU
_MOST_ROWS = 64
_ASKED_TOKENS = 1024  # of a request with its answer, as a rule; where more run out of memory, batches are halved
_ASKED_LOGITS = 128  # counted as if drawn from: log-likelihoods make logits of all positions, and copies


def check_backend(settings: Settings) -> None:
    """Refuse vLLM that is not there or too old, a device that cannot be used, an unknown dtype: a RegrowthError."""
    device = device_of(settings)
    pick_dtype(settings.dtype, device=device)
    check_resident(settings, device)


def check_resident(settings: Questions, device: str) -> None:
    """Refuse NF4 on a device without it, and layers that cannot be spread.

    Args:
        device: as `pick_device` gives it.

    Raises:
        RegrowthError, UsageError: as `check_4bit` and `check_spread` do.
    """
    if settings.load_in_4bit:
        check_4bit(device)
    if settings.device_map is not None:
        from prune.models.spread import check_spread

        check_spread(settings.device_map, settings.device)


def weights_judged(settings: Questions) -> str:
    """Which weights answer: `as stored`, `nf4`, or the name of what vLLM makes of them."""
    if settings.load_in_4bit:
        return NF4
    engine = dict(settings.backend_args) if isinstance(settings, Settings) else {}
    return str(engine.get("quantization") or AS_STORED)


def load_asked(source: Source, settings: Questions, device: str) -> Any:
    """The model to be asked through transformers, as the settings say: in its precision, in NF4, spread.

    Args:
        device: as `pick_device` gives it.
    """
    return load_whole(
        source,
        dtype=pick_dtype(settings.dtype, device=device),
        device=device,
        load_in_4bit=settings.load_in_4bit,
        spread=settings.device_map is not None,
    )


def device_of(settings: Settings) -> str:
    """The device that computes, by the name that torch has for it."""
    return engine_device(settings.device) if settings.backend == "vllm" else pick_device(settings.device)


def longest_scored(settings: Settings, context: int) -> int:
    """Tokens of prompt and continuation that the backend scores at most; of longer ones the start is cut.

    The last one needs no place in the context, as nothing follows it; vLLM always generates one token more.
    """
    return context - 1 if settings.backend == "vllm" else context + 1


def asked_context(source: Source, max_length: int | None) -> int:
    """Tokens of context: `max_length`, or 4096 if that is None, but never more than the model's own.

    Raises:
        CheckpointError: transformers cannot read the model's config.
    """
    return min(max_length or LONGEST, context_length(source, trust_remote_code=False) or LONGEST)


def open_model(
    source: Source,
    tokenizer: Any,
    settings: Settings,
    *,
    max_length: int,
    bar: Progress,
    removal: Removal | None = None,
) -> Any:
    """Load the model behind the backend that `settings` names: an LM of lm-eval, and `window_nats`.

    On transformers it also has `written`, and `removal` says which heads are taken out.
    """
    if settings.backend == "vllm":
        from eval.asking.vllm_model import VllmModel

        return VllmModel(source, settings, max_length=max_length, bar=bar)
    from eval.asking.harness import Scorer

    loaded = load_asked(source, settings, pick_device(settings.device))
    if removal is not None:
        removal.apply(loaded)
    rows = settings.batch_size or asked_at_once(loaded, max_length)
    return Scorer(loaded, tokenizer, batch_size=rows, max_length=max_length, bar=bar)


def asked_at_once(model: Any, max_length: int) -> int:
    """Requests at a time where no number is given: what a GPU has memory for, and USUAL_ROWS elsewhere.

    Args:
        max_length: tokens of the longest request.
    """
    return rows_at_once(model, min(max_length, _ASKED_TOKENS), usual=USUAL_ROWS, logits=_ASKED_LOGITS, most=_MOST_ROWS)
