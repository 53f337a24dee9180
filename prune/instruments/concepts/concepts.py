"""`prune concepts`: words in context, their states in clusters, and the labels that the clusters line up with."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.identity import model_identity, work_identity
from prune.checkpoint.source import locate
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.provenance import digest, provenance
from prune.common.files.resume import FinishedParts, Unfinished
from prune.common.screen.terminal import progress, screen
from prune.instruments.concepts.result import Concepts
from prune.instruments.concepts.settings import KINDS, OF_EXTRA, ConceptsSettings, Kind
from prune.text.windows import named_sources, texts_identity

if TYPE_CHECKING:
    from prune.instruments.concepts.occurrences import Sample
    from prune.instruments.concepts.summary import Clustered, Labelled


@checks_arguments
def concepts(
    model: str | Path,
    text: str | Sequence[str],
    *,
    settings: ConceptsSettings | None = None,
    against: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    unfinished: Unfinished | None = None,
    show_progress: bool = True,
) -> Concepts:
    """Find the groups that word states fall into, and align them with known labels (arXiv 2205.07237).

    Args:
        model: a model folder or a hub id.
        text: SOURCE as in `prune.text.documents`, or several, which give equal shares.
        settings: the defaults if None.
        against: concepts.json of another model on the same words, such as the one that this one was cut from.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run Python code that comes with the model.
        unfinished: where an interrupted run has left its work, and this one keeps its own. To be cleared when the
            result is written.
        show_progress: show progress with ETA on stderr.

    Raises:
        UsageError: an option does not fit the model or the file `against`.
        TextError: the text is missing, or too short for the clusters asked.
        CheckpointError: not a model that can be loaded, or `against` is of another model.
        RegrowthError: the tokenizer cannot align words, labels were asked for whose packages are not installed, or a
            state is not finite.
    """
    from prune.instruments.concepts.against import check_comparable, compare, state_pairs
    from prune.instruments.concepts.occurrences import draw_word_samples
    from prune.instruments.concepts.summary import layer_concepts, measure_layer, trends
    from prune.instruments.summary import layers_in
    from prune.models.loading import decoder_layers, load_model, load_tokenizer, pick_device
    from prune.models.precision import pick_dtype

    settings, sources = settings or ConceptsSettings(), list(named_sources(text))
    other = None if against is None else Concepts.read(against)
    kinds, missing = settle_kinds(settings)
    if missing and show_progress:
        screen().print(_absent(missing, kinds))
    source = locate(model, revision=revision, code=trust_remote_code)
    _check_context(source, settings, trust_remote_code)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    with progress("Reading words", None, shown=show_progress):
        samples = draw_word_samples(sources, tokenizer, settings)
        labelled = _label(samples, kinds)
    if show_progress and (line := _shorter(samples, settings.tokens)):
        screen().print(line)
    words = digest([[sample.windows, [(o.window, o.first, o.past) for o in sample.occurrences]] for sample in samples])
    written = json.loads(json.dumps(asdict(settings)))
    if other is not None and against is not None:
        check_comparable(other, against, written, kinds, words)
    device = pick_device(settings.device)
    with progress("Loading the model", None, shown=show_progress):
        loaded = load_model(
            source,
            dtype=pick_dtype(settings.dtype, device=device),
            device=device,
            trust_remote_code=trust_remote_code,
        )
    layers = len(decoder_layers(loaded))
    pairs: dict[int, int] = {}
    if other is not None and against is not None:
        layer_of = layers_in(other, against, source.folder, layers)
        pairs = state_pairs(layer_of, other.layers, [state.layer for state in other.states])
    chosen = choose_layers(settings, layers, list(pairs) if against is not None else None)
    identity = model_identity(source.folder, name=source.name, commit=source.commit)
    model_hash = work_identity(source.folder, identity)
    facts = {"model": model_hash, "words": words, **written, "layers": chosen, "dtype": str(loaded.dtype)}
    parts = FinishedParts(unfinished, facts)
    measured: dict[int, list[Any]] = {layer: [] for layer in chosen}
    work = 2 * len(samples) * len(chosen)  # a layer is run, and clustered
    with progress("Finding concepts (layers)", work, shown=show_progress) as bar:
        for number, one in enumerate(labelled):
            clustered = _cluster(loaded, one, number, chosen, settings, parts, bar.advance)
            for layer in chosen:
                measured[layer].append(measure_layer(clustered[layer], one, kinds, settings, number))
    names = [one.name for one in labelled[0].sets]
    states = tuple(layer_concepts(layer, measured[layer], kinds, names) for layer in chosen)
    return Concepts(
        model=source.name,
        layers=layers,
        kinds=kinds,
        missing=tuple(missing),
        samples=tuple(one.facts for one in labelled),
        states=states,
        trends=trends(states, layers),
        against=None if other is None or against is None else compare(states, other, pairs),
        provenance=provenance(
            model=identity,
            text=texts_identity(sources, settings.field),
            settings=written,
            words=words,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=device,
        ),
    )


def settle_kinds(settings: ConceptsSettings) -> tuple[tuple[Kind, ...], list[str]]:
    """The kinds of labels to look at, and the packages without which others are absent.

    Raises:
        RegrowthError: a kind was asked for by name whose packages are not installed.
    """
    from prune.instruments.concepts.tagging import EXTRA, missing_packages

    asked = settings.labels or KINDS
    absent = [kind for kind in asked if missing_packages([kind])]
    missing = missing_packages(absent)
    if missing and settings.labels is not None:
        raise RegrowthError(
            f"--labels {','.join(absent)}: {' and '.join(missing)} not installed; {EXTRA} brings all that they need"
        )
    return tuple(kind for kind in asked if kind not in absent), missing


def _absent(missing: Sequence[str], kinds: Collection[Kind]) -> str:
    from prune.instruments.concepts.tagging import EXTRA

    absent = [kind for kind in OF_EXTRA if kind not in kinds]
    return f"Without {', '.join(missing)} there are no {' and '.join(absent)} labels; {EXTRA} brings them."


def _shorter(samples: Sequence[Sample], asked: int) -> str | None:
    """That the text ran out before the samples had the tokens asked for; None where it did not."""
    fewest = min(sum(map(len, sample.windows)) for sample in samples)
    if fewest >= asked * 0.95:  # windows are not cut to meet the number
        return None
    return (
        f"The text gives {fewest:,} of the {asked:,} tokens a sample; add text, or ask for fewer --tokens or --reseeds."
    )


def choose_layers(settings: ConceptsSettings, layers: int, shared: Sequence[int] | None) -> list[int]:
    """l of the states to look at.

    Args:
        layers: L.
        shared: those that the other model has too; None without one.

    Raises:
        UsageError: a layer that the model has not, or no shared one.
    """
    if settings.layers is not None:
        if settings.layers[-1] > layers:
            raise UsageError(f"--layers {settings.layers[-1]}: the model has the states 0 to {layers}")
        if shared is not None and not {*settings.layers} & {*shared}:
            raise UsageError("--against has none of the layers asked for; leave --layers out")
        return list(settings.layers)
    if shared is not None:
        if not shared:
            raise UsageError("--against: none of its layers is in this model; measure it again with more --layers")
        return sorted(shared)
    return sorted({*range(0, layers, max(1, round(layers / 10))), layers})


def _check_context(source: Any, settings: ConceptsSettings, trust_remote_code: bool) -> None:
    from prune.models.loading import context_length

    limit = context_length(source, trust_remote_code=trust_remote_code)
    if limit is not None and settings.length > limit:
        raise UsageError(f"--length {settings.length}: the model takes {limit} tokens; use {limit} at most")


def _label(samples: Sequence[Sample], kinds: Sequence[Kind]) -> list[Labelled]:
    """The samples with all their labels."""
    from prune.instruments.concepts.labels import label_sets, word_units
    from prune.instruments.concepts.summary import Labelled
    from prune.instruments.concepts.tagging import Tagger, read_synonyms, tag_sample

    tagger = synonyms = None
    if any(kind in OF_EXTRA for kind in kinds):
        tagger, synonyms = Tagger(), read_synonyms() if "semantic" in kinds else {}
    labelled = []
    for sample in samples:
        words = word_units(sample)
        tags = None if tagger is None else tag_sample(tagger, sample)
        labelled.append(Labelled(sample, words, label_sets(sample, kinds, words, tags, synonyms)))
    return labelled


def _cluster(
    model: Any,
    labelled: Labelled,
    number: int,
    layers: Sequence[int],
    settings: ConceptsSettings,
    parts: FinishedParts,
    advance: Callable[[float], None],
) -> dict[int, Clustered]:
    """The clusters of one sample at all layers; those that an earlier run has finished are not made again."""
    import numpy as np

    from prune.instruments.concepts.clustering import k_means, scaled, top_variance, ward
    from prune.instruments.concepts.states import layer_groups, word_states
    from prune.instruments.concepts.summary import Clustered

    draw = np.random.default_rng([settings.seed, number])
    start = int(draw.integers(1 << 31))
    count = len(labelled.sample.occurrences)
    rows = np.sort(draw.choice(count, settings.ward, replace=False)).astype(np.int32)
    left = [layer for layer in layers if parts.get(f"{number}-{layer}") is None]
    advance(2 * (len(layers) - len(left)))
    for group in layer_groups(model, labelled.sample, left):
        states = word_states(model, labelled.sample, group, advance)
        for layer in group:
            raw = states.pop(layer)
            each = scaled(raw, settings.scale)
            found = {"k_means": k_means(each, settings.clusters, start), "rows": rows}
            found["top_variance"] = np.array(top_variance(raw))
            found["ward"] = ward(each[rows], settings.clusters) if settings.ward else rows
            parts.put(f"{number}-{layer}", found)
            advance(1)
    finished = {layer: parts.get(f"{number}-{layer}") or {} for layer in layers}
    return {
        layer: Clustered(part["k_means"], part["ward"], part["rows"], float(part["top_variance"]))
        for layer, part in finished.items()
    }
