"""`evaluate compare`: the same questions to the full model and to others, and the bill with its error bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.asking.backends import check_backend, device_of
from eval.asking.tasks import TaskPlan, hash_examples, hash_questions, plan_tasks, prompts_of
from eval.billing.artefacts import ComparedModel, Comparison, ModelEffort
from eval.billing.document import is_stored, read_run, warn
from eval.billing.judging.policy import Measured, Policy, check_policy, policy_of
from eval.billing.judging.verdict import judge
from eval.billing.noise import mark_needles, mark_prose, mark_rows, mark_thinking, measure_noise
from eval.billing.rows.bill import bill, bill_nf4, bill_prose, corrected
from eval.billing.rows.interactions import bill_interactions, bill_thinking_interactions
from eval.billing.rows.needles import bill_needles, check_needles
from eval.billing.rows.tasks import bill_tasks
from eval.billing.rows.thinking import bill_thinking, thinking_pairs
from eval.gains.measure import measure_gains
from eval.gains.plan import plan_gains
from eval.gains.record import Gains
from eval.gains.settings import GainsSettings
from eval.reports.figures import write_comparison_figures
from eval.reports.flips import read_flips
from eval.reports.page import read_sweep, render
from eval.reports.terminal import markdown
from eval.runs.again import Again, second_settings
from eval.runs.files import harness_results, write_samples
from eval.runs.needles import draw_needles
from eval.runs.run import name_of, run
from eval.runs.samples import RunResult
from eval.settings import ComparisonSettings, Settings, named_texts, settings_of
from prune.checkpoint.source import locate
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError, UsageError, first_line
from prune.common.files.outputs import check_apart, free_folder, staged_directory, write_json, write_text
from prune.common.files.provenance import file_sha256, provenance
from prune.common.machine.memory import give_back
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.common.screen.terminal import quiet_libraries
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.models.loading import load_tokenizer
from prune.models.precision import pick_dtype
from prune.models.whole import check_stored
from prune.text.chats import wants_chat
from prune.text.windows import text_identity

_LONGEST_LABEL = 100  # bytes; it is a part of file names


@checks_arguments
def compare(
    full: str | Path,
    others: Sequence[str | Path],
    settings: ComparisonSettings | None = None,
    *,
    out: str | Path,
    gains: GainsSettings | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
    **options: Any,
) -> Comparison:
    """Run each model on the same questions, one after the other, and write the bill to the folder `out`.

    `out` appears whole or not at all: results.json, samples_<model>_<task>.jsonl, comparison.json, comparison.md,
    report.html, and figures as .svg. `settings` may be given by their fields, as `options`. A model may also
    be a folder that `evaluate run --out` made: its answers are taken from there. With `gains`, what each model takes
    and how fast it is are measured too. The command does that if not told otherwise; here it is off if not asked for,
    while the noise floor is on in both.

    Raises:
        UsageError: no other model, labels that do not fit, an unknown domain.
        RegrowthError: anything that `run` raises; models that were not asked the same questions in the same words.
    """
    settings = settings_of(ComparisonSettings, settings, options)
    models = [full, *others]
    if len(models) < 2:
        raise UsageError("compare needs the full model and one other at least")
    names = unique_labels(models, settings.labels)
    out = free_folder(out, overwrite=overwrite)
    check_apart(out, *models, *settings.files_read)
    policy = policy_of(settings.max_loss, settings.policy)
    if settings.sweep is not None:
        read_sweep(settings.sweep)
    stored = {name: read_run(m, label=name) for m, name in zip(models, names, strict=True) if is_stored(m)}
    new = [model for model, name in zip(models, names, strict=True) if name not in stored]
    if settings.max_loss and not (stored[names[0]].tasks if names[0] in stored else settings.domains):
        raise UsageError("--max-loss judges the accuracy in our domains, and none is asked; add --domains and --data")
    _check_noise(settings, finished=names[0] in stored)
    plans = plan_tasks(settings) if new else []
    if policy is not None and settings.policy is not None:
        check_policy(policy, settings.policy, _measured(stored.get(names[0]), plans, settings, gains))
    check_asked({name: stored[name].tasks if name in stored else plans for name in names})
    own = prompts_of(settings) if new else None
    asked_now = None if own is None else own.sha256
    check_prompts({name: stored[name].settings.get("prompts") if name in stored else asked_now for name in names})
    if new:  # all inputs are checked before the first run
        settings = settings.with_chat(_check_models(new, settings, stored.values()))
    check_needles(
        {
            name: stored[name].needles_sha256 if name in stored else _trials_sha256(model, settings)
            for model, name in zip(models, names, strict=True)
        }
    )
    planned = None if gains is None else plan_gains(dict(zip(names, models, strict=True)), stored, settings, gains)
    runs = [
        stored[name]
        if name in stored
        else run(model, settings, label=name, own_loss=name == names[0], show_progress=show_progress)
        for model, name in zip(models, names, strict=True)
    ]
    again, missed = None, None
    if settings.noise and names[0] in stored:
        missed = "no noise floor: it is a finished run, which is not asked again" if runs[0].tasks else None
    elif settings.noise and settings.domains:
        again, missed = _ask_again(full, settings, runs[0], show_progress=show_progress)
    texts = named_texts(settings.texts)
    identities = {name: text_identity(source, settings.field) for name, source in texts.items()} if new else {}
    comparison = bill_runs(
        runs if missed is None else [replace(runs[0], notes=(*runs[0].notes, missed)), *runs[1:]],
        policy,
        again=again,
        gains=None if planned is None else measure_gains(planned, show_progress=show_progress),
        questions={**hash_questions(settings), **hash_examples(plans, settings.data)} if new else {},
        text=next(iter(identities.values())) if len(identities) == 1 else identities or None,
        limit=settings.limit,
        seed=settings.seed,
        sets=None if settings.sets is None else list(settings.sets),
    )
    write_comparison(comparison, runs, out, sweep=settings.sweep, overwrite=overwrite)
    return comparison


def _check_models(models: Sequence[str | Path], settings: ComparisonSettings, stored: Iterable[RunResult]) -> bool:
    """Find all models that are asked now, with their tokenizers; whether they are asked through a chat template.

    The first model, the full one, decides for all; where runs are given, their prompts do. Where NF4 is asked for, it
    must be possible for each.
    """
    check_backend(settings)
    _check_noise_dtype(settings)
    quiet_libraries()
    for result in stored:
        if settings.chat_template == "auto":
            settings = settings.with_chat(bool(result.settings["chat_template"]))
    sources = [locate(model) for model in models]
    if settings.load_in_4bit:
        for source in sources:
            check_stored(source)
    return same_chat(models, [load_tokenizer(source) for source in sources], settings)


def _check_noise(settings: ComparisonSettings, *, finished: bool) -> None:
    """Refuse options of the noise floor where there is none; `finished`: FULL is a finished run."""
    if settings.noise_options and (finished or not settings.domains):
        why = "FULL is a finished run, which is not asked again" if finished else "no domain is asked"
        raise UsageError(f"{settings.noise_options[0]} is of the noise floor, and {why}; leave it out")


def _check_noise_dtype(settings: ComparisonSettings) -> None:
    if settings.noise_dtype is not None:
        try:
            pick_dtype(settings.noise_dtype, device=device_of(settings))
        except RegrowthError as error:
            raise UsageError(str(error).replace("--dtype", "--noise-dtype")) from None


def _ask_again(
    full: str | Path, settings: ComparisonSettings, first: RunResult, *, show_progress: bool
) -> tuple[RunResult | None, str | None]:
    """The full model's answers to a part of the questions, asked a second time; or None, and why not.

    All models are asked by then, and what they answered is not thrown away for this.
    """
    often, again = second_settings(settings, first), Again(trials=settings.noise_limit)
    label = f"{first.label} again"
    try:
        return run(full, often, label=label, own_loss=False, again=again, show_progress=show_progress), None
    except (RegrowthError, MemoryError, RuntimeError) as error:
        if not isinstance(error, RegrowthError) and not is_out_of_memory(error):
            raise
        missed = "out of memory" if is_out_of_memory(error) else first_line(error)
    give_back()
    return None, f"the noise floor could not be measured ({missed})"


def _measured(
    full: RunResult | None, plans: Sequence[TaskPlan], settings: Settings, gains: GainsSettings | None
) -> Measured:
    """What is measured of all models, as the full one settles it: by its finished run, or by what is asked now."""
    tasks = plans if full is None else full.tasks
    return Measured(
        domains=tuple(dict.fromkeys(task.domain for task in tasks if task.thinking is None)),
        both_modes=bool(thinking_pairs(tasks)),
        needles=settings.needles if full is None else full.needles is not None,
        prose=bool(settings.texts if full is None else full.prose),
        gains=gains is not None and gains.gains,
    )


def _trials_sha256(model: str | Path, settings: Settings) -> str | None:
    """SHA-256 of the needle trials that a model will be asked; None for none."""
    if not settings.needles:
        return None
    source = locate(model)
    return draw_needles(settings, load_tokenizer(source), source, chat=settings.chat_template == "on").sha256


def check_asked(asked: Mapping[str, Sequence[TaskPlan]]) -> None:
    """Refuse models that were not asked what the first, the full one, was; `asked`: label -> its tasks."""
    (first, wanted), *others = asked.items()
    for label, tasks in others:
        if missing := {task.name: task for task in wanted}.keys() - {task.name for task in tasks}:
            raise RegrowthError(
                f"not paired: {label} was not asked {sorted(missing)[0].removeprefix('regrowth_')}, and {first} was; "
                "ask both the same --domains and --thinking"
            )


def check_prompts(asked: Mapping[str, str | None]) -> None:
    """Refuse models whose thinking was not asked for in the same prompts; `asked`: label -> their hash, if any."""
    (first, wanted), *others = asked.items()
    for label, prompts in others:
        if prompts != wanted:
            raise RegrowthError(
                f"not paired: {label} was asked in the prompts of {_prompts(prompts)}, and {first} in those of "
                f"{_prompts(wanted)}; ask both with the same --prompts"
            )


def _prompts(sha256: str | None) -> str:
    return "Regrowth" if sha256 is None else f"a file (SHA-256 {sha256[:8]}...)"


def same_chat(models: Sequence[str | Path], tokenizers: Sequence[Any], settings: Settings) -> bool:
    """Whether all models are asked through a chat template, as the first one's tokenizer decides where it is `auto`."""
    if not wants_chat(settings.chat_template, tokenizers[0], str(models[0])):
        return False
    prompts = [_probe(tokenizer) for tokenizer in tokenizers]
    for model, prompt in zip(models, prompts, strict=True):
        if prompt != prompts[0]:
            what = "has no chat template, but" if prompt is None else "writes a chat in other words than"
            raise RegrowthError(
                f"not paired: the tokenizer of {model} {what} that of {models[0]}"
                f"{' has one' if prompt is None else ''}; --chat-template off asks all in plain text"
            )
    return True


def _probe(tokenizer: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    chat.append({"role": "user", "content": "three"})
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def bill_runs(
    runs: Sequence[RunResult],
    policy: Policy | None = None,
    *,
    again: RunResult | None = None,
    gains: Gains | None = None,
    **facts: Any,
) -> Comparison:
    """Pair every run with the first (the full model) and sum up; `policy` gives the verdict, `facts` the provenance.

    `again`: the full model asked a second time, from which the noise floor is measured.
    Everything but `gains`, `measured` and `provenance` follows from the answers alone.
    """
    full = runs[0]
    plain = [task for task in full.tasks if task.thinking is None]
    billed = [bill(t, r.label, r.of(t), None if r is full else full.of(t)) for t in plain for r in runs]
    noise = None if again is None else measure_noise(full, again)
    rows = tuple(mark_rows(corrected(billed), noise))
    if missing := [r.label for r in runs if set(r.prose) != set(full.prose)]:
        raise RegrowthError(f"not paired: {missing[0]} was not measured on the prose that {full.label} was")
    losses = [
        bill_prose(r.label, name, r.prose[name], None if r is full else full.prose[name])
        for name in full.prose
        for r in runs
    ]
    prose, needles = tuple(mark_prose(losses, noise)), tuple(mark_needles(bill_needles(runs), noise))
    thinking = tuple(mark_thinking(bill_thinking(runs), noise))
    verdict = None
    if policy is not None:
        others = [r.label for r in runs[1:]]
        verdict = judge(rows, policy, thinking=thinking, needles=needles, prose=prose, gains=gains, models=others)
    return Comparison(
        models=tuple(_compared(run) for run in runs),
        gains=gains,
        noise=noise,
        rows=rows,
        prose=prose,
        nf4_loss=bill_nf4(full.label, full.prose, full.stored_prose),
        needles=needles,
        thinking=thinking,
        thinking_interactions=tuple(bill_thinking_interactions(thinking, runs)),
        interactions=tuple(bill_interactions(rows, runs)),
        tasks=tuple(bill_tasks(runs)),
        verdict=verdict,
        warnings=warn(rows, thinking, runs),
        truncated={r.label: r.truncated for r in runs},
        measured=tuple(ModelEffort.of(r, model=r.label) for r in runs),
        provenance=provenance(**facts),
    )


def _compared(run: RunResult) -> ComparedModel:
    return ComparedModel(
        label=run.label, **run.identity, dropped=dropped_layers(run.identity), settings=run.settings, notes=run.notes
    )


def dropped_layers(identity: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The layers that the plan in a model's folder says are gone; None without one, or where it is of another model.

    A run that finished earlier names its folder as it was called then; by now another model may stand there.
    """
    folder = Path(identity["model"])
    if not (folder / PLAN_FILE).is_file() or file_sha256(folder / "config.json") != identity.get("config_sha256"):
        return None
    return CutPlan.read(folder / PLAN_FILE).dropped


def unique_labels(models: Sequence[str | Path], labels: Sequence[str] | None = None) -> list[str]:
    """Names for the models: as given, else their folders' names, numbered where two are alike."""
    if labels is not None:
        labels = [label.strip() for label in labels]
        if len(labels) != len(models):
            raise UsageError(f"--labels names {len(labels)} models, but there are {len(models)}")
        if len(set(labels)) < len(labels) or not all(label and "/" not in label for label in labels):
            raise UsageError("--labels must be unlike each other, not empty and without a slash")
        if long := [label for label in labels if len(label.encode()) > _LONGEST_LABEL]:
            raise UsageError(
                f"--labels: {long[0][:20]}... is too long for a file's name; {_LONGEST_LABEL} bytes at most"
            )
        return labels
    names: list[str] = []
    for model in models:
        base, number = name_of(model), 2
        name = base
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def write_comparison(
    comparison: Comparison,
    runs: Sequence[RunResult],
    out: str | Path,
    *,
    sweep: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write all files of a comparison into a staged folder, which then becomes `out`; `sweep`: a folder to show too."""
    document = comparison.to_json()
    with staged_directory(out, overwrite=overwrite) as stage:
        write_json(stage / "results.json", harness_results(runs))
        write_samples(runs, stage)
        comparison.write(stage / "comparison.json")
        write_text(stage / "comparison.md", markdown(document))
        write_comparison_figures(document, stage)
        shown = None if sweep is None else read_sweep(sweep)
        write_text(stage / "report.html", render(document, shown, read_flips(stage, document)))
