"""Which models are measured, on which weights and on prompts of which size, settled before any question is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.asking.backends import weights_judged
from eval.gains.orders import TurnOrder
from eval.gains.settings import GainsSettings
from eval.runs.samples import RunResult
from eval.settings import Settings
from prune.checkpoint.identity import model_identity
from prune.checkpoint.source import Source, find_here, locate
from prune.common.errors import CheckpointError, UsageError, first_line
from prune.models.loading import longest_context, pick_device, read_config
from prune.models.whole import AS_STORED, NF4

# Tokens of a prompt, and written after it. A small model on a CPU has its turn in seconds; a GPU is busy with these.
_CONTEXT = {"cpu": 128, "mps": 512, "cuda": 2048}
_NEW_TOKENS = {"cpu": 32, "mps": 64, "cuda": 128}
_ALSO_READ = ("float32", "bfloat16", "float16")  # precisions of a stored run that can be asked for by name


@dataclass(frozen=True)
class GainsPlan:
    """What is measured: of each model that there is, by label and the full one first, the order for its turns.

    `full` is the full model's label, whether it can be measured or not. `notes` say of whom there will be nothing.
    `device`, `context`, `new_tokens` and `sequences` are those of all orders.
    """

    full: str
    orders: Mapping[str, TurnOrder]
    device: str
    context: int
    new_tokens: int
    sequences: int
    rounds: int
    notes: tuple[str, ...] = ()


def plan_gains(
    models: Mapping[str, str | Path], stored: Mapping[str, RunResult], asked: Settings, settings: GainsSettings
) -> GainsPlan | None:
    """The plan for these models; None where nothing is to be measured.

    A stored run stands for a model that may be gone: it is measured if it is still where the run says that it was.

    Args:
        models: label -> folder or hub id, or the folder of a stored run; the full model first.
        stored: the runs among them, by label.
        asked: how the others are asked; their weights are those that are measured.

    Raises:
        UsageError: the prompts and what is written after them are longer than a model's context.
        RegrowthError: a model cannot be found, or there is no such device.
    """
    if not settings.gains:
        return None
    device = pick_device(asked.device)
    sources: dict[str, Source] = {}
    notes: list[str] = []
    for label, model in models.items():
        found = _of_run(stored[label]) if label in stored else locate(model)
        if isinstance(found, Source):
            sources[label] = found
        else:
            notes.append(f"no gains of {label}: {found}")
    context, new_tokens = _sizes(sources, settings, device.partition(":")[0])
    orders = {
        label: TurnOrder(
            folder=str(source.folder),
            name=source.name,
            **_weights(stored[label].settings, asked) if label in stored else _asked_weights(asked),
            device=device,
            context=context,
            new_tokens=new_tokens,
            sequences=settings.sequences,
            seed=asked.seed,
        )
        for label, source in sources.items()
    }
    if asked.backend == "vllm":
        notes.append("speed and memory are those of transformers, and not of vLLM, which was asked the questions")
    if others := [label for label, how in _judged(models, stored, asked).items() if how not in (AS_STORED, NF4)]:
        notes.append(f"{', '.join(others)}: measured as stored, while vLLM judged other weights")
    return GainsPlan(
        full=next(iter(models)),
        orders=orders,
        device=device,
        context=context,
        new_tokens=new_tokens,
        sequences=settings.sequences,
        rounds=settings.rounds,
        notes=tuple(notes),
    )


def _of_run(run: RunResult) -> Source | str:
    """The model that a stored run asked, or why it cannot be measured."""
    name, commit = run.identity["model"], run.identity.get("commit")
    source = find_here(name, commit)
    if source is None:
        return f"its model is no longer at {name}"
    try:
        now = model_identity(source.folder)
    except CheckpointError as error:
        return f"its model cannot be read ({first_line(error)})"
    if any(now.get(key) != run.identity.get(key) for key in ("config_sha256", "shards")):
        return f"the model at {name} is another one now"
    return source


def _sizes(sources: Mapping[str, Source], settings: GainsSettings, kind: str) -> tuple[int, int]:
    """Tokens of a prompt and after it: as asked, or as many as the device is measured with and each model holds."""
    longest = {label: _longest(source) for label, source in sources.items()}
    bounds = [most for most in longest.values() if most is not None]
    new_tokens = settings.new_tokens or _NEW_TOKENS.get(kind, _NEW_TOKENS["cpu"])
    if settings.new_tokens is None and bounds:
        new_tokens = max(1, min(new_tokens, min(bounds) // 4))
    context = settings.context or _CONTEXT.get(kind, _CONTEXT["cpu"])
    if settings.context is None and bounds:
        context = max(1, min(context, min(bounds) - new_tokens))
    for label, most in longest.items():
        if most is not None and context + new_tokens > most:
            raise UsageError(
                f"--gains-context {context} with --gains-new-tokens {new_tokens} is more than the {most} tokens that "
                f"{label} holds; use fewer"
            )
    return context, new_tokens


def _longest(source: Source) -> int | None:
    """Tokens that a model holds, if its config says."""
    return longest_context(read_config(source.folder, source.name))


def _asked_weights(asked: Settings) -> dict[str, Any]:
    parts = dict(asked.backend_args)
    several = parts.get("tensor_parallel_size", 1) > 1 or parts.get("pipeline_parallel_size", 1) > 1
    spread = asked.device_map is not None or several
    return {"dtype": asked.dtype, "load_in_4bit": asked.load_in_4bit, "spread": spread}


def _weights(run: Mapping[str, Any], asked: Settings) -> dict[str, Any]:
    """Those of a stored run: its own precision, on the devices of this comparison."""
    dtype = str(run.get("dtype"))
    return {
        "dtype": dtype if dtype in _ALSO_READ else "auto",
        "load_in_4bit": run.get("weights") == NF4,
        "spread": asked.device_map is not None,
    }


def _judged(models: Mapping[str, str | Path], stored: Mapping[str, RunResult], asked: Settings) -> dict[str, str]:
    return {
        label: str(stored[label].settings.get("weights", AS_STORED)) if label in stored else weights_judged(asked)
        for label in models
    }
