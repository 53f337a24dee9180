"""`heal budget`: read a model's shape, settle what is asked, and reckon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from heal.budget.cost import GPUS, METHODS, Budget, Gpu, Job, kept_layers, reckon
from heal.defaults import settle
from heal.settings import Settings
from prune.common.errors import CheckpointError, UsageError
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.families.subject import read_shape

_MINE = Gpu("yours", 0, 312e12, 0.35)  # an A100's speed, where only a size is named


def plan_budget(
    model: str | Path,
    *,
    n: int = 0,
    start: int | None = None,
    tokens: int = 164_000_000,
    method: str = "qlora",
    bits: int = 4,
    targets: str = "all",
    rank: int = 64,
    dropout: float = 0.05,
    length: int | None = None,
    batch_size: int | None = None,
    checkpointing: bool = True,
    gpu_memory: int | None = None,
    cuda: bool = True,
    revision: str | None = None,
) -> Budget:
    """Memory and time of healing a model, from its config and the headers of its weights alone.

    Args:
        model: the full model, from which `n` layers are to be cut; or, with n = 0, a model that is cut already.
        n: how many layers go: a block from `start` on, or the deepest that keeps the last layer.
        tokens: to heal on; the paper's budget is 164M.
        method: `qlora`, or `distill`, which keeps the full model loaded.
        bits, targets, rank, dropout, checkpointing: as healing takes them.
        length, batch_size: as healing takes them; what follows from `tokens` if None.
        gpu_memory: bytes of a card of one's own, at the speed of an A100.
        cuda: reckon with a GPU's chunks and dropout masks, not a CPU's.

    Raises:
        UsageError: options out of range.
        CheckpointError: no model, or of a family that is not known.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method} is unknown; take {' or '.join(METHODS)}")
    role, _, place = ("all:after-cut" if targets == "after-cut" else targets).partition(":")
    if role not in ("feed-forward", "all") or place not in ("", "after-cut"):
        raise UsageError(f"--targets {targets} is unknown; take feed-forward, all or after-cut")
    plan = None
    if n == 0 and (Path(model) / PLAN_FILE).is_file():
        plan = CutPlan.read(Path(model) / PLAN_FILE)
    shape = read_shape(model, revision=revision)
    kept = kept_layers(len(shape.layers), n, start)
    if plan is not None and method == "distill":
        try:
            full = read_shape(plan.model, revision=plan.commit)
        except CheckpointError as error:
            raise CheckpointError(
                f"distillation keeps the model that {model} was cut from, and it cannot be found ({error}); give that "
                "model in its place, with --n and --start"
            ) from None
        shape, kept = replace(full, name=f"{shape.name} and {full.name}"), plan.kept
    gaps = plan.original if plan is not None else kept
    after = next((i for i, layer in enumerate(gaps) if i != layer), None if n == 0 and plan is None else len(kept))
    if place and (after is None or after == len(kept)):
        raise UsageError(f"--targets {targets}: no layer stands after a cut; name --n and --start")
    given: dict[str, Any] = {
        name: value for name, value in (("length", length), ("batch_size", batch_size)) if value is not None
    }
    settled = settle(Settings(**given), tokens=tokens, longest=shape.context)
    job = Job(
        method=method,
        kept=kept,
        first=(after or 0) if place else 0,
        bits=bits,
        role=role,
        rank=rank,
        dropout=dropout,
        length=settled.length,
        batch_size=settled.batch_size,
        checkpointing=checkpointing,
        cuda=cuda,
    )
    gpus = GPUS if gpu_memory is None else (replace(_MINE, memory=gpu_memory), *GPUS)
    return reckon(shape, job, tokens=tokens, gpus=gpus)
