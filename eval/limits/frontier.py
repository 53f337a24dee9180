"""`evaluate frontier`: several cuts of one model, what each loses against what it gives, from stored comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.billing.artefacts import Comparison
from eval.billing.frontier import (
    Decision,
    Frontier,
    FrontierPoint,
    losses_of,
    most_in_words,
    most_within,
    on_what,
    point_of,
)
from eval.billing.judging.policy import Measured, Policy, check_policy, policy_of
from eval.billing.judging.verdict import judge
from eval.billing.noise import Noise
from eval.billing.rows.bill import DomainRow
from eval.reports.sections.frontier import frontier_markdown, write_frontier_figures
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.outputs import check_apart, free_folder, staged_directory, write_text
from prune.common.files.provenance import provenance

FRONTIER_FILE = "frontier.json"
_DRAWN = ("limit", "seed", "sets", "few_shot")  # of a run's settings: which questions are asked, after what examples


@checks_arguments
def make_frontier(
    comparisons: Sequence[str | Path],
    *,
    out: str | Path,
    max_loss: str | None = None,
    policy: str | Path | None = None,
    overwrite: bool = False,
) -> Frontier:
    """The frontier of all models of some comparisons of one full model, in the folder `out`.

    `out` appears whole or not at all: frontier.json, frontier.md and figures as .svg.

    Args:
        comparisons: folders that `evaluate compare` made, with gains.
        max_loss: as `5%`: accuracy that a model may lose in any domain.
        policy: file of limits and gains instead. Where neither is given, the verdicts of the comparisons count.

    Raises:
        UsageError: no gains were measured, a label stands twice, a limit is no percentage, both a limit and a policy,
            or a policy of what was not measured.
        CheckpointError: no comparison, or one of another format.
        RegrowthError: the comparisons have not the same full model, or not the same questions.
    """
    out = free_folder(out, overwrite=overwrite)
    check_apart(out, *comparisons, policy)
    limits = policy_of(max_loss, policy)
    named = f"--max-loss {max_loss}" if max_loss is not None else None if policy is None else str(policy)
    read = [(Path(folder), Comparison.read(Path(folder) / "comparison.json")) for folder in comparisons]
    _check_alike(read)
    decisions = [_decisions(comparison, limits, policy) for _, comparison in read]
    named = named or ("the comparison's policy" if any(decisions) else None)
    points: dict[str, FrontierPoint] = {}
    noise: dict[str, Noise | None] = {}
    rows: list[DomainRow] = []
    for number, (folder, comparison) in enumerate(read):
        gains = comparison.gains
        if gains is None and "lm_eval" in comparison.provenance:
            raise UsageError(
                f"{folder} was made with --from-lm-eval, and such a comparison has no gains; `evaluate compare` the "
                "models themselves"
            )
        if gains is None or not gains.models:
            raise UsageError(
                f"{folder} holds no gains, so there is nothing to set losses against; compare with --gains"
            )
        full = comparison.models[0].label
        for model in comparison.models[1 if number else 0 :]:
            own = gains.of(model.label)
            if own is None or (model.label != full and own.ratio is None):
                raise UsageError(f"{folder} has no gains of {model.label}: {'; '.join(gains.notes) or 'not measured'}")
            decision = decisions[number].get(model.label)
            points[model.label] = point_of(model.label, own, model.dropped, decision)
            noise[model.label] = comparison.noise
        rows += [row for row in comparison.rows if not number or row.model != full]
    first = read[0][1]
    ordered = sorted(points.values(), key=lambda p: (p.model != first.models[0].label, -p.weight_bytes))
    most = most_within(ordered)
    assert first.gains is not None
    frontier = Frontier(
        points=tuple(ordered),
        losses=losses_of(_by_task(rows), points, noise),
        measured_on=on_what(first.gains),
        policy=named,
        most=None if most is None else most.model,
        sentence=most_in_words(ordered, named),
        provenance=provenance(comparisons=[str(folder) for folder, _ in read]),
    )
    with staged_directory(out, overwrite=overwrite) as stage:
        frontier.write(stage / FRONTIER_FILE)
        write_text(stage / "frontier.md", frontier_markdown(frontier))
        write_frontier_figures(frontier, stage)
    return frontier


def _decisions(comparison: Comparison, limits: Policy | None, file: str | Path | None) -> dict[str, Decision]:
    """What the policy says of each model, by its label; what the comparison's own said where there is none.

    A policy that was read from a `file` must limit nothing that was not measured.
    """
    if limits is None:
        verdict = comparison.verdict
    else:
        measured = Measured(
            domains=tuple(dict.fromkeys(row.domain for row in comparison.rows)),
            both_modes=bool(comparison.thinking),
            needles=bool(comparison.needles),
            prose=bool(comparison.prose),
            gains=comparison.gains is not None,
            remedy="compare again with what measures it, or leave it out",
        )
        if file is not None:
            check_policy(limits, file, measured)
        parts = {name: getattr(comparison, name) for name in ("thinking", "needles", "prose", "gains")}
        verdict = judge(comparison.rows, limits, **parts, models=[model.label for model in comparison.models[1:]])
    models = () if verdict is None else verdict.models
    return {one.model: Decision(decision=one.decision, sentence=one.sentence) for one in models}


def _check_alike(read: Sequence[tuple[Path, Comparison]]) -> None:
    """Refuse comparisons of other full models, of other questions, or with a label that stands twice."""
    if not read:
        raise UsageError("name one folder of `evaluate compare` at least")
    (first_folder, first), *others = read
    labels = [model.label for model in first.models]
    for folder, comparison in others:
        full = comparison.models[0]
        if full.content_sha256 != first.models[0].content_sha256:
            raise RegrowthError(f"{folder} compares with another full model than {first_folder}")
        if _asked(comparison) != _asked(first):
            raise RegrowthError(f"{folder} asked other questions than {first_folder}; compare all cuts on the same")
        if unlike := _drawn_otherwise(comparison, first):
            raise RegrowthError(
                f"{folder} asked other questions than {first_folder}: {unlike}; compare all cuts on the same"
            )
        labels += [model.label for model in comparison.models[1:]]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(f"two models are called {twice[0]}; tell them apart with --labels of `evaluate compare`")


def _asked(comparison: Comparison) -> set[tuple[str, str, int]]:
    full = comparison.models[0].label
    return {(row.domain, row.protocol, row.n) for row in comparison.rows if row.model == full}


def _drawn_otherwise(comparison: Comparison, first: Comparison) -> str:
    """What tells that the full model was asked other questions, in words; empty where nothing does.

    A comparison of finished runs does not know the files of its questions.
    """
    for name in _DRAWN:
        one, other = (each.models[0].settings.get(name) for each in (comparison, first))
        if one != other:
            return f"--{name.replace('_', '-')} {_shown(one)}, and not {_shown(other)}"
    files, known = (each.provenance.get("questions") or {} for each in (comparison, first))
    changed = sorted(name for name in files.keys() & known.keys() if files[name] != known[name])
    return f"{changed[0]} has another content" if changed else ""


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "the default" if value is None else str(value)


def _by_task(rows: Sequence[DomainRow]) -> list[DomainRow]:
    """Rows of several comparisons, task by task, the full model's first."""
    tasks = list(dict.fromkeys((row.domain, row.protocol) for row in rows))
    return sorted(rows, key=lambda row: (tasks.index((row.domain, row.protocol)), row.versus is not None))
