"""The scan: one pass over a sample of text gives d(l, n) for every block, and every layer's influence."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.identity import model_identity
from prune.common.errors import CheckpointError, UsageError
from prune.common.processes import gather, is_main, rank_and_world
from prune.common.provenance import provenance
from prune.common.sizes import parse_size
from prune.common.terminal import progress, screen
from prune.models.batches import padded, plan_batches
from prune.scanning.result import Group, Scan
from prune.scanning.states import Labels
from prune.text.documents import read_documents
from prune.text.windows import SHORTEST, text_identity

if TYPE_CHECKING:
    from prune.checkpoint.source import Source
    from prune.scanning.sums import Measured
    from prune.text.windows import Sample

# Tokens of one `auto` batch, padding included. A processor is busy with few tokens, and short batches pad less.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384, "mps": 4096}
_KEPT_BYTES = 1 << 30  # and with --tokens all, a batch's states x[0] .. x[L] stay below this
_FEW_SAMPLES = 32  # a scan on fewer says little
_KEEP_SECONDS = 20.0  # between two writings of --resume


def scan(
    model: str | Path,
    text: str | Sequence[str],
    *,
    field: str = "text",
    samples: int = 256,
    length: int = 1024,
    tokens: str = "last",
    seed: int = 0,
    batch_size: int | str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    max_memory: str | None = None,
    bits: int | None = None,
    device_map: str | dict[str, Any] | None = None,
    resume: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    show_progress: bool = True,
) -> Scan:
    """Measure how alike layer inputs are, for all blocks in one pass (arXiv 2403.17887, section 3.2).

    Started by torchrun or `accelerate launch`, each process takes a share of the samples, and all return the same.

    Args:
        model: a model folder or a hub id.
        text: SOURCE as in `prune.text.documents`, or several, which give equal shares; a sample is of one document,
            never of several joined.
        field: the field of .jsonl and .parquet rows that holds the text.
        samples: how many samples are drawn, one of each document while there are documents, then further windows of
            the longer ones; fewer where the text is shorter.
        length: most tokens of a sample, BOS included, at least 8; the model's context if that is shorter.
        tokens: "last" averages d over samples at the last non-padding token, "all" over every such token.
        seed: draws the documents and places the windows.
        batch_size: samples a batch, or "auto": as many as make 1024 tokens on a CPU, 16384 on a CUDA device.
        device: "auto", or as torch names it.
        dtype: as `prune.models.precision.pick_dtype` takes it. Angles are float64 in any case.
        max_memory: such as "4GiB": a model whose weights do not fit is run layer by layer from its files; None asks
            the machine how much there is.
        bits: 4 or 8 loads the weights in NF4 or int8 by bitsandbytes.
        device_map: as transformers takes it: "auto" spreads the layers over all GPUs, and a table names the place of
            each module ("disk" too).
        resume: a file that keeps what is measured, so that an interrupted scan goes on; removed at the end.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run Python code that comes with the model.
        show_progress: show progress with ETA on stderr.

    Raises:
        UsageError: an option is out of range.
        TextError: the text is missing, empty or too short.
        CheckpointError: not a model that can be loaded.
        RegrowthError: a state is NaN or infinite (the message names layer and sample).
    """
    sources = [text] if isinstance(text, str) else list(text)
    _check_options(samples=samples, length=length, tokens=tokens, batch_size=batch_size)
    cap = parse_size(max_memory) if max_memory is not None else None
    if bits not in (None, 4, 8):
        raise UsageError(f"weights are loaded in 4 or 8 bits, not {bits}")
    for one in sources:
        if not one.startswith("hub:"):
            next(iter(read_documents(one, field=field)))  # a bad source shows before a model is fetched

    from prune.checkpoint.source import locate
    from prune.models.loading import load_tokenizer, pick_device
    from prune.models.precision import pick_dtype
    from prune.scanning.streaming import fits, measure_streamed
    from prune.text.windows import draw_samples

    place = pick_device(device)
    kind = pick_dtype(dtype, device=place)
    source = locate(model, revision=revision)
    context = _context(source, trust_remote_code)
    if context is not None and length > context:
        if show_progress and is_main():
            screen().print(
                f"The model reads {context} tokens at most: samples are cut to that length, not to --length {length}."
            )
        length = context
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    shown = show_progress and is_main()
    with progress("Drawing samples", None, shown=shown):
        drawn = draw_samples(sources, tokenizer, samples=samples, length=length, seed=seed, field=field)
    for line in sample_notes(len(drawn), samples) if shown else ():
        screen().print(line)
    windows, labels = [sample.ids for sample in drawn], label(drawn, sources)
    streamed = bits is None and device_map is None and not fits(source, kind, place, cap)
    if streamed:
        if resume is not None:
            raise UsageError("--resume does not go with a scan layer by layer; raise --max-memory or leave it out")
        if shown:
            screen().print("The weights do not fit in memory: running the model layer by layer from its files.")
        share = _share(windows, batch_size, _BATCH_TOKENS.get(place.split(":")[0], _BATCH_TOKENS["cpu"]))
        with progress("Scanning (layers)", None, shown=shown) as bar:
            measured, kind = measure_streamed(
                source,
                windows,
                share,
                tokens=tokens,
                labels=labels,
                device=place,
                dtype=kind,
                max_memory=cap,
                trust_remote_code=trust_remote_code,
                advance=bar.advance,
            )
    else:
        with progress("Loading the model", None, shown=shown):
            loaded = _load(source, kind, place, bits, device_map, trust_remote_code)
        share = _share(windows, batch_size, _token_budget(loaded, tokens, place.split(":")[0]))
        identity = model_identity(source.folder)
        facts = [identity.get("shards"), windows, tokens, share, bits, str(loaded.dtype), rank_and_world()]
        mark = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        with progress("Scanning (tokens)", sum(len(windows[i]) for _, b in share for i in b), shown=shown) as bar:
            measured = measure(
                loaded,
                windows,
                tokens=tokens,
                labels=labels,
                share=share,
                keep=(_of_rank(Path(resume)), mark) if resume is not None else None,
                advance=bar.advance,
            )
        kind = loaded.dtype
    parts = gather(measured)
    measured = parts[0]
    for other in parts[1:]:
        measured.merge(other)
    identities = [text_identity(one, field) for one in sources]
    found = assemble(
        measured,
        tokens=tokens,
        length=length,
        origin=provenance(
            model=model_identity(source.folder, name=source.name, commit=source.commit),
            text=identities[0] if len(identities) == 1 else identities,
            seed=seed,
            samples_asked=samples,
            token_count=measured.token_count,
            dtype=str(kind).removeprefix("torch."),
            device=place,
            **({"bits": bits} if bits else {}),
            **({"streamed": True} if streamed else {}),
        ),
    )
    if resume is not None:
        _of_rank(Path(resume)).unlink(missing_ok=True)
    return found


def sample_notes(drawn: int, asked: int) -> list[str]:
    """What a reader has to know where the text gave fewer samples than were asked, or where they are few."""
    if drawn < _FEW_SAMPLES:
        remedy = "give more text with --text" if drawn < asked else "raise --samples"
        return [f"Warning: the scan has {drawn} samples, and fewer than {_FEW_SAMPLES} say little; {remedy}."]
    if drawn < asked:
        return [f"The text gives {drawn} samples, not {asked}: all of it is used."]
    return []


def label(drawn: Sequence[Sample], sources: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The groups of each sample: its half of the sample, its source where there are several, and how it ends.

    A document that is taken whole ends in its own last token; a window of a longer one ends wherever it was cut.
    """
    wholes = {sample.whole for sample in drawn}
    found = []
    for number, sample in enumerate(drawn):
        groups = [("half", "first" if number < (len(drawn) + 1) // 2 else "second")]
        if len(sources) > 1:
            groups.append(("source", sources[sample.source]))
        if len(wholes) > 1:
            groups.append(("ending", "whole documents" if sample.whole else "cut inside a document"))
        found.append(groups)
    return found


def measure(
    model: Any,
    windows: Sequence[Sequence[int]],
    *,
    tokens: str = "last",
    batch_size: int | str = "auto",
    labels: Labels = (),
    share: Sequence[tuple[int, list[int]]] | None = None,
    keep: tuple[Path, str] | None = None,
    advance: Callable[[float], None] = lambda tokens: None,
) -> Measured:
    """Run `windows` (lists of token ids) through a loaded model's decoder and reduce its states batch by batch.

    The windows of a batch are of like length and padded on the right.

    Args:
        labels: groups of each window, for sums of their own.
        share: numbered batches to run, where another process runs others; all of `batch_size` if None.
        keep: a file that holds what is measured while the pass runs, and the mark of the scan that it is of.
        advance: called with each batch's tokens.
    """
    import torch

    from prune.models.hooks import decoder_of, watching
    from prune.models.loading import decoder_layers
    from prune.scanning.states import BatchStates
    from prune.scanning.sums import Measured

    layers = len(decoder_layers(model))
    decoder, device = decoder_of(model), _input_device(model)
    if share is None:
        budget = _token_budget(model, tokens, device.type)
        share = list(enumerate(plan_batches([len(w) for w in windows], batch_size=batch_size, budget=budget)))
    measured = (Measured.restore(*keep) if keep else None) or Measured.empty(layers)
    done = set(measured.done)
    advance(measured.token_count)
    kept_at = time.monotonic()
    with torch.no_grad(), watching(model) as watch:
        for number, batch in share:
            if number in done:
                continue
            ids, mask = padded([windows[i] for i in batch])
            ids, mask = ids.to(device), mask.to(device)
            states = BatchStates(mask.bool(), batch, layers=layers, tokens=tokens)
            watch.receive = states.take
            decoder(input_ids=ids, attention_mask=mask, use_cache=False)
            result = states.result()
            watch.receive = None
            measured.add(number, batch, result, labels)
            advance(result.token_count)
            if keep and (time.monotonic() - kept_at > _KEEP_SECONDS or len(measured.done) == 1):
                measured.keep(*keep)
                kept_at = time.monotonic()
    return measured


def assemble(measured: Measured, *, tokens: str, length: int, origin: dict[str, Any]) -> Scan:
    """The scan that the sums amount to."""
    import numpy as np

    from prune.common.layers import best_start
    from prune.scanning.angles import rows
    from prune.scanning.cka import linear_cka

    layers = measured.layers
    vectors = [measured.vectors[sample] for sample in sorted(measured.vectors)]
    cka = linear_cka(np.stack(vectors)) if vectors else np.full((layers + 1, layers + 1), np.nan)
    groups = []
    for (kind, name), sums in sorted(measured.groups.items()):
        near = rows(sums.mean(), layers)
        groups.append(
            Group(
                kind, name, sums.samples, tuple(best_start(near[n - 1].tolist(), layers, n) for n in range(1, layers))
            )
        )
    return Scan(
        layers=layers,
        tokens=tokens,
        samples=measured.sums.samples,
        length=length,
        distance=tuple(tuple(row.tolist()) for row in rows(measured.sums.mean(), layers)),
        stderr=tuple(tuple(row.tolist()) for row in rows(measured.sums.stderr(), layers)),
        influence=tuple((measured.influence / measured.token_count).tolist()),
        provenance=origin,
        magnitude=tuple((measured.magnitude / measured.token_count).tolist()),
        cka=tuple(tuple(cka.diagonal(n).tolist()) for n in range(1, layers + 1)),
        groups=tuple(groups),
    )


def parse_batch_size(value: str) -> int | str:
    """`auto`, or a whole number of at least 1, as a command line gives it."""
    if value == "auto":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"--batch-size {value}: take auto or a whole number of at least 1")
    return int(value)


def _check_options(*, samples: int, length: int, tokens: str, batch_size: int | str) -> None:
    if samples < 1:
        raise UsageError(f"--samples {samples}: at least one sample is needed")
    if length < SHORTEST:
        raise UsageError(f"--length {length}: a sample needs at least {SHORTEST} tokens")
    if tokens not in ("last", "all"):
        raise UsageError(f"--tokens {tokens}: take last or all")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise UsageError(f"--batch-size {batch_size}: take auto or a whole number of at least 1")


def _share(windows: Sequence[Sequence[int]], batch_size: int | str, budget: int) -> list[tuple[int, list[int]]]:
    """This process's batches, by their numbers: every so manieth."""
    rank, world = rank_and_world()
    return list(enumerate(plan_batches([len(w) for w in windows], batch_size=batch_size, budget=budget)))[rank::world]


def _of_rank(path: Path) -> Path:
    rank, world = rank_and_world()
    return path if world == 1 else path.with_name(f"{path.name}.{rank}")


def _load(
    source: Source,
    kind: Any,
    device: str,
    bits: int | None,
    device_map: str | dict[str, Any] | None,
    trust_remote_code: bool,
) -> Any:
    from prune.models.loading import load_model

    options: dict[str, Any] = {"device_map": device_map} if device_map else {}
    if bits:
        import torch
        from transformers import BitsAndBytesConfig

        wide = torch.bfloat16 if kind == "auto" else kind
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=bits == 4,
            load_in_8bit=bits == 8,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=wide,
        )
        options.setdefault("device_map", {"": device})
        kind = wide
    return load_model(source, dtype=kind, device=device, trust_remote_code=trust_remote_code, **options)


def _input_device(model: Any) -> Any:
    """Where token ids go: to the embedding, or to where it runs, if accelerate keeps its weights elsewhere."""
    table = model.get_input_embeddings()
    if table.weight.device.type != "meta":
        return table.weight.device
    import torch

    return torch.device(getattr(getattr(table, "_hf_hook", None), "execution_device", None) or "cpu")


def _context(source: Source, trust_remote_code: bool) -> int | None:
    """Positions that the model was made for, or None where its config sets no bound."""
    from transformers import AutoConfig

    from prune.common.terminal import quiet_libraries
    from prune.models.loading import text_config

    quiet_libraries()
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{source.name}: transformers cannot read its config.json ({line})") from error
    return getattr(text_config(config), "max_position_embeddings", None)


def _token_budget(model: Any, tokens: str, device: str) -> int:
    budget = _BATCH_TOKENS.get(device, _BATCH_TOKENS["cpu"])
    if tokens == "last":
        return budget
    from prune.models.loading import text_config

    config = text_config(model.config)
    state = (config.num_hidden_layers + 1) * config.hidden_size * model.dtype.itemsize
    return max(1, min(budget, _KEPT_BYTES // state))
