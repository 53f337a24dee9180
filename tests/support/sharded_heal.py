"""`heal` under FSDP on a CPU: accelerate shards on GPUs alone, so it is told that its two gloo processes are such.

torchrun --nproc-per-node 2 sharded_heal.py [--stop-at STEP] qlora MODEL ...
"""

import os
import sys
from contextlib import nullcontext

os.environ |= {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "1",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_USE_ORIG_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_SYNC_MODULE_STATES": "false",
}

import accelerate.state
import torch
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp._flat_param import FlatParamHandle

original = accelerate.state.PartialState.__init__


def init(self, *arguments, **named):
    original(self, *arguments, **named)
    if self.distributed_type is accelerate.state.DistributedType.MULTI_CPU:
        self.distributed_type = accelerate.state.DistributedType.MULTI_GPU
        self.device = torch.device("cpu")


accelerate.state.PartialState.__init__ = init
# Moving a gathered weight to the CPU frees the GPU's copy; here both are one.
FlatParamHandle.to_cpu = lambda self: nullcontext()


def whole(*_, **__):
    raise AssertionError("the whole base was gathered, where its adapter is enough")


FullyShardedDataParallel.state_dict = whole

from stopped_heal import stop_at  # noqa: E402

from heal.cli import app  # noqa: E402

words = sys.argv[1:]
if words[0] == "--stop-at":
    stop_at(int(words[1]))
    words = words[2:]
app(words, prog_name="heal")
