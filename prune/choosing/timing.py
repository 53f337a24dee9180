"""`prune time`: how long a model's layers take on this device, to read a prompt and to write a token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prune.checkpoint.companions import copy_companions
from prune.checkpoint.source import locate
from prune.choosing.settings import USUAL_CONTEXT, TimeSettings
from prune.choosing.times import KindTimes, Span, Times
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError, UsageError
from prune.common.files.provenance import provenance
from prune.common.screen.terminal import progress, screen
from prune.families.subject import Subject, new_config, open_subject

if TYPE_CHECKING:
    from prune.models.stopwatch import Pass

_LEAST = 1e-9  # seconds; a clock may stand still


@checks_arguments
def time_layers(
    model: str | Path,
    *,
    settings: TimeSettings | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    show_progress: bool = True,
) -> Times:
    """Measure the seconds that each kind of layer takes, in prefill and in decode; embeddings and head apart.

    Args:
        model: a model folder or a hub id.
        settings: the defaults if None.

    Raises:
        UsageError: a setting is out of range, or more tokens than the model can read.
        CheckpointError: the model cannot be loaded, its layers cannot be told apart, or it is stored quantised and does
            not fit.
    """
    subject = open_subject(model, revision=revision, carry_code=trust_remote_code)
    how = settings or TimeSettings()
    return time_subject(subject, how, trust_remote_code=trust_remote_code, show_progress=show_progress)


def time_subject(
    subject: Subject, settings: TimeSettings, *, trust_remote_code: bool = False, show_progress: bool = True
) -> Times:
    """As `time_layers`, of a model that is open."""
    from prune.models.loading import load_model, longest_context, pick_device, read_config
    from prune.models.precision import pick_dtype
    from prune.models.stopwatch import Stopwatch
    from prune.models.walks.layer_files import weights_fit

    source = subject.source
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device=device)
    config = read_config(source.folder, source.name, trust_remote_code=trust_remote_code)
    context, prompt = _lengths(settings, longest_context(config), source.name)
    kinds = _kinds(config, source.name, context, trust_remote_code)
    whole = weights_fit(subject.checkpoint, dtype, device, settings.max_memory)
    if not whole and getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"{source.name} is stored quantised and does not fit: layers with random weights, which would stand in for "
            "it, are not quantised, so their times are not its own; time it on a larger device, or time what it was "
            "quantised from"
        )
    if whole:
        source = locate(source.name, revision=source.commit, code=trust_remote_code)
        model = load_model(source, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        rows = [layers for _, layers in kinds]
    else:
        if show_progress:
            screen().print("The weights do not fit: one layer of each kind is timed, with random weights.")
        first = sorted(layers[0] for _, layers in kinds)
        model = _stand_in(subject, first, dtype, device, trust_remote_code)
        rows = [[first.index(layers[0])] for _, layers in kinds]
    watch, passes = Stopwatch(model), list[tuple["Pass", "Pass"]]()
    with progress("Timing layers", settings.rounds + 1, shown=show_progress) as bar:
        for _ in range(settings.rounds + 1):
            passes.append(watch.round(prompt, settings.sequences, settings.new_tokens))
            bar.advance(1)
    reads, writes = zip(*passes[1:], strict=True)  # the first round warms up
    return Times(
        layers=subject.layers,
        context=context,
        prompt=prompt,
        sequences=settings.sequences,
        new_tokens=settings.new_tokens,
        rounds=settings.rounds,
        device=_device_name(device),
        dtype=str(model.dtype).removeprefix("torch."),
        whole=whole,
        kinds=tuple(
            KindTimes(name=name, layers=tuple(layers), prefill=_of(reads, timed), decode=_of(writes, timed))
            for (name, layers), timed in zip(kinds, rows, strict=True)
        ),
        outside_prefill=_span([read.outside for read in reads]),
        outside_decode=_span([write.outside for write in writes]),
        provenance=provenance(model={"model": source.name, "commit": source.commit, **subject.identity()}),
    )


def _lengths(settings: TimeSettings, bound: int | None, name: str) -> tuple[int, int]:
    """Tokens of the context, and of the prompts: fewer where the new tokens would not fit behind the whole context.

    Args:
        bound: how many tokens the model reads; None if it sets none.

    Raises:
        UsageError: more tokens than that.
    """
    if bound is None:
        context = settings.context or USUAL_CONTEXT
        return context, context
    context = settings.context or min(USUAL_CONTEXT, bound)
    if context > bound:
        raise UsageError(f"--context {context} is beyond the {bound} tokens that {name} can read")
    prompt = min(context, bound - settings.new_tokens)
    if prompt < 1:
        raise UsageError(
            f"--new-tokens {settings.new_tokens} leaves no room for a prompt (--context {context}) in the {bound} "
            f"tokens that {name} can read; write fewer"
        )
    return context, prompt


def _kinds(config: Any, name: str, tokens: int, trust_remote_code: bool) -> list[tuple[str, list[int]]]:
    """Layers that are alike in what they keep and in the shapes of their weights, with the kind in words."""
    import torch

    from prune.models.loading import decoder_layers
    from prune.models.memory.kv_cache import layer_caches
    from prune.models.memory.skeleton import skeleton

    empty = skeleton(config, torch.bfloat16, name, trust_remote_code=trust_remote_code)
    caches = layer_caches(empty, name, tokens=tokens)
    kinds: dict[Any, list[int]] = {}
    for number, layer in enumerate(decoder_layers(empty)):
        shapes = tuple((key, tuple(value.shape)) for key, value in layer.named_parameters())
        kinds.setdefault((caches[number], shapes), []).append(number)
    words = [cache.kind for cache, _ in kinds]
    named = [
        word if words.count(word) == 1 else f"{word}, as layer {layers[0]}"
        for word, layers in zip(words, kinds.values(), strict=True)
    ]
    return list(zip(named, kinds.values(), strict=True))


def _stand_in(subject: Subject, kept: Sequence[int], dtype: Any, device: str, trust_remote_code: bool) -> Any:
    """A model of these layers alone, with random weights; speed does not hang on their values."""
    import torch
    from transformers import AutoModelForCausalLM

    from prune.models.loading import read_config, stored_dtype

    with TemporaryDirectory(prefix="regrowth-time-") as folder:
        cut = new_config(subject, kept, carry_code=trust_remote_code)
        (Path(folder) / "config.json").write_text(json.dumps(cut), encoding="utf-8")
        if trust_remote_code:
            copy_companions(subject.source.folder, Path(folder), code=True)
        config = read_config(Path(folder), subject.source.name, trust_remote_code=trust_remote_code)
        picked = dtype if isinstance(dtype, torch.dtype) else stored_dtype(subject.checkpoint, config)
        with torch.device(device):
            made = AutoModelForCausalLM.from_config(config, dtype=picked, trust_remote_code=trust_remote_code)
    return made.eval()


def _device_name(device: str) -> str:
    """The GPU's own name; of a CPU its number of threads, which its speed hangs on."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{device}, {torch.get_num_threads()} threads" if device == "cpu" else device


def _of(passes: Sequence[Pass], layers: Sequence[int]) -> Span:
    """The seconds of one of these layers: in each round the median over them."""
    return _span([median(one.layers[layer] for layer in layers) for one in passes])


def _span(seconds: Sequence[float]) -> Span:
    values = [max(_LEAST, value) for value in seconds]
    return Span(median=median(values), least=min(values), most=max(values))
