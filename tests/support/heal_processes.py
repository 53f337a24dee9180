"""Healing to which something happens on its way: a signal in a step or in a checkpoint, or a base in shards.

    python heal_processes.py children '[{"args": ["qlora", ...], "at": 5, "signal": 9, "where": "step"}, ...]'

forks a child for each job, so that all is imported once, and prints one JSON object a line: the child's exit code
(minus the number of the signal that ended it), stdout and stderr. `where` is "step" (in the middle of the `at`-th step
that the child does, 1-based) or "saving" (when the checkpoint of step `at` is half written). With `ranks`, a list of
environments, each is that of one child; they work together, and the signal comes to the last.

    torchrun --nproc-per-node 2 heal_processes.py together [--sharded] [--stop-at STEP] qlora MODEL ...

With --stop-at a SIGTERM comes to the second process in that step. With --sharded the base is in shards (FSDP).
"""

import json
import os
import signal
import socket
import sys
import tempfile
from contextlib import nullcontext

import pytest
from healing_steps import signal_in_step


def signal_while_saving(step, number, patch):
    import heal.training.state

    write = heal.training.state.write_state

    def halved(folder, *parts):
        if folder.name == f"checkpoint-{step}":
            os.kill(os.getpid(), number)
        write(folder, *parts)

    patch.setattr(heal.training.state, "write_state", halved)


def children(jobs):
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401

    import heal.text.streams

    heal.text.streams.BUFFER = 8  # so that a small text has a place in it that matters
    for job in jobs:
        meeting = {"MASTER_PORT": free_port(), "TORCHELASTIC_USE_AGENT_STORE": "False"}  # the launcher's store is gone
        ranks = [{**rank, **meeting} for rank in job.get("ranks", [])] or [{}]
        with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
            pids = [os.fork() or child(job, ranks, index, printed, errors) for index in range(len(ranks))]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            told = {}
            for name, file in (("stdout", printed), ("stderr", errors)):
                file.seek(0)
                told[name] = file.read().decode(errors="replace")
            print(json.dumps({"code": next((code for code in codes if code), 0), **told}), flush=True)


def child(job, ranks, index, printed, errors):
    os.dup2(printed.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    os.environ |= ranks[index]
    if "at" in job and index == len(ranks) - 1:
        arm = signal_while_saving if job.get("where") == "saving" else signal_in_step
        arm(job["at"], job["signal"], pytest.MonkeyPatch())
    code = 99
    try:
        heal_command(job["args"])
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def shard():
    """FSDP on a CPU: accelerate shards on GPUs alone, so it is told that its two gloo processes are such."""
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
    import torch
    from accelerate.state import DistributedType, PartialState
    from bitsandbytes.nn import Params4bit
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp._flat_param import FlatParamHandle

    original = PartialState.__init__

    def init(self, *arguments, **named):
        original(self, *arguments, **named)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU
            self.device = torch.device("cpu")

    def whole(*_, **__):
        raise AssertionError("the whole base was gathered, where its adapter is enough")

    quantise, shard_unit, waiting = Params4bit._quantize, FlatParamHandle.shard, []

    def quantised(self, device):
        waiting.append(self)
        assert len(waiting) <= 7, "more than the matrices of one layer were quantised before they were put in shards"
        return quantise(self, device)

    def put_in_shards(self):
        waiting.clear()
        shard_unit(self)

    Params4bit._quantize, FlatParamHandle.shard = quantised, put_in_shards
    PartialState.__init__ = init
    # Moving a gathered weight to the CPU frees the GPU's copy; here both are one.
    FlatParamHandle.to_cpu = lambda self: nullcontext()
    FullyShardedDataParallel.state_dict = whole


def together(words):
    if words[0] == "--sharded":
        shard()
        words = words[1:]
    if words[0] == "--stop-at":
        if os.environ["RANK"] == "1":
            signal_in_step(int(words[1]), signal.SIGTERM, pytest.MonkeyPatch())
        words = words[2:]
    heal_command(words)


def heal_command(words):
    from heal.cli import app

    app(words, prog_name="heal")


if __name__ == "__main__":
    if sys.argv[1] == "children":
        children(json.loads(sys.argv[2]))
    else:
        together(sys.argv[2:])
