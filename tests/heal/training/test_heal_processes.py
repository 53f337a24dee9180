"""Healing by two processes on a CPU: the losses and the adapter of one that is given the same rows in each step."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from heal.text.sources import row_stream
from heal.training.checkpoints import Checkpoints
from tests.support.checkpoints import weights
from tests.support.commands import check_refused, run, succeed
from tests.support.healing import forked

HERE = Path(__file__).parents[2]
TOGETHER = HERE / "support" / "heal_processes.py"
CONFIGS = HERE.parent / "recipes" / "accelerate"


def heal(model, prose, out, *launcher, accumulate, check=True, more=()):
    command = [sys.executable, *launcher, *options_of(model, prose, out, accumulate), *more]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True, timeout=600)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def two(*program):
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]


def options_of(model, prose, out, accumulate, tokens=512):
    options = ["--tokens", tokens, "--length", 32, "--rank", 4, "--learning-rate", 0.01, "--targets", "all"]
    options += ["--dropout", 0, "--eval-every", 2, "--held-out-tokens", 200, "--device", "cpu", "--save-every", 3]
    return ["qlora", model, "--text", prose, "--out", out, *options, "--batch-size", 1, "--accumulate", accumulate]


def compare(one, other):
    """Losses and weights of two runs, which may differ by the order of sums."""
    documents = [json.loads((out / "heal.json").read_text()) for out in (one, other)]
    assert [point["tokens"] for point in documents[0]["curve"]] == [point["tokens"] for point in documents[1]["curve"]]
    for first, second in zip(*(document["curve"] for document in documents), strict=True):
        assert second["held_out_loss"] == pytest.approx(first["held_out_loss"], abs=1e-4)
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-4)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 5e-3
    assert any(theirs[name].abs().max() > 0.01 for name in theirs if "lora_B" in name)


class Both:
    """The rows of two processes, in one: of each as many in every step."""

    chats, counts = False, {}

    def __init__(self, *where, **how):
        self.streams = [row_stream(*where, **{**how, "share": (rank, 2)}) for rank in (0, 1)]
        self.ended = []

    def fill(self):
        for stream in self.streams:
            stream.fill()

    def take(self, count):
        return [row for stream in self.streams for row in stream.take(count // 2)]

    def state(self):
        return {}


@pytest.fixture
def heal_alone(shallow_llama, prose, monkeypatch):
    """Heals in this process, on the rows that two would have."""

    def alone(out, *more):
        with monkeypatch.context() as patch:
            patch.setattr("heal.training.run.row_stream", Both)
            succeed("heal", *options_of(shallow_llama, prose, out, 4), *more)
        return out

    return alone


def launched(folder):
    """The environments of the two processes that `accelerate launch` starts with the config for a CPU."""
    code = "import json, os, sys; json.dump(dict(os.environ), open(f'{sys.argv[1]}/{os.environ[\"RANK\"]}.json', 'w'))"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / "cpu-2.yaml"]
    command += ["--main_process_port", "0", "--no_python", sys.executable, "-c", code, folder]
    folder.mkdir()
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in command], env=env, check=True, capture_output=True, timeout=600)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_stop_go_on_and_give_the_losses_of_one(heal_alone, shallow_llama, prose, tmp_path, monkeypatch):
    """Stopped by a SIGTERM to one of them. Only one of them writes and prints."""
    monkeypatch.setattr("heal.text.streams.BUFFER", 8)  # as in heal_processes.py
    heal_alone(tmp_path / "alone")
    out = tmp_path / "adapter"
    args = [str(word) for word in options_of(shallow_llama, prose, out, accumulate=2)]
    ranks = launched(tmp_path / "ranks")
    stop = {"args": args, "ranks": ranks, "at": 3, "signal": int(signal.SIGTERM)}
    stopped, resumed = forked(stop, {"args": [*args, "--resume", "--json"], "ranks": ranks})
    assert stopped["code"] != 0
    assert f"stopped by {signal.Signals.SIGTERM.name} after step 3" in stopped["stderr"]
    assert resumed["code"] == 0, resumed["stderr"]
    document = json.loads(resumed["stdout"])
    assert document["settings"]["processes"] == 2
    assert document["resumed"] == [3]
    assert sorted(os.listdir(tmp_path)) == ["adapter", "alone", "ranks"]
    compare(tmp_path / "alone", out)


def test_a_run_ends_with_the_process_whose_text_ends_first(shallow_llama, prose, tmp_path, monkeypatch):
    """By a stand-in for the other process, which has rows for two steps."""
    others = iter([True, True, False])
    monkeypatch.setattr("heal.training.loop.gather", lambda mine: [mine, next(others)] if mine is True else [mine])
    done = succeed("heal", *options_of(shallow_llama, prose, tmp_path / "adapter", accumulate=4), "--json")
    assert json.loads(done.stdout)["ended"]["by"] == "text"
    assert json.loads(done.stdout)["ended"]["step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 16])
def test_shards_give_the_losses_of_one(bits, heal_alone, shallow_llama, prose, tmp_path):
    """FSDP, through accelerate; see heal_processes.py. Stopped and taken up on the way."""
    heal_alone(tmp_path / "one", "--bits", bits)
    program = two(TOGETHER, "together", "--sharded")
    heal(shallow_llama, prose, tmp_path / "two", *program, accumulate=2, more=["--bits", bits])
    compare(tmp_path / "one", tmp_path / "two")
    stopped = [*program, "--stop-at", "3"]
    done = heal(shallow_llama, prose, tmp_path / "three", *stopped, accumulate=2, more=["--bits", bits], check=False)
    assert done.returncode != 0
    assert f"stopped by {signal.Signals.SIGTERM.name} after step 3" in done.stderr
    assert Checkpoints(tmp_path / "three").steps() == [3]
    heal(shallow_llama, prose, tmp_path / "three", *program, accumulate=2, more=["--bits", bits, "--resume"])
    assert json.loads((tmp_path / "three" / "heal.json").read_text())["resumed"] == [3]
    compare(tmp_path / "two", tmp_path / "three")


def test_the_configs_are_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {path.name: load_config_from_file(str(path)) for path in CONFIGS.glob("*.yaml")}
    assert {name: str(config.distributed_type).rpartition(".")[2] for name, config in kinds.items()} == {
        "cpu-2.yaml": "MULTI_GPU",
        "ddp.yaml": "MULTI_GPU",
        "fsdp-qlora.yaml": "FSDP",
    }
    assert kinds["cpu-2.yaml"].use_cpu
    assert kinds["fsdp-qlora.yaml"].fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def test_what_fsdp_shards_is_of_one_dtype(shallow_llama, monkeypatch):
    from heal.models.lm_head import projection
    from heal.models.quantise import load_frozen
    from prune.checkpoint.source import Source

    ids = torch.arange(5, 25)[None]
    states = []
    for asked in ("false", "true"):
        monkeypatch.setenv("ACCELERATE_USE_FSDP", asked)
        monkeypatch.setenv("WORLD_SIZE", "2")
        model = load_frozen(Source(shallow_llama, "tiny"), bits=4, device="cpu", dtype="bfloat16")
        if asked == "true":
            assert not any(weight.bnb_quantized for weight in model.parameters() if hasattr(weight, "bnb_quantized"))
            for parameter in model.parameters():
                parameter.data = parameter.to("cpu")  # as FSDP moves it to its device
        states.append(projection(model)(model.get_decoder()(input_ids=ids).last_hidden_state))
        found = {parameter.dtype for parameter in model.parameters()}
        assert found == ({torch.bfloat16} if asked == "true" else {torch.bfloat16, torch.uint8})
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("qlora", ["--bits", "8"], "--bits 8 cannot be put in shards"),
        ("qlora", ["--patience", "2"], "--patience keeps a copy"),
        ("qlora", ["--kernels", "liger"], "--kernels liger is checked before training, and a base in shards cannot be"),
        ("distill", ["--teacher", "full"], "shares weights between two models, which FSDP cannot"),
    ],
)
def test_what_fsdp_cannot_do_is_refused(command, options, message, shallow_llama, prose, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_refused(run("heal", command, shallow_llama, "--text", prose, "--out", tmp_path / "a", *options), 2, message)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FSDP_VERSION", "2", "accelerate's config: set fsdp_version: 1 "),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "set fsdp_cpu_ram_efficient_loading: false (every process maps the"),
        ("FSDP_USE_ORIG_PARAMS", "true", "set fsdp_use_orig_params: false "),
    ],
)
def test_a_config_of_fsdp_that_does_not_fit_is_refused(variable, value, message, shallow_llama, tmp_path, monkeypatch):
    for name, set_to in {"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2", variable: value}.items():
        monkeypatch.setenv(name, set_to)
    check_refused(run("heal", "qlora", shallow_llama, "--text", "a.txt", "--out", tmp_path / "a"), 2, message)
