"""Real turns of small models in real processes, and what becomes of one that cannot have its turn."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import eval.gains.measure as measure
from eval.asking.backends import asked_context
from eval.billing.document import write_run
from eval.comparison import compare
from eval.gains.measure import measure_gains
from eval.gains.plan import plan_gains
from eval.gains.settings import GainsSettings
from eval.runs.run import run
from eval.settings import ComparisonSettings
from prune.checkpoint.source import Source
from prune.common.errors import UsageError
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from tests.support.commands import check_refused, succeed
from tests.support.commands import run as command
from tests.support.models import tiny

SMALL = {"domains": "math", "limit": 2, "sets": ["mmlu"], "chat_template": "off", "show_progress": False}
FEW = GainsSettings(context=20, new_tokens=4, sequences=2, rounds=2)
FAILING = (
    "import os, sys; sys.path = {path!r}; import eval.gains.child as child\n"
    "def measured(order, parameters):\n"
    "    if 'dies' in order['name']: os.kill(os.getpid(), 9)\n"
    "    if 'raises' in order['name']: raise SystemExit\n"
    "    sizes = ('parameters', 'weight_bytes', 'cache_bytes', 'peak_memory_bytes')\n"
    "    return 'turn', dict.fromkeys((*sizes, 'prefill_seconds', 'decode_seconds'), 1)\n"
    "child.measured, child._warm_up, child.counted = measured, lambda: None, lambda *model: 1\n"
    "child.main({descriptor})\n"
)


@pytest.fixture(scope="module")
def shorter(tiny_llama, tmp_path_factory):
    """The tiny model without 2 of its 8 layers."""
    out = tmp_path_factory.mktemp("cut") / "cut"
    cut(plan_cut(tiny_llama, start=3, n=2), out)
    return out


@pytest.fixture(scope="module")
def billed(tiny_llama, shorter, sample_questions, tmp_path_factory):
    """A comparison with a stored run, whose model is there, and one whose model is gone."""
    base = tmp_path_factory.mktemp("billed")
    gone = shutil.copytree(shorter, base / "gone")
    for name, model in (("kept", shorter), ("lost", gone)):
        write_run(run(model, data=sample_questions, **SMALL), base / name)
    shutil.rmtree(gone)
    others = [shorter, base / "kept", base / "lost"]
    compare(tiny_llama, others, data=sample_questions, out=base / "bill", gains=FEW, **SMALL)
    return base / "bill", json.loads((base / "bill" / "comparison.json").read_text())["gains"]


def test_bytes_are_those_of_the_config(billed, tiny_llama, shorter):
    _, gains = billed
    for row, folder in zip(gains["models"], (tiny_llama, shorter, shorter), strict=True):
        config = json.loads((folder / "config.json").read_text())
        held = AutoModelForCausalLM.from_pretrained(folder)
        values = sum(weight.numel() for weight in held.parameters())
        assert row["parameters"] == values
        assert row["weight_bytes"] == 4 * (values + 2 * config["head_dim"] // 2)  # and the rotary table, kept twice
        heads, width = config["num_key_value_heads"], config["head_dim"]
        assert row["kv_bytes_per_token"] == 2 * config["num_hidden_layers"] * heads * width * 4
        for key in ("prefill_tokens_per_second", "decode_tokens_per_second", "peak_memory_bytes"):
            assert 0 < row[key]["low"] <= row[key]["median"] <= row[key]["high"]
    assert gains["models"][1]["ratio"]["kv_bytes_per_token"] == 6 / 8
    assert gains["models"][0]["ratio"] is None
    sizes = {key: gains[key] for key in ("context", "new_tokens", "sequences", "rounds", "device", "engine")}
    assert sizes == {
        "context": 20,
        "new_tokens": 4,
        "sequences": 2,
        "rounds": 2,
        "device": "cpu",
        "engine": "transformers",
    }


def test_a_stored_run_is_measured_where_its_model_is_still_there(billed):
    out, gains = billed
    assert [row["model"] for row in gains["models"]] == ["llama", "cut", "kept"]
    (note,) = gains["notes"]
    assert note.startswith("no gains of lost: its model is no longer at ")
    assert note in (out / "comparison.md").read_text()


def test_both_lines_stand_at_the_top(billed):
    out, _ = billed
    lines = (out / "comparison.md").read_text().splitlines()
    told = next(line for line in lines if line.startswith("- cut, what you gain: "))
    assert "25 % fewer KV-cache bytes a token" in told
    assert lines.index(told) < next(number for number, line in enumerate(lines) if line.startswith("### "))
    page = (out / "report.html").read_text()
    assert page.count("<dt>What you gain</dt>") == 2
    assert page.count("<dt>What it costs</dt>") == 3


def test_a_model_that_changed_is_not_the_one_of_the_run(tiny_llama, shorter, sample_questions, tmp_path):
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    asked = run(model, data=sample_questions, **SMALL)
    shutil.rmtree(model)
    shutil.copytree(shorter, model)
    plan = plan_gains({"full": tiny_llama, "run": tmp_path}, {"run": asked}, ComparisonSettings(), FEW)
    assert list(plan.orders) == ["full"]
    assert plan.notes == (f"no gains of run: the model at {model} is another one now",)


def test_precision_and_weights_are_those_that_were_judged(tiny_llama, sample_questions):
    asked = ComparisonSettings(load_in_4bit=True, dtype="float32")
    half = run(tiny_llama, data=sample_questions, dtype="bfloat16", **SMALL)
    plan = plan_gains({"full": tiny_llama, "run": tiny_llama}, {"run": half}, asked, FEW)
    assert [(o.dtype, o.load_in_4bit) for o in plan.orders.values()] == [("float32", True), ("bfloat16", False)]
    assert plan_gains({"full": tiny_llama}, {}, asked, GainsSettings(gains=False)) is None


def test_a_stretched_context_counts(tmp_path):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    tiny("qwen2", max_position_embeddings=64, rope_parameters=rope).save_pretrained(tmp_path)
    asked = ComparisonSettings(device="cpu")
    plan = plan_gains({"full": tmp_path}, {}, asked, GainsSettings(context=200, new_tokens=4))
    assert (plan.context, asked_context(Source(tmp_path, "it"), 200)) == (200, 200)


def test_models_that_vllm_answers_for_are_measured_by_transformers_and_the_bill_says_so(tiny_llama):
    engine = (("quantization", "fp8"), ("tensor_parallel_size", 2))
    asked = ComparisonSettings(backend="vllm", backend_args=engine)
    plan = plan_gains({"full": tiny_llama}, {}, asked, FEW)
    assert plan.orders["full"].spread
    assert plan.notes == (
        "speed and memory are those of transformers, and not of vLLM, which was asked the questions",
        "full: measured as stored, while vLLM judged other weights",
    )


def test_prompts_fit_the_smallest_context(tiny_llama):
    plan = plan_gains({"full": tiny_llama}, {}, ComparisonSettings(), GainsSettings())
    assert (plan.context, plan.new_tokens) == (128, 32)
    with pytest.raises(UsageError, match="--gains-context 500 with --gains-new-tokens 32 is more than the 512 tokens"):
        plan_gains({"full": tiny_llama}, {}, ComparisonSettings(), GainsSettings(context=500))


@pytest.mark.parametrize("option", ["context", "new_tokens", "sequences", "rounds"])
def test_sizes_of_nothing_are_refused(option):
    with pytest.raises(UsageError, match=f"--gains-{option.replace('_', '-')} 0: use 1 or more"):
        GainsSettings(**{option: 0})


def test_a_turn_that_fails_costs_its_model_alone(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_CHILD", FAILING)
    models = {}
    for name in ("full", "dies", "raises", "cut"):
        models[name] = tmp_path / name
        models[name].symlink_to(tiny_llama)
    plan = plan_gains(models, {}, ComparisonSettings(), GainsSettings(rounds=2))
    gains = measure_gains(plan, show_progress=False)
    assert [row.model for row in gains.models] == ["full", "cut"]
    assert gains.models[1].ratio.parameters == 1
    assert gains.notes == (
        "no gains of dies: out of memory",
        "no gains of raises: its process ended without a word",
    )


def test_without_the_full_model_there_is_no_ratio(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_CHILD", FAILING)
    for name in ("dies", "cut"):
        (tmp_path / name).symlink_to(tiny_llama)
    plan = plan_gains({"full": tmp_path / "dies", "cut": tmp_path / "cut"}, {}, ComparisonSettings(), FEW)
    gains = measure_gains(plan, show_progress=False)
    assert [(row.model, row.ratio) for row in gains.models] == [("cut", None)]


def test_a_turn_ends_with_the_command_that_is_killed():
    inner = (
        "import sys, time; sys.path = {path!r}; import eval.gains.child as child\n"
        "child._warm_up, child.counted = lambda: None, lambda *model: 1\n"
        "child.measured = lambda *order: time.sleep(600)\n"
        "child.main({descriptor})"
    )
    code = (
        f"import sys; sys.path = {sys.path!r}\n"
        "from prune.common.machine.children import ChildProcess\n"
        f"process = ChildProcess({inner!r})\n"
        "print(process._process.pid, flush=True)\n"
        "process.ask(dict(folder=0, name=0))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        group = int(owner.stdout.readline())
        deadline = time.monotonic() + 300
        while len(members(group)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(members(group)) == 2  # the process that measures, and a turn of it
        os.kill(owner.pid, signal.SIGKILL)
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(group)


def members(group):
    """Processes of a group that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == group and state != "Z":
            found.append(stat)
    return found


def test_no_gains_leaves_them_out(tiny_llama, shorter, sample_questions, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ChildProcess", None)
    asked = ["--data", sample_questions, "--domains", "math", "--sets", "mmlu", "--limit", 2, "--no-gains"]
    done = succeed("evaluate", "compare", tiny_llama, shorter, *asked, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["gains"] is None
    assert "what you gain" not in done.stdout
    assert "cut, what it costs: " in done.stdout
    refused = command("evaluate", "compare", "a", "b", "--gains-rounds", 0, "--out", tmp_path / "out")
    check_refused(refused, 2, "--gains-rounds 0: use 1 or more")
    for option in ("context", "new_tokens", "sequences", "rounds"):
        flag = f"--gains-{option.replace('_', '-')}"
        with pytest.raises(UsageError, match=f"^{flag} says how gains are measured; leave out --no-gains"):
            GainsSettings(gains=False, **{option: 7})
