"""docs/many-gpus.md and docs/examples/heal.slurm: launchers and commands take the words that they are given there."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from bench.scale_table import lines
from recipes.commands import options_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "many-gpus.md"
SCRIPT = ROOT / "docs" / "examples" / "heal.slurm"
PROGRAMS = {"prune": "prune", "heal": "heal", "eval": "evaluate"}
HEAL = ["distill", "runs/pruned", "--teacher", "full", "--text", "prose file.jsonl", "--out", "runs/adapter"]


def check_ours(module, words):
    """The words after `-m MODULE` are a command of ours, and its options."""
    known = options_of(f"{PROGRAMS[module]} {words[0]}")
    given = {word[2:].split("=")[0] for word in words if re.match(r"--[a-z]", word)}
    assert given <= {*known, *(option.negation for option in known.values())}


def launched(words):
    """The launcher's own parser reads them; what it starts."""
    if words[0] == "torchrun":
        asked = get_args_parser().parse_args(words[1:])
    else:
        assert words[:2] == ["accelerate", "launch"]
        asked = launch_command_parser().parse_args(words[2:])
    assert asked.module
    check_ours(asked.training_script, asked.training_script_args)
    return asked


def fenced(start):
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.startswith(start):
                yield shlex.split(line, comments=True)


def test_the_launchers_commands_of_the_page_are_read_by_the_launchers():
    by_torchrun, by_accelerate = list(fenced("torchrun")), list(fenced("accelerate"))
    assert {launched(words).training_script for words in by_torchrun} == set(PROGRAMS)
    for words in by_accelerate:
        assert (ROOT / launched(words).config_file).exists()
    assert len(by_accelerate) > 1


def test_the_table_is_what_the_arithmetic_gives():
    assert "\n".join(lines()) in PAGE.read_text("utf-8")


@pytest.fixture
def dry(tmp_path):
    """Runs the script where srun, scontrol and the launchers only say what they are told, as two nodes with 4 GPUs."""
    stubs = {
        "scontrol": 'test "$*" = "show hostnames node-[07-08]" && printf "node-07\\nnode-08\\n"',
        "srun": 'printf "%s\\n" "$1" > srun; shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "torchrun": 'for word in torchrun "$@"; do printf "%s\\0" "$word"; done >> "launched-$SLURM_NODEID"',
        "accelerate": 'for word in accelerate "$@"; do printf "%s\\0" "$word"; done >> "launched-$SLURM_NODEID"',
    }
    (tmp_path / "bin").mkdir()
    for name, body in stubs.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    job = {
        "SLURM_JOB_ID": "41234", "SLURM_JOB_NODELIST": "node-[07-08]", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32",
    }  # fmt: skip

    def run(words, **more):
        env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **job, **more}
        subprocess.run(["bash", SCRIPT, *words], env=env, cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / "srun").read_text() == "--kill-on-bad-exit=1\n"
        return [(tmp_path / f"launched-{node}").read_text().split("\0")[:-1] for node in (0, 1)]

    return run


def test_the_script_is_shell():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_each_node_starts_torchrun_and_they_meet_at_the_first(dry):
    first, second = dry(HEAL)
    assert first == second
    asked = launched(first)
    assert (asked.nnodes, asked.nproc_per_node) == ("2", "4")
    assert (asked.rdzv_backend, asked.rdzv_endpoint, asked.rdzv_id) == ("c10d", "node-07:21234", "41234")
    assert (asked.training_script, asked.training_script_args) == ("heal", [*HEAL, "--resume"])


def test_each_node_tells_accelerate_which_one_it_is(dry):
    config = str(ROOT / "recipes" / "accelerate" / "fsdp-qlora.yaml")
    nodes = [launched(words) for words in dry(["qlora", *HEAL[1:2], *HEAL[4:]], ACCELERATE_CONFIG=config)]
    assert [asked.machine_rank for asked in nodes] == [0, 1]
    for asked in nodes:
        assert (asked.num_machines, asked.num_processes, asked.config_file) == (2, 8, config)
        assert (asked.main_process_ip, asked.main_process_port) == ("node-07", 21234)
        assert asked.training_script_args[-1] == "--resume"


def test_the_processes_of_a_node_can_be_named_where_there_are_no_gpus(dry):
    assert launched(dry(HEAL, SLURM_GPUS_ON_NODE="", PROCESSES_PER_NODE="3")[0]).nproc_per_node == "3"
