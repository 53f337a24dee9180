"""A healing adapter on the full model: its layers renumbered to the source's, and switched on after the cut alone.

Such an adapter was trained on a cut model. Where it sits after the cut only, the full model's layers below the cut are
the cut model's, so that its variant shares their walk with all others.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.sweeps.plan import Variant
from prune.checkpoint.companions import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from prune.checkpoint.identity import model_identity
from prune.checkpoint.source import locate
from prune.common.errors import CheckpointError, UsageError
from prune.common.files.formats import HEAL
from prune.common.files.provenance import read_artefact
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.families.subject import Subject
from prune.models.loading import decoder_layers

_HEAL_FILE = "heal.json"


@dataclass(frozen=True)
class Healed:
    """An adapter that can be swept.

    folder: where it lies. variant: what it adds to the sweep. kept: layer i of its own model is layer kept[i] of the
    full one. notes: what a reader must know.
    """

    folder: Path
    variant: Variant
    kept: tuple[int, ...]
    notes: tuple[str, ...]


def read_healed(adapter: str | Path, subject: Subject) -> Healed:
    """Check that the adapter that `heal` wrote belongs to a cut of this model and sits after the cut alone.

    Raises:
        CheckpointError: no adapter of a healing run, its cut model is not there, or is one of another model.
        UsageError: the adapter also changes layers before the cut, or its base was healed before.
    """
    folder = Path(adapter)
    document = read_artefact(folder / _HEAL_FILE, HEAL, again="heal again")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"--adapter {adapter} holds no {name}; name the folder that `heal` wrote")
    plan = _plan_of(document, folder, adapter)
    full = subject.identity()
    if any(plan.identity.get(key) != full[key] for key in ("config_sha256", "shards")):
        raise CheckpointError(f"--adapter {adapter} heals a cut of {plan.model}, which is not {subject.source.name}")
    first = min(plan.dropped)
    layers = sorted({_layer_of(name, adapter) for name in document["adapted"]})
    numbers = [plan.kept[layer] for layer in layers if layer < len(plan.kept)]
    if len(numbers) < len(layers):
        raise CheckpointError(f"--adapter {adapter} changes a layer {layers[-1]}, but its model has {len(plan.kept)}")
    if before := [number for number in numbers if number < first]:
        raise UsageError(
            f"--adapter {adapter} also changes layers before the cut ({before[0]} to {before[-1]}, cut at {first}), so "
            "that it shares nothing with the other variants; heal with --targets after-cut, or merge it and use "
            "`evaluate compare`"
        )
    variant = Variant(len(plan.dropped), first, plan.dropped, folder.resolve().name, min(numbers))
    fewer = f"{variant.label}: the adapter was trained on a base in fewer bits, and stands here on the original weights"
    return Healed(folder, variant, plan.kept, (fewer,) if document.get("quantised") else ())


def _plan_of(document: dict[str, Any], folder: Path, adapter: str | Path) -> CutPlan:
    """The plan of the cut that was healed, from the model that the adapter names as its base."""
    import json

    try:
        named = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"--adapter {adapter}: its {ADAPTER_CONFIG} is damaged; heal again or copy it anew"
        ) from None
    try:
        source = locate(named or document["base"]["model"], revision=document["base"].get("commit"))
    except CheckpointError as error:
        raise CheckpointError(f"--adapter {adapter}: its base model is not there ({error})") from None
    if not (source.folder / PLAN_FILE).is_file():
        raise CheckpointError(f"--adapter {adapter}: its base model {source.name} has no {PLAN_FILE} to tell the cut")
    now = model_identity(source.folder)
    if any(document["base"].get(key) != now.get(key) for key in ("config_sha256", "shards")):
        raise CheckpointError(f"--adapter {adapter}: {source.name} is no longer the model that it was trained on")
    if (source.folder / _HEAL_FILE).is_file():
        raise UsageError(
            f"--adapter {adapter} was trained on {source.name}, which was patched or merged after its cut, so that its "
            "layers are not the full model's; merge the adapter and use `evaluate compare`"
        )
    return CutPlan.read(source.folder / PLAN_FILE)


def _layer_of(name: str, adapter: str | Path) -> int:
    match = re.search(r"\.(\d+)\.", name)
    if match is None:
        raise UsageError(f"--adapter {adapter} changes {name} outside the layers; merge it, use `evaluate compare`")
    return int(match[1])


def attach(model: Any, healed: Sequence[Healed]) -> Callable[[str | None], None]:
    """Put adapters into a loaded full model, switched off.

    Returns:
        What switches one on (by its variant's adapter name) and all off (None).
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    keys: dict[str | None, str] = {}
    for number, one in enumerate(healed):
        keys[one.variant.adapter] = f"healed{number}"
        _inject(model, one, f"healed{number}")
    model.eval()
    tuned = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    now: list[str | None] = [""]

    def switch(adapter: str | None) -> None:
        if adapter == now[0]:
            return
        for module in tuned:
            works = adapter is not None and keys[adapter] in module.lora_A
            module.enable_adapters(works)
            if works:
                module.set_adapter(keys[adapter])
        now[0] = adapter

    switch(None)
    return switch


def _inject(model: Any, healed: Healed, key: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    pattern = re.compile(rf"^(?:base_model\.model\.)?{re.escape(prefix)}\.(\d+)\.(.+)$")
    state: dict[str, Any] = {}
    for name, tensor in load_file(healed.folder / ADAPTER_WEIGHTS).items():
        match = pattern.match(name)
        if match is None:
            raise CheckpointError(f"{healed.folder / ADAPTER_WEIGHTS}: {name} is of no decoder layer")
        state[f"{prefix}.{healed.kept[int(match[1])]}.{match[2]}"] = tensor
    config = LoraConfig.from_pretrained(healed.folder)
    if config.rank_pattern or config.alpha_pattern:
        raise CheckpointError(f"{healed.folder}: ranks that differ by layer are not swept; merge the adapter")
    config.target_modules = sorted({name.rpartition(".lora_")[0] for name in state})
    config.layers_to_transform = config.layers_pattern = None
    config.inference_mode = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        inject_adapter_in_model(config, model, adapter_name=key)
    loaded = set_peft_model_state_dict(model, state, adapter_name=key)
    absent = [name for name in loaded.missing_keys if f".{key}." in name]
    if loaded.unexpected_keys or absent:
        raise CheckpointError(f"{healed.folder}: {[*loaded.unexpected_keys, *absent][0]} does not fit the model")
