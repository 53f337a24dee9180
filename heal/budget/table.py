"""A budget as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heal.budget.document import Budget, Verdict
from prune.common.tables import Cell, Table
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

    job = budget.settings
    unit, name = (GIB, "GiB") if budget.memory.total >= 4 * GIB else (GIB >> 10, "MiB")
    pair = (budget.memory_with_checkpointing or budget.memory, budget.memory_without_checkpointing or budget.memory)
    ways = ("checkpointing", "no checkpointing")
    asked = ways[0] if job.checkpointing else ways[1]
    held = Table.of(
        f"{job.method} on {len(budget.kept)} of {budget.layers} layers of {budget.model}: {name}",
        ("what", *(f"{way} (asked)" if way == asked else way for way in ways)),
        [
            (Cell(words, look="strong" if part == "step" else ""), *(_in(unit, getattr(way, part)) for way in pair))
            for part, words in _ROWS
        ],
        words=("what",),
        caption=f"{job.batch_size} row{'' if job.batch_size == 1 else 's'} of {job.length} tokens, rank {job.rank} on "
        f"{job.role}, {job.bits} bits; of one layer at work and one chunk of logits, the larger counts",
    )
    cards = Table.of(
        f"One card, {budget.tokens:,} tokens (expected, not measured)",
        ("card", "GiB", "share", "holds it", "most rows", "longest row", "tokens/s", "hours"),
        map(_card, budget.gpus),
        words=("card",),
        caption=f"{budget.flops_per_token / 1e9:.1f} GFLOP a token; a card is taken to reach this share of its bf16 "
        "peak, which a small model or a small batch does not. Of its memory, 4 % and 0.75 GiB are left to the "
        "allocator and CUDA.",
    )
    return Group(held, cards)


def _card(verdict: Verdict) -> tuple[str, ...]:
    gpu, most = verdict.gpu, (verdict.rows, verdict.longest)
    told = (gpu.name, f"{gpu.memory / GIB:.0f}", f"{gpu.share:.0%}", "yes" if verdict.holds else "no")
    return (*told, *(str(n or "none") for n in most), f"{verdict.tokens_per_second:,.0f}", f"{verdict.hours:,.1f}")


def _in(unit: int, size: int) -> str:
    return f"{size / unit:,.2f}" if unit == GIB else f"{size / unit:,.0f}"
