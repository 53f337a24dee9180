"""QLoRA healing: a frozen base in 4 bits, an adapter on its feed-forward projections, plain text."""

from __future__ import annotations

import math
import resource
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.data import HELD_OUT_SHARE, TextSource, hold_out, training_rows
from heal.schedule import Schedule, parse_tokens, plan_steps
from prune.errors import CheckpointError, UsageError
from prune.models import Source, load_tokenizer, locate, pick_device, text_config
from prune.outputs import check_free, staged_directory, write_json, write_text
from prune.provenance import provenance
from prune.terminal import progress, quiet_libraries

if TYPE_CHECKING:
    from peft import PeftModel

    from heal.loop import Trained

FORMAT = "regrowth.heal/1"


@dataclass(frozen=True)
class Settings:
    """How to heal. The defaults are those of arXiv 2403.17887 (appendix) where a default can be one for all models.

    The paper takes rank 64 but for Llama-2-7B (2), Llama-2-70B (8) and Mistral-7B (4), and a rate of 3e-4 but for
    Llama-2-70B (3e-5), Mistral-7B (3e-6) and Phi-2 (2e-4); its budget is 5000 steps of 16 rows of 2048 or 4096 tokens.

    Attributes:
        length: tokens per row.
        batch_size: rows per forward pass; `batch_size * accumulate` is 16 rows a step, as in the paper.
        alpha: LoRA's alpha; the rank if None, so that the scale is 1.
        targets: `feed-forward` or `all`.
        bits: 4 (NF4 + double quantisation) or 16 (bf16).
        eval_every: optimiser steps between two measurements of held-out loss; a tenth of all steps if None.
        checkpointing: keep one activation per layer and compute the rest anew.
    """

    length: int = 512
    batch_size: int = 4
    accumulate: int = 4
    rank: int = 64
    alpha: float | None = None
    dropout: float = 0.05
    learning_rate: float = 3e-4
    targets: str = "feed-forward"
    bits: int = 4
    seed: int = 0
    eval_every: int | None = None
    checkpointing: bool = True


@dataclass(frozen=True)
class HealResult:
    """What a run did. `document` is its heal.json."""

    out: Path
    document: dict[str, Any]

    @property
    def before(self) -> float:
        """Held-out loss of the base in the training precision, in nats per token."""
        return float(self.document["held_out_loss"]["before"])

    @property
    def after(self) -> float:
        """Held-out loss with the adapter, in nats per token."""
        return float(self.document["held_out_loss"]["after"])


def qlora(
    model: str | Path,
    text: TextSource | str,
    out: str | Path,
    *,
    tokens: int | str = "2M",
    settings: Settings | None = None,
    device: str = "auto",
    revision: str | None = None,
    overwrite: bool = False,
    shown: bool = True,
) -> HealResult:
    """Train a LoRA adapter on plain text and write it to `out` in peft's format, with heal.json and a model card.

    Args:
        model: the pruned model: a folder or hub id.
        text: what to heal on; a string is a SOURCE with the field `text`.
        out: folder for the adapter; appears whole or not at all.
        tokens: budget, BOS and EOS included; spent in whole steps.
        shown: show progress on stderr.

    Raises:
        UsageError: settings that do not fit the model or one another.
        TextError: text that is missing, too short for the budget, or leaves nothing held out.
        RegrowthError: `out` exists, the model cannot be healed, or training diverged.
    """
    settings = settings or Settings()
    text = TextSource(text) if isinstance(text, str) else text
    schedule = plan_steps(
        parse_tokens(tokens),
        length=settings.length,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
    )
    _check(settings)
    check_free(out, overwrite=overwrite)
    quiet_libraries()
    device = pick_device(device)
    source = locate(model, revision=revision)

    from transformers import set_seed

    from heal.adapters import add_adapter, find_targets
    from heal.head import attach_loss
    from heal.identity import base_identity
    from heal.loop import run
    from heal.measuring import mean_loss
    from heal.quantise import load_frozen, quantised_modules

    _check_fit(source, settings)  # before anything that takes long
    tokenizer = load_tokenizer(source)
    with progress("Reading text", None, shown=shown):
        held_out = hold_out(text, tokenizer, length=settings.length)
        rows = training_rows(text, tokenizer, held_out, rows=schedule.rows, length=settings.length, seed=settings.seed)
    base = load_frozen(source, bits=settings.bits, device=device)
    quantised = quantised_modules(base)
    targets = find_targets(base, settings.targets)
    attach_loss(base)
    set_seed(settings.seed)  # the adapter's first weights, and dropout
    place = source.name if source.commit else str(source.folder.resolve())
    adapted = add_adapter(
        base, targets, rank=settings.rank, alpha=_alpha(settings), dropout=settings.dropout, base=place
    )
    if settings.checkpointing:
        adapted.enable_input_require_grads()  # else a frozen embedding starts each checkpoint without a gradient
    with staged_directory(out, overwrite=overwrite) as stage:
        scratch = stage / ".trainer"
        with progress("Healing", schedule.steps, shown=shown) as bar:
            trained = run(
                adapted,
                rows,
                schedule,
                measure=lambda: mean_loss(base, held_out.rows, batch_size=settings.batch_size),
                eval_every=settings.eval_every or max(1, schedule.steps // 10),
                learning_rate=settings.learning_rate,
                checkpointing=settings.checkpointing,
                seed=settings.seed,
                scratch=scratch,
                bar=bar,
            )
        shutil.rmtree(scratch, ignore_errors=True)
        document = {
            "format": FORMAT,
            "method": "qlora" if settings.bits == 4 else "lora",
            **_report(trained, schedule, device),
            "settings": {**asdict(settings), "alpha": _alpha(settings), **schedule.to_json()},
            "adapted": list(targets.modules),
            "quantised": quantised,
            "base": base_identity(source),
            "held_out": {
                "tokens": sum(row.targets for row in held_out.rows),
                "share": None if text.held_out else 1 / HELD_OUT_SHARE,
            },
            "provenance": provenance(device=device, **text.identity()),
        }
        _save(adapted, stage, document)
    return HealResult(Path(out), document)


def _report(trained: Trained, schedule: Schedule, device: str) -> dict[str, Any]:
    import torch

    peak: dict[str, int] = {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device.startswith("cuda"):
        peak["cuda_bytes"] = torch.cuda.max_memory_allocated()
    return {
        "tokens": schedule.tokens,
        "curve": [asdict(point) for point in trained.curve],
        "held_out_loss": {
            "before": trained.curve[0].held_out_loss,
            "after": trained.curve[-1].held_out_loss,
            "unit": "nats per token",
        },
        "tokens_per_second": schedule.tokens / trained.seconds,
        "training_seconds": trained.seconds,
        "peak_memory": peak,
    }


def _save(adapted: PeftModel, stage: Path, document: dict[str, Any]) -> None:
    from heal.card import adapter_card

    adapted.save_pretrained(stage, save_embedding_layers=False)
    (stage / "README.md").unlink(missing_ok=True)  # peft's own card is an empty form
    write_text(stage / "README.md", adapter_card(document))
    write_json(stage / "heal.json", document)


def _alpha(settings: Settings) -> float:
    return float(settings.rank if settings.alpha is None else settings.alpha)


def _check(settings: Settings) -> None:
    if not 0 < settings.learning_rate < math.inf:
        raise UsageError(f"--learning-rate {settings.learning_rate} is not above 0")
    if _alpha(settings) <= 0:
        raise UsageError(f"--alpha {settings.alpha} is not above 0")
    if settings.eval_every is not None and settings.eval_every < 1:
        raise UsageError(f"--eval-every {settings.eval_every} is not at least 1")


def _check_fit(source: Source, settings: Settings) -> None:
    """Refuse settings that do not fit the model, told from its config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from heal.adapters import check_rank, find_targets

    try:
        config = AutoConfig.from_pretrained(source.folder)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source.name} is no causal language model that transformers knows ({error})") from error
    limit = getattr(text_config(config), "max_position_embeddings", None)
    if limit is not None and settings.length > limit:
        raise UsageError(f"--length {settings.length} is beyond the {limit} tokens that the model can read")
    check_rank(find_targets(skeleton, settings.targets), settings.rank, settings.dropout)
