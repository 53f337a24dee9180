"""The finalists of a check, each healed by a few thousand tokens before one is taken.

A check ranks cuts as they are. Healing does not help them all alike, and the ranking may turn: what is written here is
the finalist of least held-out loss once it was healed.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from heal.choosing.record import FINALISTS, FINALISTS_FILE, TOKENS, Finalists, HealedFinalist
from heal.defaults import measured_tokens
from heal.lineage import Lineage, trace
from heal.settings import DistillSettings, TrainingRun
from heal.text.sources import TextSource
from heal.training.distill import distill
from heal.training.stopping import DivergedError
from prune.checkpoint.identity import base_identity
from prune.choosing.settings import CutSettings
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.outputs import check_apart, free_folder, staged_directory
from prune.common.files.provenance import provenance
from prune.common.files.resume import Unfinished
from prune.common.layers import spell_layers
from prune.common.machine.processes import rank_and_world
from prune.common.machine.stopping import Interrupted
from prune.common.screen.terminal import screen
from prune.common.sizes import parse_tokens
from prune.cutting.cut import cut
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.cutting.planning import plan_cut


@checks_arguments
def choose_healed(
    model: str | Path,
    teacher: str | Path | None,
    text: TextSource | str,
    out: str | Path,
    *,
    finalists: int = FINALISTS,
    settings: DistillSettings | None = None,
    run: TrainingRun | None = None,
) -> Finalists:
    """Heal each finalist of a cut's check alike, and write the cut of the best to `out`, an ordinary pruned model.

    The healing is that of `heal distill`. Its adapters are thrown away; `out` also holds finalists.json. One finalist
    is in memory and on the disk at a time. With `run.resume` the finalists that are done are not healed again.

    Args:
        model: what `prune cut --check` wrote; its prune_plan.json names the finalists.
        teacher: the full model; where the plan says it was, if None.
        text: what to heal and measure on.
        finalists: how many at most, those of least KL first.

    Raises:
        UsageError: the cut was not checked, fewer than one finalist, or several processes.
        CheckpointError, TextError, RegrowthError: see `heal.training.distill.distill`.
    """
    from heal.models.quantise import compute_dtype
    from prune.models.loading import pick_device

    settings, run = settings or DistillSettings(), run or TrainingRun(tokens=TOKENS)
    out = free_folder(out, overwrite=run.overwrite)
    if rank_and_world()[1] > 1:
        raise UsageError("heal finalists runs in one process; start it without a launcher")
    text = TextSource(text) if isinstance(text, str) else text
    check_apart(out, model, teacher, *text.files_read, *settings.files_read)
    lineage = trace(model, teacher, revision=run.revision, untouched="give the model as prune cut left it")
    check_apart(out, lineage.full.folder)
    rivals = _rivals(lineage, finalists)
    tokens, device = parse_tokens(run.tokens), pick_device(run.device)
    unfinished = Unfinished.beside(out, resume=run.resume, overwrite=run.overwrite)
    facts = {
        "model": base_identity(lineage.full), "finalists": [rival["dropped"] for rival in rivals],
        "tokens": tokens, "settings": asdict(settings), "text": text.identity(),
        # losses that are compared are measured alike
        "held_out_tokens": measured_tokens(tokens) if text.held_out_tokens is None else text.limit,
        "device": device.partition(":")[0],
        "dtype": str(compute_dtype(settings.dtype, device=device)).removeprefix("torch."),
    }  # fmt: skip
    done: list[HealedFinalist] = unfinished.read(facts, _restore) or []
    alike = replace(run, resume=False, overwrite=False, revision=None)
    with staged_directory(out, overwrite=run.overwrite) as stage:
        for number, rival in enumerate(rivals[len(done) :], start=len(done) + 1):
            if run.show_progress:
                screen().print(f"Finalist {number} of {len(rivals)}: without layers {spell_layers(rival['dropped'])}")
            with _as_finalist(number, len(rivals)):
                done.append(_heal(lineage, rival, text, stage / "trial", settings, alike, alone=len(rivals) == 1))
            unfinished.write([one.model_dump(mode="json") for one in done], {})
        record = Finalists(
            model=lineage.full.name,
            finalists=tuple(done),
            checked=done[0].dropped,
            chosen=_best(done).dropped,
            tokens=tokens,
            settings=asdict(settings),
            provenance=provenance(**text.identity()),
        )
        written = cut(_plan(lineage, record), stage / "trial" / out.name, show_progress=run.show_progress)
        for path in written.iterdir():
            path.rename(stage / path.name)
        shutil.rmtree(stage / "trial")
        record.write(stage / FINALISTS_FILE)
    unfinished.clear()
    return record


def _rivals(lineage: Lineage, most: int) -> list[dict[str, Any]]:
    """The finalists of the check as the plan has them, the one of least KL first."""
    if most < 1:
        raise UsageError(f"--finalists {most} is not at least 1")
    check = lineage.plan.evidence.get("check")
    if not check:
        raise UsageError(
            f"{lineage.pruned.name}/{PLAN_FILE} has no check, so there are no finalists to heal; cut with --check 3"
        )
    return list(check["finalists"][:most])


def _best(done: Sequence[HealedFinalist]) -> HealedFinalist:
    """The one of least loss after its healing; of one alone, that one."""
    return min(done, key=lambda one: math.inf if one.after is None else one.after)


@contextmanager
def _as_finalist(number: int, total: int) -> Iterator[None]:
    """A trial's checkpoints go with it: a run that stops in it must not point to them."""
    try:
        yield
    except Interrupted as stopped:
        raise Interrupted(
            f"stopped in finalist {number} of {total}; those before it are kept: the same command with --resume goes "
            "on with this one",
            stopped.exit_code - 128,
        ) from None
    except DivergedError as error:
        raise RegrowthError(f"finalist {number} of {total}: {error.what}") from None


def _restore(state: Any, _arrays: Any) -> list[HealedFinalist]:
    return [HealedFinalist.model_validate_json(json.dumps(one)) for one in state]


def _heal(
    lineage: Lineage,
    rival: dict[str, Any],
    text: TextSource,
    folder: Path,
    settings: DistillSettings,
    run: TrainingRun,
    *,
    alone: bool,
) -> HealedFinalist:
    """One finalist: cut, healed, measured, and thrown away. One that has no rival is taken as it is."""
    told = {key: rival[key] for key in ("kl", "kl_stderr")}
    dropped = tuple(rival["dropped"])
    if alone:
        return HealedFinalist(dropped=dropped, **told)
    full = lineage.full.name
    pruned = cut(_cut_plan(lineage, dropped), folder / "cut", show_progress=False)
    healed = distill(pruned, full, text, folder / "adapter", settings=settings, run=run, compare=False)
    shutil.rmtree(folder)
    return HealedFinalist(dropped=dropped, **told, before=healed.before, after=healed.after)


def _cut_plan(lineage: Lineage, dropped: Sequence[int]) -> CutPlan:
    plan = lineage.plan
    settings = CutSettings(
        revision=lineage.full.commit, allow_last=plan.layers - 1 in dropped, trust_remote_code=plan.carry_code
    )
    return plan_cut(lineage.full.name, layers=list(dropped), settings=settings)


def _plan(lineage: Lineage, record: Finalists) -> CutPlan:
    """The plan of the cut that is taken, with what it was chosen by."""
    before = lineage.plan
    evidence = {"finalists": record.words(), **before.evidence}
    if record.changed:  # these were said of the check's choice
        evidence = {name: value for name, value in evidence.items() if name not in ("angular_distance", "influence")}
    plan = _cut_plan(lineage, record.chosen)
    return plan.model_copy(update={"criterion": before.criterion, "evidence": evidence})
