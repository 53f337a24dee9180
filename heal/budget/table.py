"""A budget as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heal.budget.document import Budget
from prune.models.footprint import GIB

if TYPE_CHECKING:
    from rich.console import Group

_ROWS = (
    ("weights", "frozen weights"),
    ("quantisation", "scales of the quantised ones"),
    ("adapter", "adapter"),
    ("optimiser", "gradients and Adam"),
    ("activations", "activations kept for backward"),
    ("layer", "one layer at work"),
    ("logits", "one chunk of logits"),
    ("step", "peak of a step"),
    ("loading", "peak of loading"),
)


def tables(budget: Budget) -> Group:
    """What a step holds, with and without checkpointing; and what each card makes of it."""
    from rich.console import Group
    from rich.table import Table

    job = budget.settings
    unit, name = (GIB, "GiB") if budget.memory.total >= 4 * GIB else (GIB >> 10, "MiB")
    held = Table(
        title=f"{job.method} on {len(budget.kept)} of {budget.layers} layers of {budget.model}: {name}",
        caption=(
            f"{job.batch_size} row{'' if job.batch_size == 1 else 's'} of {job.length} tokens, rank {job.rank} on "
            f"{job.role}, {job.bits} bits; of one layer at work and one chunk of logits, the larger counts"
        ),
    )
    held.add_column("what")
    pair = (budget.memory_with_checkpointing or budget.memory, budget.memory_without_checkpointing or budget.memory)
    for words in ("checkpointing", "no checkpointing"):
        held.add_column(
            words + (" (asked)" if (words == "checkpointing") == job.checkpointing else ""), justify="right"
        )
    for part, words in _ROWS:
        style = "bold" if part == "step" else None
        held.add_row(words, *(_in(unit, getattr(memory, part)) for memory in pair), style=style)
    cards = Table(
        title=f"One card, {budget.tokens:,} tokens (expected, not measured)",
        caption=(
            f"{budget.flops_per_token / 1e9:.1f} GFLOP a token; a card is taken to reach this share of its bf16 peak, "
            "which a small model or a small batch does not. Of its memory, 4 % and 0.75 GiB are left to the allocator "
            "and CUDA."
        ),
    )
    for head in ("card", "GiB", "share", "holds it", "most rows", "longest row", "tokens/s", "hours"):
        cards.add_column(head, justify="left" if head == "card" else "right")
    for verdict in budget.gpus:
        cards.add_row(
            verdict.gpu.name,
            f"{verdict.gpu.memory / GIB:.0f}",
            f"{verdict.gpu.share:.0%}",
            "yes" if verdict.holds else "no",
            str(verdict.rows) if verdict.rows else "none",
            str(verdict.longest) if verdict.longest else "none",
            f"{verdict.tokens_per_second:,.0f}",
            f"{verdict.hours:,.1f}",
        )
    return Group(held, cards)


def _in(unit: int, size: int) -> str:
    return f"{size / unit:,.2f}" if unit == GIB else f"{size / unit:,.0f}"
