"""`--backend vllm` without vLLM: lm-eval's own class in a real second process, with a stand-in for the package."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import eval.asking.vllm_model as vllm_model
import prune.models.vllm.process as vllm_process
from eval.comparison import compare
from eval.runs.run import run
from eval.settings import Settings
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.models.vllm.options import altering, engine_device, parse_engine_options, visible_devices
from prune.models.vllm.process import reason
from tests.support.commands import check_refused
from tests.support.commands import run as run_command
from tests.support.texts import write_jsonl

STUB = Path(__file__).parents[2] / "support" / "stub_vllm"
SMALL = {"domains": "math", "limit": 4, "sets": ["mmlu"], "chat_template": "off", "show_progress": False}


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """The stand-in, where `import vllm` finds it in this process and in those it starts."""
    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as every command sets it; vLLM does not bear it
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # logs of engines that died stay


def test_the_vllm_backend_answers_as_transformers_does(
    tiny_llama, sample_questions, sample_heldout, stub, monkeypatch, tmp_path
):
    prose = tmp_path / "few.jsonl"
    texts = [json.loads(line)["text"] for line in sample_heldout.read_text().splitlines()[:8]]
    write_jsonl(prose, ({"text": " ".join(texts[i:] + texts[:i])} for i in (0, 4)))
    ask = {"data": sample_questions, **SMALL, "limit": 3, "sets": ["mmlu", "asdiv"], "text": str(prose)}
    ask |= {"max_length": 256, "dtype": "float32"}
    there = run(tiny_llama, **ask)
    ask |= {"backend": "vllm", "cache": tmp_path / "kept"}
    monkeypatch.setattr(vllm_model, "PIECE", 2)
    monkeypatch.setenv("STUB_VLLM_CALLS", "1")
    with pytest.raises(RegrowthError, match="vLLM failed: its process ended without a word; its log is"):
        run(tiny_llama, **{**ask, "sets": ["asdiv"], "text": None})  # it dies while it generates
    monkeypatch.delenv("STUB_VLLM_CALLS")
    found = run(tiny_llama, backend_args="max_num_seqs=2", **ask)
    how = {"backend": "vllm", "backend_args": {"max_num_seqs": 2}, "device": "cuda", "batch_size": 2}
    how["batch_sizes"] = {"2": 16, "256": 2}  # two were asked by the run that died, with vLLM's own number
    assert found.settings == {**there.settings, **how}
    for one, other in zip(found.samples, there.samples, strict=True):
        assert one.answer_nll_bits == pytest.approx(other.answer_nll_bits, abs=1e-3)
        assert replace(one, answer_nll_bits=0) == replace(other, answer_nll_bits=0)
    ours, theirs = found.prose["held-out"], there.prose["held-out"]
    assert ours.sha256 == theirs.sha256
    assert max(window.tokens for window in ours.windows) == 256 - 2  # one is not scored, one place is vLLM's
    assert ours.nats_per_token == pytest.approx(theirs.nats_per_token, rel=1e-5)
    again = run(tiny_llama, **ask)
    assert (again.asked, again.samples, found.known) == (0, found.samples, 2)  # what the killed run had got
    (scope,) = tmp_path.glob("kept/*/scope.json")
    document = json.loads(scope.read_text())
    assert (document["versions"]["vllm"], document["device"], document["backend_args"]) == ("0.32.0", "cuda", {})


@pytest.mark.slow
def test_the_precision_is_the_one_that_ran(tiny_llama, sample_questions, stub, tmp_path):
    """vLLM runs a float32 checkpoint in 16 bits where it is not told; each model of a comparison has a process."""
    ask = {"data": sample_questions, **SMALL, "limit": 2, "backend": "vllm", "out": tmp_path / "bill"}
    document = compare(tiny_llama, [tiny_llama], labels=["full", "other"], **ask).to_json()
    assert [model["settings"]["dtype"] for model in document["models"]] == ["bfloat16", "bfloat16"]


def light(monkeypatch, make):
    """An engine process that imports nothing heavy; `make` is the source of what makes its model."""
    start = "import sys; sys.path = {path!r}; import prune.models.vllm.child as child"
    lines = (start, make, "child._make = make", "child.main({descriptor})")
    monkeypatch.setattr(vllm_process, "_CHILD", "\n".join(lines))


def test_what_vllm_refuses_comes_as_one_line(tiny_llama, sample_questions, stub, monkeypatch, tmp_path):
    light(monkeypatch, "def make(module, name, options): raise ValueError(options['dtype'] + ' is none\\nand more')")
    with pytest.raises(CheckpointError) as refused:
        compare(tiny_llama, [tiny_llama], out=tmp_path / "bill", data=sample_questions, backend="vllm", **SMALL)
    line, _, log = str(refused.value).partition("; its log is ")
    assert line == f"{tiny_llama} cannot be loaded by vLLM 0.32.0 (vLLM failed: ValueError: auto is none"
    assert "Traceback" in Path(log.rstrip(")")).read_text()
    assert not (tmp_path / "bill").exists()


@pytest.mark.parametrize(("value", "handed_on"), [("expandable_segments:True", False), ("backend:native", True)])
def test_what_we_ask_of_the_allocator_is_not_handed_on_to_vllm(value, handed_on, monkeypatch):
    """What the user asks for is."""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", value)
    assert ("PYTORCH_ALLOC_CONF" in vllm_process._environment("cpu")) is handed_on


PARENT = """
import sys, types
from pathlib import Path
import prune.models.vllm.process as vllm_process
from eval.asking.vllm_model import VllmModel
from eval.settings import Settings
from prune.checkpoint.source import Source
vllm_process._CHILD = (
    "import sys; sys.path = {path!r}; import os, time, pathlib; import prune.models.vllm.child as child\\n"
    "def make(module, name, how): pathlib.Path(how['pretrained']).write_text(str(os.getpid())); time.sleep(600)\\n"
    "child._make = make; child.main({descriptor})"
)
VllmModel(Source(Path(sys.argv[1]), "model"), Settings(backend="vllm"), max_length=64, bar=None)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_engine_ends_with_its_parent(number, tmp_path):
    place = tmp_path / "pid"
    path = os.pathsep.join([str(STUB), str(Path(__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(place)], env=environment, stderr=subprocess.DEVNULL)
    _wait(lambda: place.exists() and place.read_text(), parent)
    engine = int(place.read_text())
    parent.send_signal(number)
    assert parent.wait(300) != 0
    _wait(lambda: _gone(engine))


def _wait(done, parent=None):
    for _ in range(3000):
        if done():
            return
        assert parent is None or parent.poll() is None
        time.sleep(0.1)
    pytest.fail("it did not happen in five minutes")


def _gone(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


def test_options_of_the_engine_are_typed():
    found = parse_engine_options("tensor_parallel_size=2, gpu_memory_utilization=0.6,enforce_eager=True")
    assert found == (("enforce_eager", True), ("gpu_memory_utilization", 0.6), ("tensor_parallel_size", 2))
    assert altering(found) == {"enforce_eager": True, "tensor_parallel_size": 2}
    typed = {"enforce_eager": False, "kv_cache_dtype": "fp8"}
    assert parse_engine_options(typed) == tuple(typed.items())
    assert parse_engine_options(None) == parse_engine_options("") == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("swap=3", "--backend-args swap is unknown; use gpu_memory_utilization, "),
        ("gpu_memory_utilization=1.5", "gpu_memory_utilization=1.5 must be a share above 0, 1 at most"),
        ("gpu_memory_utilization=nan", "must be a share"),
        ("tensor_parallel_size=2.5", "tensor_parallel_size=2.5 must be a whole number, 1 or more"),
        ("enforce_eager=1", "enforce_eager=1 must be true or false"),
        ("enforce_eager", "enforce_eager has no value; pass name=value"),
        ("max_num_seqs=2,max_num_seqs=3", "gives max_num_seqs twice"),
        ("max_model_len=512", "--backend-args max_model_len: use --max-length"),
    ],
)
def test_a_wrong_option_of_the_engine_is_named(given, message):
    with pytest.raises(UsageError, match=message):
        Settings.of(domains="math", data=".", backend="vllm", backend_args=given)


def test_options_of_the_engine_need_the_engine(tiny_llama):
    asked = ["--tasks", "x", "--backend-args", "enforce_eager=true", "--out", "x"]
    refused = run_command("evaluate", "run", tiny_llama, *asked)
    check_refused(refused, 2, "--backend-args are for vLLM's engine; add --backend vllm")


def test_a_vllm_that_is_missing_or_too_old_is_named(monkeypatch, stub):
    monkeypatch.setattr("prune.models.vllm.options.find_spec", lambda name: None)
    with pytest.raises(RegrowthError, match="vLLM is not installed here"):
        engine_device("auto")
    monkeypatch.setattr("prune.models.vllm.options.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.8.0")
    with pytest.raises(RegrowthError, match=r"needs vLLM 0.32 or newer, and 0.8.0 is installed; update it"):
        engine_device("auto")
    for version in ("0.32.0", "0.33.0rc1", "1.0", "0.1.dev14+g1234", "a build of ours"):
        monkeypatch.setattr("importlib.metadata.version", lambda name, version=version: version)
        assert engine_device("auto") == "cuda"


def test_the_device_is_respected_or_refused(monkeypatch, stub):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [engine_device(device) for device in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(RegrowthError, match="--device cuda:2 is not on this machine: there are cuda:0 to cuda:1"):
        engine_device("cuda:2")
    for device in ("cpu", "mps", "cuda:x"):
        with pytest.raises(UsageError, match=f"--device {device} cannot be used with --backend vllm: .* on cuda"):
            engine_device(device)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.32.0+cpu")
    assert engine_device("auto") == engine_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="computes on cpu"):
        engine_device("cuda")
    assert visible_devices("cuda:1", None) == "1"
    assert visible_devices("cuda:1", "4,7") == "7"
    assert visible_devices("cuda", "4,7") == "4,7"
    assert visible_devices("cpu", None) is None


def test_the_cause_is_told_from_the_log_where_a_worker_failed():
    log = "(EngineCore) ERROR core.py ValueError: Free memory 1 GiB\nRuntimeError: Engine core initialization failed.\n"
    assert reason("RuntimeError: Engine core initialization failed. See above", log) == "ValueError: Free memory 1 GiB"
    assert reason("its process ended without a word", "") == "its process ended without a word"
    pydantic = "ValidationError: 1 validation error for ModelConfig\n  Value error, too long. [type=value_error, x]\n"
    assert reason(pydantic, log) == "too long"
