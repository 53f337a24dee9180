"""`prune heads`: needles in haystacks, the scores of all heads, and the proof by taking heads out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prune.checkpoint.identity import model_identity, work_identity
from prune.checkpoint.source import locate
from prune.choosing.heads import Ablation, Heads
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError
from prune.common.files.provenance import digest, provenance
from prune.common.files.resume import FinishedParts, Unfinished
from prune.common.screen.terminal import Progress, progress
from prune.instruments.needles import NEEDLES
from prune.instruments.settings import HeadsSettings, check_context
from prune.text.windows import named_sources, texts_identity

if TYPE_CHECKING:
    from prune.instruments.attention import Site
    from prune.instruments.detecting import Writer
    from prune.instruments.prompts import Prompter, Trial


@checks_arguments
def heads(
    model: str | Path,
    text: str | Sequence[str],
    *,
    settings: HeadsSettings | None = None,
    against: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    unfinished: Unfinished | None = None,
    show_progress: bool = True,
) -> Heads:
    """Find a model's retrieval heads, and prove them by taking them out (arXiv 2404.15574 and 2607.01002).

    Args:
        model: a model folder or a hub id.
        text: SOURCE as in `prune.text.documents`, or several: what the haystacks are made of.
        settings: the defaults if None.
        against: heads.json of the model that this one was cut from.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run Python code that comes with the model.
        unfinished: where an interrupted run has left its work, and this one keeps its own. To be cleared when the
            result is written.
        show_progress: show progress with ETA on stderr.

    Raises:
        UsageError: an option does not fit the model.
        TextError: the text is missing, or too short for the haystacks.
        CheckpointError: not a model that can be loaded, or `against` is of another model.
        RegrowthError: the model shows no attention weights, or answers no trial.
    """
    from prune.instruments.attention import find_sites
    from prune.instruments.detecting import Writer, detect, known_without_text
    from prune.instruments.prompts import Prompter, plan_trials, read_sentences
    from prune.instruments.scores import ANSWERED
    from prune.instruments.summary import compare, head_facts, layers_in
    from prune.instruments.watching import HeadWatcher
    from prune.models.loading import context_length, decoder_layers, load_model, load_tokenizer, pick_device
    from prune.models.precision import pick_dtype

    settings, sources = settings or HeadsSettings(), list(named_sources(text))
    other = None if against is None else Heads.read(against)
    documents = read_sentences(sources, settings.field, settings.seed)
    source = locate(model, revision=revision, code=trust_remote_code)
    limit = context_length(source, trust_remote_code=trust_remote_code)
    check_context(limit, settings.lengths, settings.new_tokens)
    prompter = Prompter(load_tokenizer(source, trust_remote_code=trust_remote_code), chat=settings.chat)
    device = pick_device(settings.device)
    with progress("Loading the model", None, shown=show_progress):
        loaded = load_model(
            source,
            dtype=pick_dtype(settings.dtype, device=device),
            device=device,
            trust_remote_code=trust_remote_code,
        )
    layers = len(decoder_layers(loaded))
    if against is not None and other is not None:
        layer_of = layers_in(other, against, source.folder, layers)
    sites = find_sites(loaded)
    _check_top(settings, sum(site.heads for site in sites))
    writer = Writer(loaded, prompter.tokenizer, settings.new_tokens)
    with progress("Asking without any text", None, shown=show_progress):
        known = known_without_text(writer, prompter, settings.batch_tokens)
    left_out = [number for number, share in enumerate(known) if share > ANSWERED]
    used = [pair for pair in enumerate(NEEDLES) if pair[0] not in left_out][: settings.needles]
    trials = plan_trials(prompter, used, documents, settings.lengths, settings.depth_places)
    identity = model_identity(source.folder, name=source.name, commit=source.commit)
    facts = {
        "model": work_identity(source.folder, identity),
        "text": digest([trial.prompt.ids for trial in trials]),
        **asdict(settings),
        "dtype": str(loaded.dtype),
    }
    parts = FinishedParts(unfinished, facts)
    with progress("Finding heads (trials)", len(trials), shown=show_progress) as bar:
        detection = detect(
            writer,
            HeadWatcher(sites),
            trials,
            batch_tokens=settings.batch_tokens,
            parts=parts,
            advance=bar.advance,
        )
    scored = head_facts(detection, trials, sites, layers)
    comparison = None
    if against is not None and other is not None:
        comparison = compare(scored, other, layer_of, against)
    measured = Heads(
        model=source.name,
        left_out=tuple(left_out),
        ablations=(),
        against=comparison,
        provenance=provenance(
            model=identity,
            text=texts_identity(sources, settings.field),
            settings=asdict(settings),
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=device,
        ),
        **scored,
    )
    chosen = [number for number, trial in enumerate(trials) if (trial.length, trial.depth) in settings.ablated_cells]
    work = len(settings.top) * (1 + settings.draws) * len(chosen)
    with progress("Taking heads out (trials)", work, shown=show_progress and bool(work)) as bar:
        some = [trials[number] for number in chosen]
        ablations = _ablate(measured, settings, writer, prompter, sites, some, parts, bar)
    return measured.model_copy(update={"ablations": ablations})


def _ablate(
    measured: Heads,
    settings: HeadsSettings,
    writer: Writer,
    prompter: Prompter,
    sites: Sequence[Site],
    trials: Sequence[Trial],
    parts: FinishedParts,
    bar: Progress,
) -> tuple[Ablation, ...]:
    """Take out the first heads, K of them for each K that was asked, and as many random ones."""
    import numpy as np

    from prune.instruments.ablation import draw_like
    from prune.instruments.effects import measure_effects
    from prune.instruments.summary import ablation_of, every_head

    every = every_head(sites)
    full = {(row.needle, row.length, row.depth): row.recall for row in measured.trials}
    ablations = []
    for count in settings.top:
        top = measured.ranked(settings.by)[:count]
        random = [draw_like(top, every, settings.seed + draw) for draw in range(settings.draws)]
        runs = measure_effects(
            writer,
            prompter,
            sites,
            [top, *random],
            trials,
            np.array([full[trial.needle, trial.length, trial.depth] for trial in trials]),
            batch_tokens=settings.batch_tokens,
            parts=parts,
            name=f"without-{count}",
            advance=bar.advance,
        )
        ablations.append(ablation_of([top, *random], settings.by, runs))
    return tuple(ablations)


def _check_top(settings: HeadsSettings, heads: int) -> None:
    for count in settings.top:
        if 2 * count > heads:
            raise UsageError(f"--top {count} of {heads} heads leaves too few to draw as many random ones; use fewer")
