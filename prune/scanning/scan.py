"""The scan: one pass over a sample of text gives d(l, n) for every block, and every layer's influence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.identity import model_identity, work_identity
from prune.common.checked import checks_arguments
from prune.common.files.provenance import digest, provenance
from prune.common.machine.processes import gather, is_main, rank_and_world
from prune.common.screen.terminal import progress, screen
from prune.models.batches import padded
from prune.scanning.result import Group, Scan
from prune.scanning.settings import ScanSettings
from prune.text.documents import read_documents
from prune.text.windows import named_sources, texts_identity

if TYPE_CHECKING:
    from prune.checkpoint.source import Source
    from prune.common.files.resume import Unfinished
    from prune.scanning.samples import Label, Samples
    from prune.scanning.sums import ScanSums

_STATES_BYTES = 1 << 30  # with --tokens all, a batch's states x[0] .. x[L] stay below this


@checks_arguments
def scan(
    model: str | Path,
    text: str | Sequence[str],
    *,
    settings: ScanSettings | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    unfinished: Unfinished | None = None,
    show_progress: bool = True,
) -> Scan:
    """Measure how alike layer inputs are, for all blocks in one pass (arXiv 2403.17887, section 3.2).

    Started by torchrun or `accelerate launch`, each process takes a share of the samples, and all return the same.

    Args:
        model: a model folder or a hub id.
        text: SOURCE as in `prune.text.documents`, or several, which give equal shares; a sample is of one document,
            never of several joined.
        settings: the defaults if None.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run Python code that comes with the model.
        unfinished: where an interrupted scan has left its work, and this one keeps its own. To be cleared when the
            scan is written.
        show_progress: show progress with ETA on stderr.

    Raises:
        UsageError: an option is out of range.
        TextError: the text is missing, empty or too short.
        CheckpointError: not a model that can be loaded.
        RegrowthError: a state is NaN or infinite (the message names layer and sample).
    """
    from prune.checkpoint.source import locate
    from prune.models.loading import pick_device
    from prune.models.precision import pick_dtype
    from prune.models.spread import check_spread
    from prune.models.walks.layer_files import fits
    from prune.scanning.samples import prepare_samples
    from prune.scanning.streaming import measure_streamed

    settings, texts = settings or ScanSettings(), list(named_sources(text))
    for local in texts:
        if not local.startswith("hub:"):
            next(iter(read_documents(local, field=settings.field)))  # a bad text shows before a model is fetched
    if settings.device_map == "auto":
        check_spread(settings.device_map, settings.device)
    settings = replace(settings, device=pick_device(settings.device))
    dtype = pick_dtype(settings.dtype, device=settings.device)
    source = locate(model, revision=revision, code=trust_remote_code)
    show_progress = show_progress and is_main()
    settings = _within_context(settings, source, trust_remote_code, show_progress)
    samples = prepare_samples(source, texts, settings, trust_remote_code=trust_remote_code, show_progress=show_progress)
    placed = settings.bits is not None or settings.device_map is not None
    streamed = not placed and not fits(source, dtype, settings.device, settings.max_memory)
    identity = model_identity(source.folder, name=source.name, commit=source.commit)
    in_memory = partial(measure_in_memory, unfinished=unfinished, identity=identity)
    measured_by = measure_streamed if streamed else in_memory
    sums = measured_by(source, samples, settings, trust_remote_code=trust_remote_code, show_progress=show_progress)
    first, *others = gather(sums)
    for other in others:
        first.merge(other)
    return assemble(
        first,
        settings,
        provenance(
            model=identity,
            text=texts_identity(texts, settings.field),
            seed=settings.seed,
            samples_asked=settings.samples,
            token_count=first.token_count,
            dtype=first.dtype,
            device=settings.device,
            **({"bits": settings.bits} if settings.bits else {}),
            **({"streamed": True} if streamed else {}),
        ),
    )


def _within_context(
    settings: ScanSettings, source: Source, trust_remote_code: bool, show_progress: bool
) -> ScanSettings:
    """The settings with a length that the model reads; a line says so where that is less than was asked."""
    from prune.models.loading import context_length

    context = context_length(source, trust_remote_code=trust_remote_code)
    if context is None or settings.length <= context:
        return settings
    if show_progress:
        screen().print(
            f"The model reads {context} tokens at most: samples are cut to that length, not to --length "
            f"{settings.length}."
        )
    return replace(settings, length=context)


def measure_in_memory(
    source: Source,
    samples: Samples,
    settings: ScanSettings,
    *,
    trust_remote_code: bool = False,
    unfinished: Unfinished | None = None,
    identity: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> ScanSums:
    """Load the model, and run the samples of this process through all of it, batch by batch.

    Args:
        identity: the model's, by which `unfinished` knows it.
    """
    from prune.scanning.sums import ScanSums

    begun, keep = None, None
    if unfinished is not None:
        facts = {
            "model": work_identity(source.folder, identity or {}),
            "seed": settings.seed,
            "tokens": settings.tokens,
            "batch_size": settings.batch_size,
            "device": settings.device,
            "device_map": settings.device_map,
            "dtype": settings.dtype,
            "load_in_4bit": settings.load_in_4bit,
            "samples": len(samples.windows),
            "sampled text": digest([samples.windows, samples.labels]),
            "process": rank_and_world(),
        }
        begun = unfinished.read(facts, ScanSums.restore)
        keep = partial(_keep, unfinished)
    with progress("Loading the model", None, shown=show_progress):
        model = _load(source, settings, trust_remote_code)
    share = sum(map(len, samples.windows)) // rank_and_world()[1]
    with progress("Scanning (tokens)", share, shown=show_progress) as bar:
        return measure(
            model,
            samples.windows,
            tokens=settings.tokens,
            batch_size=settings.batch_size,
            labels=samples.labels,
            begun=begun,
            keep=keep,
            advance=bar.advance,
        )


def _keep(unfinished: Unfinished, sums: ScanSums) -> None:
    if unfinished.due():
        unfinished.write(*sums.parts())


def measure(
    model: Any,
    windows: Sequence[Sequence[int]],
    *,
    tokens: str = "last",
    batch_size: int | str = "auto",
    labels: Sequence[Sequence[Label]] = (),
    begun: ScanSums | None = None,
    keep: Callable[[ScanSums], None] | None = None,
    advance: Callable[[float], None] = lambda tokens: None,
) -> ScanSums:
    """Run `windows` (lists of token ids) through a loaded model's decoder and reduce its states batch by batch.

    The windows of a batch are of like length and padded on the right. Of several processes each runs its own batches.

    Args:
        labels: of each window, for sums of their own.
        begun: sums over the batches that are done already; they are added to.
        keep: called with the sums after each batch.
        advance: called with each batch's tokens.
    """
    import torch

    from prune.models.loading import decoder_layers
    from prune.models.walks.hooks import decoder_of, watching
    from prune.scanning.samples import own_batches
    from prune.scanning.states import BatchStates
    from prune.scanning.sums import ScanSums

    layers = len(decoder_layers(model))
    decoder, device = decoder_of(model), _input_device(model)
    sums = begun or ScanSums.empty(layers, model.dtype)
    done = set(sums.done)
    advance(sums.token_count)
    with torch.no_grad(), watching(model) as watch:
        for number, batch in own_batches(windows, batch_size, _token_budget(model, tokens, device.type)):
            if number in done:
                continue
            ids, mask = padded([windows[i] for i in batch])
            ids, mask = ids.to(device), mask.to(device)
            states = BatchStates(mask.bool(), batch, layers=layers, tokens=tokens)
            watch.receive = states.receive
            decoder(input_ids=ids, attention_mask=mask, use_cache=False)
            result = states.result()
            watch.receive = None
            sums.add(number, batch, result, labels)
            advance(result.token_count)
            if keep is not None:
                keep(sums)
    return sums


def assemble(sums: ScanSums, settings: ScanSettings, origin: dict[str, Any]) -> Scan:
    """The scan that the sums amount to."""
    import numpy as np

    from prune.common.layers import best_start
    from prune.scanning.angles import rows
    from prune.scanning.cka import linear_cka

    layers = sums.layers
    vectors = [sums.vectors[sample] for sample in sorted(sums.vectors)]
    cka = linear_cka(np.stack(vectors)) if vectors else np.full((layers + 1, layers + 1), np.nan)
    groups = []
    for (kind, name), part in sorted(sums.groups.items()):
        distances = rows(part.mean(), layers)
        starts = (best_start(distances[n - 1].tolist(), layers, n) for n in range(1, layers))
        groups.append(Group(kind=kind, name=name, samples=part.samples, starts=tuple(starts)))
    return Scan(
        layers=layers,
        tokens=settings.tokens,
        samples=sums.distances.samples,
        length=settings.length,
        distance=tuple(tuple(row.tolist()) for row in rows(sums.distances.mean(), layers)),
        stderr=tuple(tuple(row.tolist()) for row in rows(sums.distances.stderr(), layers)),
        influence=tuple((sums.influence / sums.token_count).tolist()),
        provenance=origin,
        magnitude=tuple((sums.magnitude / sums.token_count).tolist()),
        cka=tuple(tuple(cka.diagonal(n).tolist()) for n in range(1, layers + 1)),
        groups=tuple(groups),
    )


def _load(source: Source, settings: ScanSettings, trust_remote_code: bool) -> Any:
    from prune.models.loading import load_model
    from prune.models.precision import pick_dtype

    dtype = pick_dtype(settings.dtype, device=settings.device)
    options: dict[str, Any] = {"device_map": settings.device_map} if settings.device_map else {}
    if settings.bits:
        import torch

        from prune.models.nf4 import quantisation

        dtype = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
        options["quantization_config"] = quantisation(dtype, bits=settings.bits)
        options.setdefault("device_map", {"": settings.device})
    return load_model(source, dtype=dtype, device=settings.device, trust_remote_code=trust_remote_code, **options)


def _input_device(model: Any) -> Any:
    """Where token ids go: to the embedding, or to where it runs, if accelerate keeps its weights elsewhere."""
    table = model.get_input_embeddings()
    if table.weight.device.type != "meta":
        return table.weight.device
    import torch

    return torch.device(getattr(getattr(table, "_hf_hook", None), "execution_device", None) or "cpu")


def _token_budget(model: Any, tokens: str, device: str) -> int:
    from prune.models.loading import text_config
    from prune.scanning.samples import batch_budget

    budget = batch_budget(device)
    if tokens == "last":
        return budget
    config = text_config(model.config)
    state = (config.num_hidden_layers + 1) * config.hidden_size * model.dtype.itemsize
    return max(1, min(budget, _STATES_BYTES // state))
