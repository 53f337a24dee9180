"""The scan: one pass over a sample of text gives d(l, n) for every block, and every layer's influence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.errors import CheckpointError, UsageError
from prune.provenance import model_identity, provenance
from prune.scan_artefact import Scan
from prune.terminal import progress, screen
from prune.text import SHORTEST, draw_windows, read_documents, text_identity

if TYPE_CHECKING:
    from prune.angles import MeanSums
    from prune.models import Source

# Tokens of one `auto` batch, padding included. A processor is busy with few tokens, and short batches pad less.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384, "mps": 4096}
_KEPT_BYTES = 1 << 30  # and with --tokens all, a batch's states x[0] .. x[L] stay below this


@dataclass
class Measured:
    """What a pass over windows leaves: sums that give the distances, summed influence (L,), tokens seen."""

    sums: MeanSums
    influence: np.ndarray
    token_count: int

    def merge(self, other: Measured) -> None:
        """Add what other samples of the same model gave."""
        self.sums.merge(other.sums)
        self.influence += other.influence
        self.token_count += other.token_count


def scan(
    model: str | Path,
    text: str,
    *,
    field: str = "text",
    samples: int = 256,
    length: int = 1024,
    tokens: str = "last",
    seed: int = 0,
    batch_size: int | str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    show_progress: bool = True,
) -> Scan:
    """Measure how alike layer inputs are, for all blocks in one pass (arXiv 2403.17887, section 3.2).

    Args:
        model: a model folder or a hub id.
        text: SOURCE as in `prune.text`; a sample is one of its documents, never several joined.
        field: the field of .jsonl and .parquet rows that holds the text.
        samples: how many documents are drawn; fewer where the text has fewer.
        length: most tokens of a sample, BOS included, at least 8; the model's context if that is shorter.
        tokens: "last" averages d over samples at the last non-padding token, "all" over every such token.
        seed: draws the documents and places the windows.
        batch_size: samples a batch, or "auto": as many as make 1024 tokens on a CPU, 16384 on a CUDA device.
        device: "auto", or as torch names it.
        dtype: "auto" (the checkpoint's own), "float32", "bfloat16" or "float16". Angles are float64 in any case.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run Python code that comes with the model.
        show_progress: show progress with ETA on stderr.

    Raises:
        UsageError: an option is out of range.
        TextError: the text is missing, empty or too short.
        CheckpointError: not a model that can be loaded.
        RegrowthError: a state is NaN or infinite (the message names layer and sample).
    """
    _check_options(samples=samples, length=length, tokens=tokens, batch_size=batch_size)
    if not text.startswith("hub:"):
        next(iter(read_documents(text, field=field)))  # a bad source shows before a model is fetched

    from prune.models import load_model, load_tokenizer, locate, pick_device, pick_dtype

    place = pick_device(device)
    kind = pick_dtype(dtype, device=place)
    source = locate(model, revision=revision)
    length = min(length, _context(source, trust_remote_code) or length)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    with progress("Drawing samples", None, shown=show_progress):
        documents = read_documents(text, field=field)
        windows = draw_windows(documents, tokenizer, samples=samples, length=length, seed=seed)
    if show_progress and len(windows) < samples:
        screen().print(f"The text gives {len(windows)} samples, not {samples}: all of its documents are used.")
    with progress("Loading the model", None, shown=show_progress):
        loaded = load_model(source, dtype=kind, device=place, trust_remote_code=trust_remote_code)
    total = sum(map(len, windows))
    with progress("Scanning (tokens)", total, shown=show_progress) as bar:
        measured = measure(loaded, windows, tokens=tokens, batch_size=batch_size, advance=bar.advance)
    return assemble(
        measured,
        tokens=tokens,
        length=length,
        origin=provenance(
            model=model_identity(source.folder, name=source.name, commit=source.commit),
            text=text_identity(text, field),
            seed=seed,
            samples_asked=samples,
            token_count=measured.token_count,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=place,
        ),
    )


def measure(
    model: Any,
    windows: Sequence[Sequence[int]],
    *,
    tokens: str = "last",
    batch_size: int | str = "auto",
    advance: Callable[[float], None] = lambda tokens: None,
) -> Measured:
    """Run `windows` (lists of token ids) through a loaded model's decoder and reduce its states batch by batch.

    The windows of a batch are of like length and padded on the right. `advance` is called with each batch's tokens.
    """
    import torch

    from prune.angles import MeanSums
    from prune.models import decoder_layers
    from prune.states import BatchStates, decoder_of, watching

    layers = len(decoder_layers(model))
    decoder, device = decoder_of(model), model.get_input_embeddings().weight.device
    budget = _token_budget(model, tokens, device.type)
    measured = Measured(MeanSums(layers * (layers + 1) // 2), np.zeros(layers), 0)
    with torch.no_grad(), watching(model) as watch:
        for batch in plan_batches([len(w) for w in windows], batch_size=batch_size, budget=budget):
            ids, mask = _padded([windows[i] for i in batch])
            ids, mask = ids.to(device), mask.to(device)
            watch.batch = BatchStates(mask.bool(), batch, layers=layers, tokens=tokens)
            decoder(input_ids=ids, attention_mask=mask, use_cache=False)
            result = watch.batch.result()
            watch.batch = None
            measured.sums.add(result.totals, result.weights)
            measured.influence += result.influence
            measured.token_count += result.token_count
            advance(result.token_count)
    return measured


def plan_batches(lengths: Sequence[int], *, batch_size: int | str, budget: int) -> list[list[int]]:
    """Group samples of like length, longest first, so that little is padded and too big a batch fails at once.

    Args:
        lengths: tokens of each sample.
        batch_size: samples a batch, or "auto": as many as fill `budget` tokens with padding, at least one.
        budget: tokens of an "auto" batch.

    Returns:
        Sample numbers, each exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    while order:
        size = int(batch_size) if batch_size != "auto" else max(1, budget // lengths[order[0]])
        batches.append(order[:size])
        order = order[size:]
    return batches


def assemble(measured: Measured, *, tokens: str, length: int, origin: dict[str, Any]) -> Scan:
    """The scan that the sums amount to."""
    from prune.angles import rows

    layers = len(measured.influence)
    return Scan(
        layers=layers,
        tokens=tokens,
        samples=measured.sums.samples,
        length=length,
        distance=tuple(tuple(row.tolist()) for row in rows(measured.sums.mean(), layers)),
        stderr=tuple(tuple(row.tolist()) for row in rows(measured.sums.stderr(), layers)),
        influence=tuple((measured.influence / measured.token_count).tolist()),
        provenance=origin,
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


def _context(source: Source, trust_remote_code: bool) -> int | None:
    """Positions that the model was made for, or None where its config sets no bound."""
    from transformers import AutoConfig

    from prune.models import text_config
    from prune.terminal import quiet_libraries

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
    from prune.models import text_config

    config = text_config(model.config)
    state = (config.num_hidden_layers + 1) * config.hidden_size * model.dtype.itemsize
    return max(1, min(budget, _KEPT_BYTES // state))


def _padded(windows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Token ids and attention mask, both (B, T) of int64, padded on the right with a token that is masked."""
    import torch

    longest = max(map(len, windows))
    ids = torch.zeros(len(windows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
        mask[row, : len(window)] = 1
    return ids, mask
