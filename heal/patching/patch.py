"""The closed-form patch: what a cut took, won back by least squares and folded into the projection before the cut.

No training and no new module: the last projection before a dropped block is changed so that the state which enters the
cut comes as near as a linear map can bring it to the state that left the block. Of the ways to measure "near" the one
is kept whose patch has the least loss on text apart, and none that is worse than no patch is ever handed back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from heal.cards import candidate_words
from heal.patching.passing import NoPatchError
from heal.result import FoldRecord, HealRecord, HealResult, HeldOutLoss, HeldOutText
from heal.settings import CHOICE_TOKENS, PatchRun, PatchSettings, check_length, check_seed
from heal.text.sources import HELD_OUT_SHARE, TextSource, hold_out, row_stream
from prune.checkpoint.identity import base_identity
from prune.common.checked import checks_arguments
from prune.common.errors import TextError, UsageError
from prune.common.files.outputs import check_apart, free_folder, staged_directory
from prune.common.files.provenance import provenance
from prune.common.layers import runs, spell_layers
from prune.common.machine.memory import peak_memory
from prune.common.screen.terminal import progress, quiet_libraries, screen
from prune.common.sizes import parse_tokens
from prune.models.loading import load_model, load_tokenizer, pick_device
from prune.models.precision import pick_dtype

if TYPE_CHECKING:
    import torch

    from heal.lineage import Lineage
    from heal.patching.from_files import FromFiles
    from heal.patching.side_by_side import PatchText, SideBySide
    from heal.patching.solve import Fold

KINDS = ("matrix", "map")


@checks_arguments
def patch(
    model: str | Path,
    teacher: str | Path | None,
    text: TextSource | str,
    out: str | Path,
    *,
    settings: PatchSettings | None = None,
    run: PatchRun | None = None,
) -> HealResult:
    """Patch a cut in closed form and write an ordinary checkpoint: one projection a block differs from the cut's.

    One model is in memory: the full one, whose dropped layers are passed over to have the pruned one. Where it does not
    fit it is run layer by layer from its files, to the same numbers.

    Args:
        model: the pruned model, with its prune_plan.json; not healed yet.
        teacher: the full model; where prune_plan.json says it was, if None.
        text: what to fit on; a string is a SOURCE with the field `text`.
        out: folder of the patched model; appears whole or not at all.

    Raises:
        UsageError: settings that do not exist or do not fit.
        CheckpointError: no plan, a teacher that is not the source of the cut, or a model healed since.
        TextError: text that is missing, too short, or leaves nothing held out.
        NoPatchError: the cut or the family takes no fold, or no patch is better than none.
        RegrowthError: `out` exists.
    """
    plan = _plan(model, teacher, text, Path(out), settings or PatchSettings(), run or PatchRun())
    lineage, settings, run = plan.lineage, plan.settings, plan.run
    tokenizer = load_tokenizer(lineage.pruned)
    with progress("Reading text", None, shown=run.show_progress):
        measured = hold_out(plan.text, tokenizer, length=settings.length)
        stream = row_stream(plan.text, tokenizer, measured, length=settings.length, seed=settings.seed)
        rows = stream.take(plan.fitted + plan.spare)
        _check_enough(plan.text, len(rows), plan.fitted, settings.length)
    from heal.patching.side_by_side import PatchText
    from heal.patching.solve import find_folds
    from heal.patching.writing import stored_names, write_patched

    models = _open(lineage, run)
    folds = find_folds(models, plan.blocks, rows[0])
    stored = [stored_names(models, lineage, fold.place) for fold in folds]
    started = time.monotonic()
    solved = _solve(models, folds, stored, PatchText(rows[: plan.fitted], rows[plan.fitted :], measured.rows), plan)
    _refuse_worse(solved)
    record = HealRecord(
        method="patch",
        tokens=plan.fitted * settings.length,
        choice_tokens=plan.spare * settings.length,
        settings=asdict(settings),
        folds=solved.folds,
        held_out_loss=solved.losses,
        won_back=_won_back(solved.losses),
        seconds=time.monotonic() - started,
        peak_memory=peak_memory(run.device),
        base=base_identity(lineage.pruned),
        teacher={"model": lineage.full.name, "commit": lineage.full.commit, **lineage.plan.identity},
        cut=lineage.plan.words,
        held_out=HeldOutText(
            tokens=sum(row.targets for row in measured.rows), share=None if plan.text.held_out else 1 / HELD_OUT_SHARE
        ),
        loss_on=plan.text.loss_on if stream.chats else None,
        provenance=provenance(
            device=run.device, dtype=str(models.dtype).removeprefix("torch."), **plan.text.identity()
        ),
    )
    with staged_directory(plan.out, overwrite=run.overwrite) as stage:
        write_patched(lineage, stage, solved.values, record)
    return HealResult(plan.out, record)


def _open(lineage: Lineage, run: PatchRun) -> SideBySide | FromFiles:
    """The full model and the pruned one, loaded, or where they do not fit to be run from the full one's files."""
    from heal.models.from_files import layer_files
    from heal.patching.from_files import FromFiles
    from heal.patching.side_by_side import SideBySide

    dtype = pick_dtype(run.dtype, device=run.device)
    if files := layer_files(lineage.full, dtype, run.device, run.max_memory):
        if run.show_progress:
            screen().print("The weights do not fit in memory: running the full model layer by layer from its files.")
        return FromFiles(files, lineage.plan.dropped)
    return SideBySide(load_model(lineage.full, dtype=dtype, device=run.device), lineage.plan.dropped)


@dataclass(frozen=True)
class _PatchPlan:
    """What a patch will do; nothing is loaded yet.

    Attributes:
        blocks: start (0-based) and size of each run of dropped layers, from the bottom.
        fitted: rows to fit.
        spare: rows to choose by.
        run: its device settled.
    """

    lineage: Lineage
    blocks: list[tuple[int, int]]
    text: TextSource
    out: Path
    settings: PatchSettings
    fitted: int
    spare: int
    run: PatchRun


@dataclass(frozen=True)
class _Solution:
    """Held-out losses, what was tried at each fold, and the tensors that change, by name."""

    losses: HeldOutLoss
    folds: tuple[FoldRecord, ...]
    values: dict[str, torch.Tensor]


def _plan(
    model: str | Path,
    teacher: str | Path | None,
    text: TextSource | str,
    out: Path,
    settings: PatchSettings,
    run: PatchRun,
) -> _PatchPlan:
    """Settle it, and refuse what cannot be done before anything that takes long. See `patch`."""
    text = TextSource(text) if isinstance(text, str) else text
    text.check()
    _check(settings)
    fitted = parse_tokens(run.tokens) // settings.length
    if not fitted:
        raise UsageError(f"--tokens {run.tokens} is less than one row of {settings.length} tokens; ask for more")
    free_folder(out, overwrite=run.overwrite)
    check_apart(out, model, teacher, *text.files_read)
    quiet_libraries()
    run = replace(run, device=pick_device(run.device))

    from heal.lineage import trace
    from prune.models.loading import read_config

    lineage = trace(model, teacher, revision=run.revision, untouched="a patch is solved for a cut as prune cut left it")
    check_apart(out, lineage.full.folder)
    blocks = runs(lineage.plan.dropped)
    if blocks[0][0] == 0:
        raise NoPatchError(
            f"{lineage.pruned.name} lacks layers {spell_layers(lineage.plan.dropped)}: no layer stands before the cut, "
            "so nothing can take a fold; heal it with heal distill"
        )
    check_length(read_config(lineage.full.folder, lineage.full.name), settings.length)
    return _PatchPlan(lineage, blocks, text, out, settings, fitted, _spare(fitted, settings.length), run)


def _solve(
    models: SideBySide | FromFiles,
    folds: Sequence[Fold],
    stored: Sequence[list[str]],
    text: PatchText,
    plan: _PatchPlan,
) -> _Solution:
    """Solve the folds from the bottom, each with those below it in place, and measure."""
    from heal.patching.solve import most_rows, solve_fold
    from heal.patching.writing import changed_matrix, tensors_of

    settings, size = plan.settings, plan.settings.batch_size
    with progress("Patching (rows run)", most_rows(settings, len(folds), text), shown=plan.run.show_progress) as bar:

        def advance(count: int, words: str) -> None:
            bar.advance(count)
            bar.note(words)

        full, before = models.losses(text.held_out, size)
        advance(2 * len(text.held_out), f"held-out loss full: {full:.3f}, before: {before:.3f}")
        records: list[FoldRecord] = []
        for fold, names in zip(folds, stored, strict=True):
            solved = solve_fold(models, fold, text, settings, advance)
            records.append(solved.record(fold, names))
            if solved.change is not None:
                models.changes[fold.place.layer] = (fold.place, solved.change)
        values: dict[str, torch.Tensor] = {}
        written = []
        for fold, names in zip(folds, stored, strict=True):
            if change := models.changes.pop(fold.place.layer, None):
                matrix = changed_matrix(plan.lineage.checkpoint, fold.place, change[1], names)
                written.append((fold.place, matrix))
                values |= tensors_of(fold.place, matrix, names)
        after = models.loss_written(written, text.held_out, size)
        advance(len(text.held_out), f"held-out loss after: {after:.3f}")
    return _Solution(HeldOutLoss(full=full, before=before, after=after), tuple(records), values)


def _won_back(losses: HeldOutLoss) -> float | None:
    """Share of the cut's loss that the patch wins back; None where the cut lost nothing."""
    full, before = losses.full, losses.before
    return (before - losses.after) / (before - full) if full is not None and before > full else None


def _refuse_worse(solved: _Solution) -> None:
    losses, folds = solved.losses, solved.folds
    if any(fold.chosen for fold in folds) and losses.after < losses.before:
        return
    tried = [candidate for fold in folds for candidate in fold.candidates]
    best = min(tried, key=lambda candidate: candidate.loss)
    raise NoPatchError(
        f"no patch is better than none, so nothing is written: the best of {len(tried)} ({candidate_words(best)}) has "
        f"a loss of {best.loss:.4f} on text apart, where no patch has {folds[0].loss_without:.4f}; on held-out "
        f"text {losses.after:.4f} against {losses.before:.4f} nats per token; try more --tokens, or heal distill"
    )


def _spare(wanted: int, length: int) -> int:
    """How many rows are set apart for the choice beside so many that are fitted."""
    return max(1, min(CHOICE_TOKENS // length, wanted // 4))


def _check_enough(text: TextSource, rows: int, wanted: int, length: int) -> None:
    """Refuse text that ends early, and name what --tokens it does suffice for: the choice takes some of it."""
    spare = _spare(wanted, length)
    if rows >= wanted + spare:
        return
    fits = next((fewer for fewer in range(rows, 0, -1) if fewer + _spare(fewer, length) <= rows), 0)
    raise TextError(
        f"{' and '.join(text.sources)} ends after {rows * length} of {(wanted + spare) * length} tokens "
        f"({spare * length} of them to choose by); add text, or "
        + (f"ask for --tokens {fits * length} or fewer" if fits else "lower --length")
    )


def _check(settings: PatchSettings) -> None:
    from heal.patching.least_squares import OBJECTIVES

    for name, value, known in (("objective", settings.objective, OBJECTIVES), ("kind", settings.kind, KINDS)):
        if value not in ("auto", *known):
            raise UsageError(f"--{name} {value} is unknown; use auto, {', '.join(known)}")
    check_seed(settings.seed)
    if settings.ridge is not None and not 0 <= settings.ridge < float("inf"):
        raise UsageError(f"--ridge {settings.ridge} is not at least 0")
    for name, number, least in (("length", settings.length, 8), ("batch-size", settings.batch_size, 1)):
        if number < least:
            raise UsageError(f"--{name} {number} is too small; it is at least {least}")
