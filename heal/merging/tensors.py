"""What an adapter adds to a tensor: its files read and checked, and the value of one merged tensor."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.lineage import stored_as
from heal.result import Base, HealRecord
from prune.checkpoint.companions import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from prune.checkpoint.headers import Checkpoint, Shard, Tensor, inside, read_shard
from prune.common.errors import CheckpointError
from prune.families.table import is_transposed

if TYPE_CHECKING:
    import torch

    from heal.models.dressing import Dressing, Pairs

_BEYOND = (  # fields of a LoRA config that change what it computes, or the shape of the model
    "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "lora_bias",
    "megatron_config", "trainable_token_indices",
)  # fmt: skip


@dataclass(frozen=True)
class MergePlan:
    """Which tensor gets what: names of checkpoint tensors, from the names of the modules they belong to.

    Attributes:
        base: `dequantised` or `original`.
        bits: 4, 8 or 16: what the base was held in while training.
        compute: the dtype of its products there.
        scaling: alpha / r.
        deltas: tensor -> module whose adapter is added to it.
        dequantised: tensor -> module, of those saved as quantisation left them; those of `deltas` among them.
        transposed: projections are stored (in, out): the Conv1D of GPT-2.
    """

    base: Base
    bits: int
    compute: str
    scaling: float
    deltas: dict[str, str]
    dequantised: dict[str, str]
    transposed: bool

    @property
    def changed(self) -> dict[str, str]:
        """Tensor -> module, of all that differ from the base's."""
        return {**self.dequantised, **self.deltas}


def plan_merges(record: HealRecord, config: dict[str, Any], checkpoint: Checkpoint) -> dict[Base, MergePlan]:
    """Find the tensor of every adapted and every quantised module in the checkpoint: the plan of each base.

    Args:
        record: the adapter's heal.json.
        config: `r` and `lora_alpha` of its adapter_config.json.

    Raises:
        CheckpointError: one has none: the checkpoint stores it under another name than the model gives it.
    """
    names = {tensor.name for tensor in checkpoint.tensors()}
    turned = is_transposed(checkpoint.config.get("model_type"))

    def tensor(module: str) -> str:
        for name in stored_as(module, "weight"):
            if name in names:
                return name
        raise CheckpointError(f"{checkpoint.folder} stores no tensor {module}.weight; this layout cannot be merged")

    deltas = {tensor(module): module for module in record.adapted or ()}
    quantised = {tensor(module): module for module in sorted(record.quantised or ())}
    scaling = config["lora_alpha"] / config["r"]
    bits, compute = record.settings["bits"], record.computed_in
    saved: dict[Base, dict[str, str]] = {"dequantised": quantised, "original": {}}
    return {base: MergePlan(base, bits, compute, scaling, deltas, each, turned) for base, each in saved.items()}


def as_trained(adapter: Path, bits: int, quantised: Collection[str]) -> Dressing:
    """What layers as they are stored wear to be the model that was trained: weights in `bits`, and the adapter.

    Args:
        bits: 4 or 8; 16: the adapter alone.
        quantised: names of the modules that are held so.
    """
    from heal.models.dressing import Dressing

    config = adapter_config(adapter)
    scaling = config["lora_alpha"] / config["r"]
    modules = frozenset(quantised) if bits < 16 else frozenset[str]()
    return Dressing(bits, modules, adapter_weights(adapter), scaling)


def merged_tensor(
    shard: Shard, tensor: Tensor, plan: MergePlan, weights: Pairs, *, device: str = "cpu"
) -> torch.Tensor:
    """The merged value of one tensor, in fp32 and in the shape it is stored in, on `device`, which computes it.

    Apple's devices, for which bitsandbytes has no NF4, leave that to the CPU.

    Raises:
        CheckpointError: it is not finite, or the adapter's matrices do not fit it.
    """
    from heal.models.quantise import compute_dtype, round_trip
    from prune.checkpoint.tensors import read

    wanted, device = device, "cpu" if device.startswith("mps") else device
    result = read(shard, tensor).to(device)
    if tensor.name in plan.dequantised:
        result = round_trip(result, bits=plan.bits, compute=compute_dtype(plan.compute), transposed=plan.transposed)
    result = result.float()
    if tensor.name in plan.deltas:
        down, up = weights[plan.deltas[tensor.name]]
        delta = up.to(device).float() @ down.to(device).float()
        delta *= plan.scaling
        delta = delta.T if plan.transposed else delta
        if delta.shape != result.shape:
            raise CheckpointError(
                f"the adapter's matrices for {tensor.name} make {tuple(delta.shape)}, and it is {tuple(result.shape)}: "
                "an adapter of another model"
            )
        result += delta  # in its place: a matrix of a large model takes a GB in fp32
    if not result.isfinite().all():
        raise CheckpointError(f"{tensor.name} has values that are no numbers after merging; is the adapter whole?")
    return result.to(wanted)


def adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a plain LoRA adapter: one rank, one alpha, nothing beside the two matrices a module.

    Raises:
        CheckpointError: it cannot be read, or says more than that.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        odd = [name for name in _BEYOND if config.get(name)]
        if config["peft_type"] != "LORA" or config["r"] < 1 or odd or config.get("bias", "none") != "none":
            raise CheckpointError(
                f"{folder} is not a plain LoRA adapter{f' ({odd[0]} is set)' if odd else ''}; only those can be merged"
            )
        if not isinstance(config["base_model_name_or_path"], str) or not config["lora_alpha"] > 0:
            raise ValueError("it names no base model, or no alpha")
        return dict(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} has no {ADAPTER_CONFIG} that can be read ({error})") from None


def adapter_weights(folder: Path) -> Pairs:
    """The two matrices of every adapted module.

    Raises:
        CheckpointError: the file is damaged, or one of a pair is missing.
    """
    from prune.checkpoint.tensors import read

    shard = read_shard(inside(folder, ADAPTER_WEIGHTS))
    tensors = {tensor.name.removeprefix("base_model.model."): tensor for tensor in shard.tensors}
    modules = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    if not modules:
        raise CheckpointError(f"{shard.path} holds no LoRA matrices")
    try:
        return {
            name: (read(shard, tensors[f"{name}.lora_A.weight"]), read(shard, tensors[f"{name}.lora_B.weight"]))
            for name in modules
        }
    except KeyError as error:
        raise CheckpointError(f"{shard.path} lacks {error.args[0]}") from None
