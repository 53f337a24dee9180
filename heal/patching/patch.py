"""The closed-form patch: what a cut took, won back by least squares and folded into the projection before the cut.

No training and no new module: the last projection before a dropped block is changed so that the state which enters the
cut comes as near as a linear map can bring it to the state that left the block. Of the ways to measure "near" the one
is kept whose patch has the least loss on text apart, and none that is worse than no patch is ever handed back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.cards import candidate_words
from heal.result import FORMAT, HealResult
from heal.settings import PatchSettings, check_length, check_seed
from heal.text.sources import HELD_OUT_SHARE, HeldOut, TextSource, hold_out, row_stream
from prune.common.errors import RegrowthError, TextError, UsageError
from prune.common.layers import runs, spell_layers
from prune.common.memory import peak_memory
from prune.common.outputs import check_free, staged_directory
from prune.common.provenance import provenance
from prune.common.sizes import parse_tokens
from prune.common.terminal import progress, quiet_libraries
from prune.models.loading import load_model, load_tokenizer, pick_device
from prune.models.precision import pick_dtype

if TYPE_CHECKING:
    import torch

    from heal.lineage import Lineage
    from heal.patching.side_by_side import Tracks
    from heal.patching.solve import Fold, Folded
    from heal.text.packing import Row

KINDS = ("matrix", "map")
CHOICE_TOKENS = 4096  # at most; text apart from that which is fitted, a quarter of it, to choose a candidate by


class PatchResult(HealResult):
    """What was patched. `document` is its heal.json; losses on held-out text, in nats per token."""


def patch(
    model: str | Path,
    teacher: str | Path | None,
    text: TextSource | str,
    out: str | Path,
    *,
    tokens: int | str = "20k",
    settings: PatchSettings | None = None,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    overwrite: bool = False,
    shown: bool = True,
) -> PatchResult:
    """Patch a cut in closed form and write an ordinary checkpoint: one projection a block differs from the cut's.

    One model is in memory: the full one, whose dropped layers are passed over to have the pruned one.

    Args:
        model: the pruned model, with its prune_plan.json; not healed yet.
        teacher: the full model; where prune_plan.json says it was, if None.
        text: what to fit on; a string is a SOURCE with the field `text`.
        out: folder of the patched model; appears whole or not at all.
        tokens: text to fit, in whole rows; a quarter more, 4096 tokens at most, is set apart for the choice.
        dtype: to compute in; sums are float64 whatever it is.
        shown: show progress on stderr.

    Raises:
        UsageError: settings that do not exist or do not fit.
        CheckpointError: no plan, a teacher that is not the source of the cut, or a model healed since.
        TextError: text that is missing, too short, or leaves nothing held out.
        RegrowthError: `out` exists, the cut or the family takes no fold, or no patch is better than none.
    """
    plan = _plan(
        model,
        teacher,
        text,
        out,
        tokens=tokens,
        settings=settings or PatchSettings(),
        device=device,
        revision=revision,
        overwrite=overwrite,
    )
    lineage, settings = plan.lineage, plan.settings
    tokenizer = load_tokenizer(lineage.pruned)
    with progress("Reading text", None, shown=shown):
        held_out = hold_out(plan.text, tokenizer, length=settings.length)
        stream = row_stream(plan.text, tokenizer, held_out, length=settings.length, seed=settings.seed)
        rows = stream.take(plan.wanted + plan.spare)
        _check_enough(plan.text, len(rows), plan.wanted, settings.length)
    full = load_model(lineage.full, dtype=pick_dtype(dtype, device=plan.device), device=plan.device)

    from heal.patching.side_by_side import Tracks
    from heal.patching.solve import find_folds
    from heal.patching.writing import stored_names, write_patched

    tracks = Tracks(full, lineage.plan.dropped)
    folds = find_folds(tracks, plan.blocks, rows[0])
    stored = [stored_names(tracks, lineage, fold.place) for fold in folds]
    started = time.monotonic()
    losses, tried, values = _solve(
        tracks, folds, stored, rows[: plan.wanted], rows[plan.wanted :], held_out.rows, settings, shown
    )
    found = [
        {**fold.to_json(), "tensors": names, **solved.to_json()}
        for fold, names, solved in zip(folds, stored, tried, strict=True)
    ]
    document = {
        **_document(plan, held_out, found, losses, seconds=time.monotonic() - started),
        "provenance": provenance(
            device=plan.device, dtype=str(full.dtype).removeprefix("torch."), **plan.text.identity()
        ),
    }
    _refuse_worse(document)
    with staged_directory(out, overwrite=overwrite) as stage:
        write_patched(lineage, stage, values, document)
    return PatchResult(plan.out, document)


@dataclass(frozen=True)
class _PatchPlan:
    """What a patch will do; nothing is loaded yet.

    Attributes:
        blocks: start (0-based) and size of each run of dropped layers, from the bottom.
        wanted: rows to fit.
        spare: rows to choose by.
    """

    lineage: Lineage
    blocks: list[tuple[int, int]]
    text: TextSource
    out: Path
    settings: PatchSettings
    wanted: int
    spare: int
    device: str


def _plan(
    model: str | Path,
    teacher: str | Path | None,
    text: TextSource | str,
    out: str | Path,
    *,
    tokens: int | str,
    settings: PatchSettings,
    device: str,
    revision: str | None,
    overwrite: bool,
) -> _PatchPlan:
    """Settle it, and refuse what cannot be done before anything that takes long. See `patch`."""
    text = TextSource(text) if isinstance(text, str) else text
    _check(settings)
    wanted = parse_tokens(tokens) // settings.length
    if not wanted:
        raise UsageError(f"--tokens {tokens} is less than one row of {settings.length} tokens; ask for more")
    check_free(out, overwrite=overwrite)
    quiet_libraries()
    device = pick_device(device)

    from transformers import AutoConfig

    from heal.lineage import trace

    lineage = trace(model, teacher, revision=revision)
    blocks = runs(lineage.plan.dropped)
    _check_blocks(blocks, lineage)
    check_length(AutoConfig.from_pretrained(lineage.full.folder), settings.length)
    _check_apart(Path(out), lineage)
    return _PatchPlan(lineage, blocks, text, Path(out), settings, wanted, _spare(wanted, settings.length), device)


def _document(
    plan: _PatchPlan, held_out: HeldOut, folds: list[dict[str, Any]], losses: dict[str, float], *, seconds: float
) -> dict[str, Any]:
    """What heal.json says, but for its provenance."""
    length = plan.settings.length
    return {
        "format": FORMAT,
        "method": "patch",
        "tokens": plan.wanted * length,
        "choice_tokens": plan.spare * length,
        "settings": asdict(plan.settings),
        "folds": folds,
        "held_out_loss": {**losses, "unit": "nats per token"},
        "won_back": _won_back(**losses),
        "seconds": seconds,
        "peak_memory": peak_memory(plan.device),
        **_origin(plan.lineage),
        "held_out": {
            "tokens": sum(row.targets for row in held_out.rows),
            "share": None if plan.text.held_out else 1 / HELD_OUT_SHARE,
        },
    }


def _solve(
    tracks: Tracks,
    folds: Sequence[Fold],
    stored: Sequence[list[str]],
    rows: Sequence[Row],
    spare: Sequence[Row],
    held_out: Sequence[Row],
    settings: PatchSettings,
    shown: bool,
) -> tuple[dict[str, float], list[Folded], dict[str, torch.Tensor]]:
    """Solve the folds from the bottom, and measure.

    Returns:
        Held-out losses `full`, `before` and `after`; what was tried at each fold; the tensors that change, by name.
    """
    from heal.patching.least_squares import OBJECTIVES
    from heal.patching.solve import Search, solve_fold
    from heal.patching.writing import tensors_of

    size = settings.batch_size
    objectives = OBJECTIVES if settings.objective == "auto" else (settings.objective,)
    most = Search.most(len(objectives), settings.kind, settings.ridge)
    total = len(folds) * (len(rows) + (2 + most) * len(spare)) + 3 * len(held_out)
    losses: dict[str, float] = {}
    with progress("Patching (rows run)", total, shown=shown) as bar:

        def advance(count: int, words: str) -> None:
            bar.advance(count)
            bar.note(words)

        def measure(name: str, *, pruned: bool) -> None:
            losses[name] = tracks.mean_loss(held_out, size, pruned=pruned)
            advance(len(held_out), f"held-out loss {name}: {losses[name]:.3f}")

        measure("full", pruned=False)
        measure("before", pruned=True)
        tried = [
            solve_fold(
                tracks,
                fold,
                rows,
                spare,
                objectives=objectives,
                kind=settings.kind,
                ridge=settings.ridge,
                batch_size=size,
                advance=advance,
            )
            for fold in folds
        ]
        values: dict[str, torch.Tensor] = {}
        for fold, names in zip(folds, stored, strict=True):
            if fold.place.layer in tracks.changes:
                matrix = fold.place.matrix(tracks.layers) + tracks.changes.pop(fold.place.layer)[1]
                fold.place.write(tracks.layers, matrix)  # as it will be stored, rounding included
                values |= tensors_of(fold.place, matrix, names)
        measure("after", pruned=True)
    return losses, tried, values


def _won_back(full: float, before: float, after: float) -> float | None:
    """Share of the cut's loss that the patch wins back; None where the cut lost nothing."""
    return (before - after) / (before - full) if before > full else None


def _origin(lineage: Lineage) -> dict[str, Any]:
    from prune.checkpoint.identity import base_identity

    plan = lineage.plan
    return {
        "base": base_identity(lineage.pruned),
        "teacher": {"model": lineage.full.name, "commit": lineage.full.commit, **plan.identity},
        "cut": plan.words,
    }


def _refuse_worse(document: dict[str, Any]) -> None:
    loss, folds = document["held_out_loss"], document["folds"]
    if any(fold["chosen"] for fold in folds) and loss["after"] < loss["before"]:
        return
    tried = [candidate for fold in folds for candidate in fold["candidates"]]
    best = min(tried, key=lambda candidate: float(candidate["loss"]))
    raise RegrowthError(
        f"no patch is better than none, so nothing is written: the best of {len(tried)} ({candidate_words(best)}) has "
        f"a loss of {best['loss']:.4f} on text apart, where no patch has {folds[0]['loss_without']:.4f}; on held-out "
        f"text {loss['after']:.4f} against {loss['before']:.4f} nats per token; try more --tokens, or heal distill"
    )


def _spare(wanted: int, length: int) -> int:
    """How many rows are set apart for the choice beside so many that are fitted."""
    return max(1, min(CHOICE_TOKENS // length, wanted // 4))


def _check_enough(text: TextSource, found: int, wanted: int, length: int) -> None:
    """Refuse text that ends early, and name what --tokens it does suffice for: the choice takes some of it."""
    spare = _spare(wanted, length)
    if found >= wanted + spare:
        return
    fits = next((rows for rows in range(found, 0, -1) if rows + _spare(rows, length) <= found), 0)
    raise TextError(
        f"{' and '.join(text.sources)} ends after {found * length} of {(wanted + spare) * length} tokens "
        f"({spare * length} of them to choose by); add text, or "
        + (f"ask for --tokens {fits * length} or fewer" if fits else "lower --length")
    )


def _check(settings: PatchSettings) -> None:
    from heal.patching.least_squares import OBJECTIVES

    for name, value, known in (
        ("objective", settings.objective, OBJECTIVES),
        ("kind", settings.kind, KINDS),
    ):
        if value not in ("auto", *known):
            raise UsageError(f"--{name} {value} is unknown; take auto, {', '.join(known)}")
    check_seed(settings.seed)
    if settings.ridge is not None and not 0 <= settings.ridge < float("inf"):
        raise UsageError(f"--ridge {settings.ridge} is not at least 0")
    for name, number, least in (("length", settings.length, 8), ("batch-size", settings.batch_size, 1)):
        if number < least:
            raise UsageError(f"--{name} {number} is too small; it is at least {least}")


def _check_blocks(blocks: Sequence[tuple[int, int]], lineage: Lineage) -> None:
    if blocks[0][0] == 0:
        raise RegrowthError(
            f"{lineage.pruned.name} lacks layers {spell_layers(lineage.plan.dropped)}: no layer stands before the cut, "
            "so nothing can take a fold; heal it with heal distill"
        )


def _check_apart(out: Path, lineage: Lineage) -> None:
    if out.exists() and out.resolve() in (lineage.pruned.folder.resolve(), lineage.full.folder.resolve()):
        raise RegrowthError(f"--out {out} is what the patch reads; name another folder")
