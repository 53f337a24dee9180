"""docs/many-gpus.md's table: what Llama-3-8B, -70B and -405B take on several cards of 80 GB, as `heal budget` reckons.

    python bench/scale_table.py

No model is fetched: the shapes are written out (bench/gpu_steps/shapes.py). Counted beyond `heal budget`: that FSDP
deals weights, adapter and optimiser out evenly, keeps the scales of NF4 whole, and gathers one unit at a time, which is
two layers (the next one comes while one computes), or embeddings and head together. Time on the wires is not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.gpu_steps

from bench.gpu_steps.shapes import SHAPES, llama_shape
from heal.budget.cards import pick_card
from heal.budget.chain import judge
from heal.budget.cost import Job, flops_per_token, kept_layers, memory_of, spread_memory
from heal.budget.document import Gpu, StationWay
from heal.budget.stations import Chain, room_of
from heal.defaults import settle
from heal.settings import DistillSettings, Settings
from prune.models.memory.footprint import GIB, resident_bytes, scale_bytes, weight_bytes
from prune.models.memory.shapes import ModelShape

TOKENS = 20_000_000
CARD = "H100-80GB"
CUTS = (("8b", 8), ("70b", 32), ("405b", 48))
SCANNING = 8  # processes


def job_of(shape: ModelShape, n: int, method: str) -> Job:
    """Healing of a cut of `n` layers in NF4, one row a pass, as `heal` settles the rest for the tokens."""
    settings = DistillSettings() if method == "distill" else Settings()
    step = settle(settings, tokens=TOKENS, longest=shape.context)
    return Job(
        method=method, kept=kept_layers(len(shape.layers), n), first=0, bits=4, role=settings.targets,
        rank=settings.rank, dropout=settings.dropout, length=step.length, batch_size=1, checkpointing=True,
    )  # fmt: skip


def nf4_bytes(shape: ModelShape, kept: tuple[int, ...]) -> int:
    """Bytes of those layers in NF4 with their scales, and of what stands outside of the layers."""
    layers = [shape.layers[layer] for layer in kept]
    return weight_bytes(layers, shape.outside, 4) + sum(
        scale_bytes(one, 4) for layer in layers for one in layer.linears
    )


def on_each(shape: ModelShape, job: Job, cards: int) -> int:
    """Bytes at the peak on each of several cards under FSDP."""
    memory = memory_of(shape, job)
    unit = max(2 * max(weight_bytes([layer], 0, 4) for layer in shape.layers), 2 * shape.outside)
    dealt = (memory.weights + memory.adapter + memory.optimiser) // cards
    return dealt + memory.quantisation + unit + memory.activations + max(memory.layer, memory.logits)


def fewest(fits: Callable[[int], bool]) -> int:
    """The first number of cards, from 1 on, that is enough."""
    return next(cards for cards in count(1) if fits(cards))


def qlora_cells(shape: ModelShape, n: int, card: Gpu) -> list[str]:
    """Cards, GiB on each, and hours of `heal qlora` under FSDP."""
    job = job_of(shape, n, "qlora")
    cards = fewest(lambda cards: on_each(shape, job, cards) <= room_of(card))
    held = memory_of(shape, job).total if cards == 1 else on_each(shape, job, cards)
    seconds = TOKENS * flops_per_token(shape, job) / (card.peak * card.share * cards)
    return [str(cards), f"{held / GIB:.0f}", f"{seconds / 3600:.1f}"]


def chain_on(shape: ModelShape, n: int, card: Gpu) -> dict[str, StationWay]:
    """The ways of the stations of a distilled cut, by their names."""
    job = job_of(shape, n, "distill")
    chain = Chain(shape, job, TOKENS, 1, choose_rows=False, choose_checkpointing=False)
    return {way.name: way for way in judge(chain, card).stations}


def distill_cells(shape: ModelShape, n: int, card: Gpu) -> list[str]:
    """Cards and hours of `heal distill --device-map auto`: they compute one after the other."""
    cards = fewest(lambda cards: chain_on(shape, n, several(card, cards))["heal"].way == "4 bits")
    hours = chain_on(shape, n, several(card, cards))["heal"].hours
    assert hours is not None
    return [str(cards), f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"]


def several(card: Gpu, cards: int) -> Gpu:
    """A card with the room that several leave together."""
    return card.model_copy(update={"memory": spread_memory([card.memory] * cards)})


def scan_cells(shape: ModelShape, n: int, card: Gpu) -> list[str]:
    """GiB and hours of `prune scan` on one card, and hours of as many processes as are named above."""
    chain = Chain(shape, job_of(shape, n, "distill"), TOKENS, 1)
    shared = replace(chain, amounts=replace(chain.amounts, samples=chain.amounts.samples // SCANNING))
    one, share = (next(way for way in judge(each, card).stations if way.name == "scan") for each in (chain, shared))
    assert one.hours is not None
    assert share.hours is not None
    return [one.way, f"{one.memory / GIB:.0f}", f"{60 * one.hours:.1f}", f"{60 * share.hours:.1f}"]


def asking_cells(shape: ModelShape, n: int, card: Gpu) -> list[str]:
    """Cards that hold the full model in 4 bits for questions."""
    return [str(fewest(lambda cards: chain_on(shape, n, several(card, cards))["sweep"].way != "none"))]


def rows() -> list[list[str]]:
    """The table: a line a quantity, a column a model."""
    card = pick_card(CARD)
    assert card is not None
    names = [
        "layers, and without", "GiB in bf16", "GiB in NF4", "GiB of the cut in NF4",
        "`heal qlora`, FSDP: cards", "GiB on each", "hours",
        "`heal distill --device-map auto`: cards", "hours",
        "`prune scan` on one card", "GiB", "minutes", f"minutes of {SCANNING} processes",
        "questions of the full model: cards",
    ]  # fmt: skip
    columns = []
    for name, n in CUTS:
        shape = llama_shape(name, SHAPES[name])
        everything = tuple(range(len(shape.layers)))
        sizes = [resident_bytes(shape, shape.layers), nf4_bytes(shape, everything)]
        sizes.append(nf4_bytes(shape, kept_layers(len(shape.layers), n)))
        cells = [f"{len(shape.layers)}, {n}", *(f"{size / GIB:.0f}" for size in sizes)]
        cells += qlora_cells(shape, n, card) + distill_cells(shape, n, card)
        cells += scan_cells(shape, n, card) + asking_cells(shape, n, card)
        columns.append(cells)
    return [list(row) for row in zip(names, *columns, strict=True)]


def lines() -> list[str]:
    """The table in Markdown."""
    head = ["", *(f"Llama-3-{name.upper()}" for name, _ in CUTS)]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows())]


if __name__ == "__main__":
    print("\n".join(lines()))
