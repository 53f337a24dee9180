"""FSDP: which modules are units of their own, and the adapter put together again from its shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel


def shard_by_layer(accelerator: Accelerator, model: PeftModel) -> None:
    """Let `accelerator.prepare` make each decoder layer a unit, and each matrix of the adapter one of its own."""
    from peft.utils.other import fsdp_auto_wrap_policy

    accelerator.state.fsdp_plugin.auto_wrap_policy = fsdp_auto_wrap_policy(model)


def gather_adapter(wrapped: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights by their names in the model, on the CPU of the main process; {} in the others.

    Only units that are trained as a whole are gathered: the base stays in its shards. Every process must call this,
    after a forward pass.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    weights: dict[str, torch.Tensor] = {}
    for name, unit in wrapped.named_modules():
        parameters = list(unit.parameters()) if isinstance(unit, FullyShardedDataParallel) else []
        if not parameters or not all(parameter.requires_grad for parameter in parameters):
            continue
        with FullyShardedDataParallel.summon_full_params(
            unit, recurse=False, writeback=False, rank0_only=True, offload_to_cpu=True
        ):
            if torch.distributed.get_rank() == 0:
                module = name.replace("_fsdp_wrapped_module.", "")
                for part, weight in unit.module.named_parameters():
                    weights[f"{module}.{part}"] = weight.detach().clone()
    return weights
