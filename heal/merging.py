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

from heal.card import merged_card
from prune.checkpoint import INDEX, Checkpoint, Shard, Tensor, inside, read_checkpoint, read_shard
from prune.companions import copy_companions
from prune.cut_plan import PLAN_FILE
from prune.errors import CheckpointError, RegrowthError, UsageError
from prune.models import Source, locate
from prune.outputs import check_free, staged_directory, write_json, write_text
from prune.provenance import command_line, read_artefact, versions
from prune.terminal import progress, quiet_libraries

if TYPE_CHECKING:
    import torch

BASES = ("dequantised", "original")
_CONV1D = ("gpt2",)  # model types whose projections are stored (in, out)
_CARRIED = ("config.json", INDEX, PLAN_FILE, "scan.json")  # beside what copy_companions takes


@dataclass(frozen=True)
class MergePlan:
    """Which tensor gets what: names of checkpoint tensors, from the names of the modules they belong to."""

    base: str
    scaling: float
    deltas: dict[str, str]  # tensor -> module whose adapter is added to it
    dequantised: tuple[str, ...]  # tensors saved as NF4 left them; those of `deltas` among them
    transposed: bool  # stored (in, out): the Conv1D of GPT-2

    @property
    def changed(self) -> frozenset[str]:
        return frozenset(self.deltas) | frozenset(self.dequantised)


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

    from heal.tensors import write_over  # torch, from here on

    checkpoint = read_checkpoint(source.folder)
    weights = _adapter_weights(folder)
    plan = plan_merge(base, document, config, checkpoint)
    if set(weights) != set(plan.deltas.values()):
        raise CheckpointError(f"{adapter} holds other matrices than its heal.json names; is it whole?")
    changed = plan.changed
    with (
        staged_directory(out, overwrite=overwrite) as stage,
        progress("Merging", len(changed), shown=shown) as bar,
    ):
        for shard in checkpoint.shards:
            copy = stage / shard.name
            shutil.copyfile(shard.path, copy)
            for tensor in shard.tensors:
                if tensor.name in changed:
                    write_over(copy, shard, tensor, _merged(shard, tensor, plan, weights))
                    bar.advance()
        _carry(source.folder, stage)
        document = {**document, "merge": _facts(plan)}
        write_json(stage / "heal.json", document)
        write_text(stage / "README.md", merged_card(document))
    return document


def plan_merge(base: str, document: dict[str, Any], config: dict[str, Any], checkpoint: Checkpoint) -> MergePlan:
    """Find the tensor of every adapted and every quantised module in the checkpoint.

    Args:
        base: see `merge`.
        document: the adapter's heal.json.
        config: `r` and `lora_alpha` of its adapter_config.json.

    Raises:
        CheckpointError: one has none: the checkpoint stores it under another name than the model gives it.
    """
    names = {tensor.name for tensor in checkpoint.tensors()}
    turned = checkpoint.config.get("model_type") in _CONV1D

    def tensor(module: str) -> str:
        for name in (f"{module}.weight", f"{module.partition('.')[2]}.weight"):  # older ones lack the first part
            if name in names:
                return name
        raise CheckpointError(f"{checkpoint.folder} stores no tensor {module}.weight; this layout cannot be merged")

    deltas = {tensor(module): module for module in document["adapted"]}
    kept = tuple(sorted(map(tensor, document["quantised"]))) if base == "dequantised" else ()
    return MergePlan(base, config["lora_alpha"] / config["r"], deltas, kept, transposed=turned)


def _merged(
    shard: Shard, tensor: Tensor, plan: MergePlan, weights: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    from heal.quantise import round_trip
    from heal.tensors import read

    weight = read(shard, tensor)
    result = round_trip(weight, transposed=plan.transposed) if tensor.name in plan.dequantised else weight.float()
    if tensor.name in plan.deltas:
        down, up = weights[plan.deltas[tensor.name]]
        delta = plan.scaling * (up.float() @ down.float())
        result = result + (delta.T if plan.transposed else delta)
    if not result.isfinite().all():
        raise CheckpointError(f"{tensor.name} has values that are no numbers after merging; is the adapter whole?")
    return result


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
    from heal.tensors import read

    shard = read_shard(inside(folder, "adapter_model.safetensors"))
    found = {tensor.name.removeprefix("base_model.model."): tensor for tensor in shard.tensors}
    modules = [name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")]
    try:
        return {
            m: (read(shard, found[f"{m}.lora_A.weight"]), read(shard, found[f"{m}.lora_B.weight"])) for m in modules
        }
    except KeyError as error:
        raise CheckpointError(f"{shard.path} lacks {error.args[0]}") from None


def _same_base(source: Source, document: dict[str, Any], adapter: str | Path) -> None:
    from heal.identity import weights_sha256

    if weights_sha256(source.folder) != document["base"]["weights_sha256"]:
        raise CheckpointError(
            f"{adapter} was trained on {document['base']['model']}, and {source.name} is another model (or has changed "
            "since); name the right one with --model"
        )


def _commit(document: dict[str, Any]) -> str | None:
    found = document["base"].get("commit")
    return found if isinstance(found, str) else None


def _carry(source: Path, stage: Path) -> None:
    copy_companions(source, stage, code=False)
    for name in _CARRIED:
        if (source / name).is_file():
            shutil.copyfile(inside(source, name), stage / name)


def _facts(plan: MergePlan) -> dict[str, Any]:
    return {
        "base": plan.base,
        "adapted": len(plan.deltas),
        "dequantised": len(plan.dequantised),
        "scaling": plan.scaling,
        "versions": versions(),
        "command": command_line(),
    }
