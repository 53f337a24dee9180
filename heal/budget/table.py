"""A budget as tables for people: what a step of healing holds, what cards make of it, and the whole chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heal.budget.document import Budget, Fit, StationWay
from heal.budget.stations import READ, WRITE
from heal.settings import TrainingRun
from prune.common.screen.tables import Cell, Table
from prune.common.sizes import counted, parse_tokens
from prune.models.memory.footprint import GIB

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
    """What a step holds, with and without checkpointing; what each card makes of it; and the chain, on one and all."""
    from rich.console import Group
    from rich.text import Text

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
        caption=f"{counted(job.batch_size, 'row')} of {job.length} tokens, rank {job.rank} on "
        f"{job.role}, {job.bits} bits; of one layer at work and one chunk of logits, the larger counts",
    )
    cards = Table.of(
        f"One card, {budget.tokens:,} tokens to heal on (expected, not measured)",
        ("card", "GiB", "share", "holds it", "most rows", "longest row", "tokens/s", "hours"),
        map(_card, budget.gpus),
        words=("card",),
        caption=f"{_usual_tokens(budget)}{budget.flops_per_token / 1e9:.1f} GFLOP a token; a card is taken to reach "
        "this share of its bf16 peak, which a small model or a small batch does not. Of its memory, 4 % and 0.75 GiB "
        "are left to the allocator and CUDA.",
    )
    return Group(held, cards, chain_table(budget), *map(Text, budget.refused), _chain_by_card(budget))


def _usual_tokens(budget: Budget) -> str:
    """Where the number of tokens comes from, if it is the usual one; else nothing."""
    if budget.tokens != parse_tokens(TrainingRun.tokens):
        return ""
    return (
        f"{TrainingRun.tokens} tokens are the default of heal {budget.settings.method}; --tokens sets another number. "
    )


def shown_fit(budget: Budget) -> Fit:
    """The card that the chain is shown for: the one asked about, or the smallest on which all stages run."""
    if budget.card is not None:
        return budget.gpus[0]
    able = [one for one in budget.gpus if all(way.way != "none" and not way.needs for way in one.stations)]
    return min(able or budget.gpus[-1:], key=lambda one: one.gpu.memory)


def chain_table(budget: Budget) -> Table:
    """Each stage on one card, with what its hours assume."""
    fit = shown_fit(budget)
    gpu = fit.gpu
    rows = [
        (
            station.command,
            way_words(way),
            f"{way.memory / GIB:,.1f}",
            f"{station.disk / GIB:,.1f}",
            hours_words(way),
            station.work,
        )
        for station, way in zip(budget.stations, fit.stations, strict=True)
    ]
    which = "" if budget.card else ", the smallest usual card on which all of it runs"
    where = "free memory" if gpu.here else "memory"
    return Table.of(
        f"The whole chain on {gpu.name} ({gpu.memory / GIB:.0f} GiB of {where}{which}): expected, not measured",
        ("stage", "goes", "GiB", "disk GiB", "hours", "hours assume"),
        rows,
        words=("stage", "goes", "hours assume"),
        caption=f"{gpu.peak * gpu.share / 1e12:.3g} TFLOP/s reached, {gpu.bandwidth / 1e9:,.0f} GB/s of memory, "
        f"{READ / 1e9:g} GB/s read from the disk and {WRITE / 1e9:g} GB/s written. Scans, cuts, patches and merges go "
        "layer by layer from the files where the whole model does not fit.",
    )


def _chain_by_card(budget: Budget) -> Table:
    names = [station.name for station in budget.stations]
    return Table.of(
        "The chain by card: GiB, and hours",
        ("card", *names),
        [(one.gpu.name, *map(_brief, one.stations)) for one in budget.gpus],
        words=("card",),
        caption="s: streamed, layer by layer. q: quantised, in 4 bits. *: with other options than those given. no: it "
        "does not fit.",
    )


def _brief(way: StationWay) -> str:
    if way.way == "none":
        return "no"
    mark = {"resident": "", "4 bits": "q", "layer by layer": "s"}[way.way] + ("*" if way.needs else "")
    return f"{way.memory / GIB:,.0f}{mark} {hours_words(way)}"


def way_words(way: StationWay) -> str:
    """Which way a stage goes, and the options that this asks for."""
    words = way.way if way.passes is None else f"{way.way}, {way.passes}"
    return f"{words}; needs {way.needs}" if way.needs else "does not fit" if way.way == "none" else words


def gib(size: int) -> str:
    """Bytes in GiB, without the unit."""
    return f"{size / GIB:,.1f}" if size >= GIB // 20 else f"{size / GIB:.3f}"


def hours_words(way: StationWay) -> str:
    """Hours; `-` where it does not fit."""
    return "-" if way.hours is None else _hours(way.hours)


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.095 else f"{hours:.2f}"


def _card(fit: Fit) -> tuple[str, ...]:
    gpu, most = fit.gpu, (fit.rows, fit.longest)
    told = (gpu.name, f"{gpu.memory / GIB:.0f}", f"{gpu.share:.0%}", "yes" if fit.holds else "no")
    return (*told, *(str(n or "none") for n in most), f"{fit.tokens_per_second:,.0f}", _hours(fit.hours))


def _in(unit: int, size: int) -> str:
    return f"{size / unit:,.2f}" if unit == GIB else f"{size / unit:,.0f}"
