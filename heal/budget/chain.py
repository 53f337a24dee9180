"""The whole chain, station by station: which way each goes on a card, and what that takes. Pure arithmetic.

Scan, cut, patch and merge go layer by layer from the files where the model does not fit; questions need a model that
is there as a whole, in 4 bits where 16 are too many.
"""

from __future__ import annotations

from heal.budget.asking import asking_line, sweep_line
from heal.budget.cards import CPU
from heal.budget.cost import healing_on
from heal.budget.document import Fit, Gpu, Station
from heal.budget.stations import (
    Chain,
    Line,
    chosen_job,
    cut_line,
    heal_line,
    job_on,
    kept_of,
    merge_line,
    patch_line,
    room_of,
    scan_line,
)
from prune.common.sizes import spell_size


def judge(chain: Chain, gpu: Gpu) -> Fit:
    """What a card makes of healing, and of each station."""
    job = job_on(gpu, chain)
    chosen = chosen_job(chain, job, gpu)
    parts = healing_on(chain.shape, chosen or job, gpu, chain.tokens, room_of(gpu))
    return Fit(**parts, stations=tuple(line.on(gpu) for line in _lines(chain)))


def stations(chain: Chain) -> tuple[Station, ...]:
    """What each station takes on any card, in the order of the chain."""
    return tuple(line.station for line in _lines(chain))


def refusals(chain: Chain, fit: Fit) -> tuple[str, ...]:
    """A line for each station that does not go on a card even with the smallest settings: why, and what to change."""
    bigger = "free some memory, or run it on another machine" if fit.gpu.name == CPU else "take a card of more memory"
    asking = ("run", "compare", "sweep")
    fewer = f"cut more layers (--n), or {bigger}"
    change = dict.fromkeys(asking, f"{bigger}, or spread the model over several cards (--device-map auto)")
    change["heal"] = f"use heal qlora, {fewer}" if chain.job.method == "distill" else fewer
    least = dict.fromkeys(asking, "in 4 bits")
    least["heal"] = "with --bits 4, --batch-size 1 and --checkpointing on"
    room = spell_size(room_of(fit.gpu))
    return tuple(
        f"{chain.job.method if way.name == 'heal' else way.name} does not fit {fit.gpu.name} even "
        f"{least.get(way.name, 'layer by layer')} ({spell_size(way.memory)}, and there is room for {room}): "
        f"{change.get(way.name, bigger)}"
        for way in fit.stations
        if way.way == "none"
    )


def _lines(chain: Chain) -> list[Line]:
    shape = chain.shape
    kept = kept_of(chain)
    pruned = shape.stored_bytes * (sum(layer.values for layer in kept) + shape.outside) // shape.values
    lines = []
    if chain.cut_comes:
        lines += [scan_line(chain), cut_line(chain, pruned)]
    if chain.whole_known:
        lines += [patch_line(chain, pruned)]
    lines += [heal_line(chain), merge_line(chain, pruned)]
    lines += [asking_line("run", chain, kept, models=1)]
    if chain.whole_known:
        lines += [asking_line("compare", chain, shape.layers, models=chain.amounts.models)]
    if chain.cut_comes:
        lines += [sweep_line(chain)]
    return lines
