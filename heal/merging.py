"""An adapter and its base made one ordinary checkpoint, tensor by tensor.

What an adapter was fitted to is the base as quantised: NF4 of the weights, not the weights. So by default the merged
model keeps what was trained: every projection that stood in 4 bits (bitsandbytes takes all linear layers but the head,
attention included) is saved as quantisation left it, and the adapter is added to that in fp32. Added to the original
weights instead, the result is another function than the one trained; whether a better one, only held-out text tells.
Quantising the sum again, as peft does on a 4-bit model, would lose the adapter in the rounding.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import CheckpointError, RegrowthError, UsageError
from prune.models import Source, locate
from prune.outputs import check_free, staged_directory, write_json, write_text
from prune.provenance import command_line, read_artefact, versions
from prune.terminal import progress, quiet_libraries

if TYPE_CHECKING:
    import torch

    from heal.tensors import Place

BASES = ("dequantised", "original")
# What goes along with the weights. Never: code, pickles, and other frameworks' weights.
_CARRIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")


@dataclass(frozen=True)
class MergePlan:
    """Which tensor gets what: names of checkpoint tensors, from the names of the modules they belong to."""

    base: str
    scaling: float
    deltas: dict[str, str]  # tensor -> module whose adapter is added to it
    dequantised: tuple[str, ...]  # tensors saved as NF4 left them; those of `deltas` among them
    transposed: frozenset[str]  # stored (in, out): GPT-2's Conv1D

    @property
    def changed(self) -> list[str]:
        return sorted({*self.deltas, *self.dequantised})


def merge(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str = "dequantised",
    model: str | Path | None = None,
    overwrite: bool = False,
    shown: bool = True,
) -> dict[str, Any]:
    """Merge an adapter made by `heal` into its base and write a checkpoint that stock transformers loads.

    One tensor is in memory at a time. The checkpoint has the base's shards, names and dtypes.

    Args:
        adapter: folder with adapter_config.json, adapter_model.safetensors and heal.json.
        base: `dequantised` (what the adapter was trained on) or `original` (the base's own weights).
        model: the base, where it is no longer at the place that the adapter names.

    Returns:
        The merged model's heal.json: the adapter's, with a part `merge`.

    Raises:
        UsageError: another `base`.
        CheckpointError: no adapter of ours, a base that cannot be found, or that is not the one it was trained on.
    """
    if base not in BASES:
        raise UsageError(f"--base {base} is unknown; take {' or '.join(BASES)}")
    folder = Path(adapter)
    if not folder.is_dir():
        raise CheckpointError(f"{adapter} is not a folder with an adapter")
    document = read_artefact(folder / "heal.json", "regrowth.heal/1")
    if "merge" in document:
        raise CheckpointError(f"{adapter} is a merged model already")
    config = _adapter_config(folder)
    out = check_free(out, overwrite=overwrite)
    quiet_libraries()
    source = locate(model or config["base_model_name_or_path"], revision=None if model else _commit(document))
    if out.exists() and out.resolve() in (source.folder.resolve(), folder.resolve()):
        raise RegrowthError(f"--out {out} is what the merge reads; name another folder")
    _same_base(source, document, adapter)

    from heal.tensors import places

    shards = {shard: places(shard) for shard in sorted(source.folder.glob("*.safetensors"))}
    weights = _adapter_weights(folder)
    plan = plan_merge(base, document, config, {place.name for found in shards.values() for place in found}, source)
    missing = sorted(set(plan.deltas.values()) - set(weights))
    if missing or len(weights) != len(plan.deltas):
        raise CheckpointError(f"{adapter} does not hold the matrices that its heal.json names (such as {missing[:1]})")
    with (
        staged_directory(out, overwrite=overwrite) as stage,
        progress("Merging", len(plan.changed), shown=shown) as bar,
    ):
        for shard, found in shards.items():
            shutil.copyfile(shard, stage / shard.name)
            for place in found:
                if place.name in plan.changed:
                    _write(place, plan, weights, stage / shard.name)
                    bar.advance()
        _carry(source.folder, stage)
        document = _merged_document(document, plan)
        from heal.card import merged_card

        write_json(stage / "heal.json", document, overwrite=True)
        write_text(stage / "README.md", merged_card(document))
    return document


def plan_merge(
    base: str, document: dict[str, Any], config: dict[str, Any], names: set[str], source: Source
) -> MergePlan:
    """Find the tensor of every adapted and every quantised module among the checkpoint's `names`.

    Raises:
        CheckpointError: one has none: the checkpoint stores it under another name than the model gives it.
    """
    transposed = set()
    if _model_type(source) in ("gpt2", "imagegpt", "openai-gpt"):
        transposed = {name for name in names if ".c_" in name}

    def tensor(module: str) -> str:
        for name in (f"{module}.weight", f"{module.partition('.')[2]}.weight"):  # older ones lack the first part
            if name in names:
                return name
        raise CheckpointError(f"{source.name} stores no tensor {module}.weight; this layout cannot be merged")

    deltas = {tensor(module): module for module in document["adapted"]}
    kept = tuple(sorted(map(tensor, document["quantised"]))) if base == "dequantised" else ()
    return MergePlan(base, config["lora_alpha"] / config["r"], deltas, kept, frozenset(transposed))


def _write(place: Place, plan: MergePlan, weights: dict[str, tuple[torch.Tensor, torch.Tensor]], shard: Path) -> None:
    from heal.quantise import round_trip
    from heal.tensors import read, write_over

    weight, turned = read(place), place.name in plan.transposed
    result = round_trip(weight, transposed=turned) if place.name in plan.dequantised else weight.float()
    if place.name in plan.deltas:
        down, up = weights[plan.deltas[place.name]]
        delta = plan.scaling * (up.float() @ down.float())
        result = result + (delta.T if turned else delta)
    if not result.isfinite().all():
        raise CheckpointError(f"{place.name} has values that are no numbers after merging; is the adapter whole?")
    write_over(place, result, shard)


def _adapter_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config["peft_type"] != "LORA" or config.get("use_rslora") or config.get("use_dora") or config["r"] < 1:
            raise CheckpointError(f"{folder} is not a plain LoRA adapter; only those can be merged")
        return {key: config[key] for key in ("base_model_name_or_path", "lora_alpha", "r")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} has no adapter_config.json that can be read ({error})") from None


def _adapter_weights(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> (A of shape (r, in), B of shape (out, r))."""
    from heal.tensors import places, read

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no adapter_model.safetensors")
    found = {place.name.removeprefix("base_model.model."): place for place in places(path)}
    modules = [name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")]
    try:
        return {m: (read(found[f"{m}.lora_A.weight"]), read(found[f"{m}.lora_B.weight"])) for m in modules}
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error.args[0]}") from None


def _same_base(source: Source, document: dict[str, Any], adapter: str | Path) -> None:
    from heal.identity import weights_sha256

    if not any(source.folder.glob("*.safetensors")):
        raise CheckpointError(f"{source.name} has no safetensors weights")
    if weights_sha256(source.folder) != document["base"]["weights_sha256"]:
        raise CheckpointError(
            f"{adapter} was trained on {document['base']['model']}, and {source.name} is another model (or has changed "
            "since); name the right one with --model"
        )


def _commit(document: dict[str, Any]) -> str | None:
    found = document["base"].get("commit")
    return found if isinstance(found, str) else None


def _model_type(source: Source) -> str | None:
    config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    found = config.get("model_type")
    return found if isinstance(found, str) else None


def _carry(source: Path, stage: Path) -> None:
    for pattern in _CARRIED:
        for path in source.glob(pattern):
            if path.is_file() and not (stage / path.name).exists():
                shutil.copyfile(path, stage / path.name)


def _merged_document(document: dict[str, Any], plan: MergePlan) -> dict[str, Any]:
    facts = {
        "base": plan.base,
        "adapted": len(plan.deltas),
        "dequantised": len(plan.dequantised),
        "scaling": plan.scaling,
        "versions": versions(),
        "command": command_line(),
    }
    return {**document, "merge": facts}
