"""README's table: what `heal budget` reckons for the whole chain, of Llama-3-8B on 24 GB and Llama-3-70B on 80 GB.

    python bench/chain_table.py

It prints what these two commands say of the chain on their card, side by side. No model is fetched: the shapes are
written out (bench/gpu_steps/shapes.py), as the headers of the files have them.

    heal budget meta-llama/Meta-Llama-3-8B --n 8 --method distill --tokens 20M --card RTX-4090 \\
        --batch-size auto --checkpointing auto
    heal budget meta-llama/Meta-Llama-3-70B --n 32 --method distill --tokens 20M --card A100-80GB \\
        --batch-size auto --checkpointing auto
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.gpu_steps

from bench.gpu_steps.shapes import SHAPES, llama_shape
from heal.budget.cards import pick_card
from heal.budget.chain import judge, stations
from heal.budget.cost import Job, kept_layers
from heal.budget.stations import Chain
from heal.budget.table import hours_words
from heal.defaults import settle
from heal.settings import DistillSettings
from prune.models.memory.footprint import GIB

TOKENS = 20_000_000
COLUMNS = (("8b", 8, "RTX-4090"), ("70b", 32, "A100-80GB"))


def chain_of(name: str, n: int) -> Chain:
    """The chain of a shape without `n` layers, as the commands above settle it."""
    shape, settings = llama_shape(name, SHAPES[name]), DistillSettings(batch_size="auto", checkpointing="auto")
    step = settle(settings, tokens=TOKENS, longest=shape.context)
    job = Job(
        method="distill", kept=kept_layers(len(shape.layers), n), first=0, bits=settings.bits, role=settings.targets,
        rank=settings.rank, dropout=settings.dropout, length=step.length, batch_size=step.batch_size,
        checkpointing=True,
    )  # fmt: skip
    rows = step.batch_size * step.accumulate
    return Chain(shape, job, TOKENS, rows, choose_rows=True, choose_checkpointing=True)


def lines() -> list[str]:
    """The rows of the table, in Markdown."""
    rows: dict[str, list[str]] = {}
    for name, n, card_name in COLUMNS:
        chain, card = chain_of(name, n), pick_card(card_name)
        assert card is not None
        for station, way in zip(stations(chain), judge(chain, card).stations, strict=True):
            row = rows.setdefault(station.command, [f"`{station.command}`"])
            row += [way.way, f"{way.memory / GIB:.1f}", f"{station.disk / GIB:.1f}", hours_words(way)]
    return ["| " + " | ".join(row) + " |" for row in rows.values()]


if __name__ == "__main__":
    print("\n".join(lines()))
