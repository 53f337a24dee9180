"""`evaluate compare --from-lm-eval`: the bill of runs that lm-eval made and logged. No model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.billing.artefacts import Comparison
from eval.billing.judging.policy import Measured, check_policy, policy_of
from eval.comparison import bill_runs, unique_labels, write_comparison
from eval.foreign.domains import read_mapping, tasks_by_domain
from eval.foreign.folder import check_alike, level_hashes, read_folder
from eval.foreign.result import as_result
from eval.foreign.settings import ForeignSettings
from eval.gains.settings import GainsSettings
from eval.reports.page import read_sweep
from eval.settings import ComparisonSettings, settings_of
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError
from prune.common.files.outputs import check_apart, free_folder

_REMEDY = "--from-lm-eval bills the scores that are logged, in the domains of known tasks or --mapping; leave it out"


@checks_arguments
def compare_lm_eval(
    full: str | Path,
    others: Sequence[str | Path],
    settings: ComparisonSettings | None = None,
    foreign: ForeignSettings | None = None,
    *,
    out: str | Path,
    gains: GainsSettings | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Comparison:
    """Bill folders of plain lm-eval output against the first, as `eval.comparison.compare` bills models.

    Args:
        full, others: folders that lm-eval's --output_path made, with --log_samples.
        settings: of these count `labels`, `domains` (some of those that there are), `max_loss`, `policy` and `sweep`;
            if None, made of `options`.
        out: the folder of the bill, as of `compare`.
        gains: refused if not as it is by itself, for no model is there to be measured.

    Raises:
        UsageError: settings that ask a model, a mapping, filter or domain that is not there.
        RegrowthError: a folder that cannot be read, or folders of other tasks, versions, questions or prompts.
    """
    settings = settings_of(ComparisonSettings, settings, options)
    foreign = foreign or ForeignSettings(from_lm_eval=True)
    foreign.check(settings)
    if gains is not None and gains.changed:
        raise UsageError(
            f"{gains.changed[0]} is of models that are measured, and --from-lm-eval has none; leave it out"
        )
    if not others:
        raise UsageError("compare needs the full model's folder and one other at least")
    labels = unique_labels([full, *others], settings.labels)
    free_folder(out, overwrite=overwrite)
    check_apart(out, full, *others, *settings.files_read, *foreign.files_read)
    policy = policy_of(settings.max_loss, settings.policy)
    if settings.sweep is not None:
        read_sweep(settings.sweep)
    mapping = None if foreign.mapping is None else read_mapping(foreign.mapping)
    first, *rest = folders = level_hashes([read_folder(folder) for folder in (full, *others)])
    told = [(), *(tuple(check_alike(first, other)) for other in rest)]
    domains = tasks_by_domain(first.tasks, first.harness["group_subtasks"], mapping, foreign.mapping)
    if unknown := [name for name in settings.domains if name not in domains]:
        known = ", ".join(domains) or "none"
        raise UsageError(f"--domains {unknown[0]}: the tasks of {full} are of no such domain; there are: {known}")
    domains = {name: tasks for name, tasks in domains.items() if name in (settings.domains or domains)}
    runs = [
        as_result(
            replace(folder, notes=(*folder.notes, *notes)),
            label,
            first.tasks,
            domains,
            foreign.filter,
            first=folder is first,
        )
        for folder, notes, label in zip(folders, told, labels, strict=True)
    ]
    if settings.policy is not None and policy is not None:
        asked = tuple(dict.fromkeys(plan.domain for plan in runs[0].tasks))
        measured = Measured(asked, both_modes=False, needles=False, prose=False, gains=False, remedy=_REMEDY)
        check_policy(policy, settings.policy, measured)
    if settings.max_loss and not runs[0].tasks:
        raise UsageError("--max-loss judges domains, and the tasks are of none that is known; add --mapping")
    comparison = bill_runs(
        runs,
        policy,
        lm_eval={
            label: {"folder": folder.folder.name, "version": folder.version, "dates": list(folder.dates)}
            for label, folder in zip(labels, folders, strict=True)
        },
        limit=runs[0].settings["limit"],
        seed=runs[0].settings["seed"],
    )
    write_comparison(comparison, runs, out, sweep=settings.sweep, overwrite=overwrite)
    return comparison
