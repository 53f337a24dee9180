"""Layers' seconds: told by a clock that stands still but for what layers are known to take."""

import json
import shutil
from dataclasses import replace

import pytest

from prune import FitSettings, TimeSettings, plan_cut, time_layers
from prune.choosing.fit import SpeedTarget, check_reach, fewest
from prune.choosing.settings import CutSettings
from prune.choosing.times import KindTimes, Span, Times
from prune.choosing.timing import _stand_in
from prune.common.errors import CheckpointError, RegrowthError
from prune.families.subject import open_subject
from prune.models import stopwatch
from prune.models.loading import decoder_layers
from prune.models.stopwatch import Stopwatch
from tests.support.commands import check_refused, run, succeed
from tests.support.every_family import save_small_model
from tests.support.models import tiny

SHORT = TimeSettings(context=20, new_tokens=2, rounds=2, dtype="float32", device="cpu")


def known(model, clock, head=0.5):
    """Layer i takes (i + 1) seconds, and a hundredth more for each token; the head takes half a second."""
    for number, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(
            lambda _l, args, _k, _a, at=number: clock.add(at + 1 + 0.01 * args[0].shape[1]), with_kwargs=True
        )
    model.get_output_embeddings().register_forward_hook(lambda *_: clock.add(head))


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def add(self, seconds):
        self.seconds += seconds

    def __call__(self):
        return self.seconds


def test_seconds_are_those_that_layers_take():
    model, clock = tiny("llama", layers=3), Clock()
    known(model, clock)
    read, written = Stopwatch(model, clock).round(tokens=20, sequences=2, new_tokens=3)
    assert read.layers == pytest.approx((1.2, 2.2, 3.2))
    assert written.layers == pytest.approx((1.01, 2.01, 3.01))
    assert (read.outside, written.outside) == pytest.approx((0.5, 0.5))


def test_new_tokens_are_written_behind_the_context():
    model, seen = tiny("llama", layers=2), []

    def note(_module, _args, kwargs):
        seen.append(next(given.get_seq_length() for given in kwargs.values() if hasattr(given, "get_seq_length")))

    decoder_layers(model)[0].self_attn.register_forward_pre_hook(note, with_kwargs=True)
    Stopwatch(model).round(tokens=20, sequences=1, new_tokens=2)
    assert seen == [0, 20, 21]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("time") / "model"
    save_small_model("gemma3_text", folder)
    return folder


def test_kinds_are_timed_apart_and_every_layer_is_of_one(small):
    times = time_layers(small, settings=SHORT, show_progress=False)
    assert {kind.name: kind.layers for kind in times.kinds} == {
        "window of 6": (0, 1, 2, 3, 4, 6, 7),
        "full attention": (5,),
    }
    assert times.whole
    assert all(kind.prefill.least <= kind.prefill.median <= kind.prefill.most for kind in times.kinds)


def test_of_a_model_that_does_not_fit_one_layer_of_each_kind_is_timed(small, monkeypatch):
    made = []
    start = stopwatch.Stopwatch.__init__
    monkeypatch.setattr(stopwatch.Stopwatch, "__init__", lambda self, model: made.append(model) or start(self, model))
    settings = TimeSettings(context=20, new_tokens=2, rounds=2, dtype="float32", device="cpu", max_memory=1000)
    times = time_layers(small, settings=settings, show_progress=False)
    assert (times.whole, len(decoder_layers(made[0])), times.layers) == (False, 2, 8)
    assert times.dtype == "float32"
    assert {kind.name: len(kind.layers) for kind in times.kinds} == {"window of 6": 7, "full attention": 1}


@pytest.mark.parametrize(("asked", "context", "prompt"), [(None, 128, 126), (128, 128, 126), (127, 127, 126)])
def test_a_context_as_long_as_the_model_reads_leaves_room_for_the_new_tokens(small, asked, context, prompt):
    settings = TimeSettings(context=asked, new_tokens=2, rounds=1, device="cpu")
    times = time_layers(small, settings=settings, show_progress=False)
    assert (times.context, times.prompt) == (context, prompt)


def test_a_quantised_model_that_does_not_fit_is_not_timed_unquantised(small, tmp_path):
    shutil.copytree(small, tmp_path / "packed")
    file = tmp_path / "packed" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(CheckpointError, match="stored quantised and does not fit"):
        time_layers(tmp_path / "packed", settings=replace(SHORT, max_memory=1000), show_progress=False)


def test_a_stand_in_runs_the_models_own_python(tmp_path):
    """Its class is the one that its file has, and not the one of transformers by that name."""
    save_small_model("llama", tmp_path)
    (tmp_path / "own_llama.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    pass\n\n\n"
        "class OwnLlama(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    file = tmp_path / "config.json"
    own = {"AutoConfig": "own_llama.OwnConfig", "AutoModelForCausalLM": "own_llama.OwnLlama"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": own}))
    for trusted, name in ((True, "OwnLlama"), (False, "LlamaForCausalLM")):
        subject = open_subject(tmp_path, carry_code=trusted)
        assert type(_stand_in(subject, [0], "auto", "cpu", trusted)).__name__ == name


def span(seconds):
    return Span(median=seconds, least=seconds, most=seconds)


def planted(**changes):
    """Six layers: five of 1 s (prefill) and 0.1 s (decode), one of 3 s and 0.3 s; 2 s and 0.2 s outside."""
    kinds = (
        KindTimes(name="a", layers=(0, 1, 2, 4, 5), prefill=span(1.0), decode=span(0.1)),
        KindTimes(name="b", layers=(3,), prefill=span(3.0), decode=span(0.3)),
    )
    facts = {"layers": 6, "context": 100, "prompt": 100, "sequences": 2, "new_tokens": 1, "rounds": 1, "device": "cpu"}
    facts |= {"dtype": "float32", "whole": True, "kinds": kinds, "outside_prefill": span(2.0)}
    return Times(**{**facts, "outside_decode": span(0.4), "provenance": {}, **changes})


def test_the_rate_is_that_of_the_layers_that_stay():
    times = planted()
    assert times.rates(range(6)) == pytest.approx((200 / 10, 2 / 1.2))
    assert times.rates([0, 1, 2, 4, 5]) == pytest.approx((200 / 7, 2 / 0.9))


def test_a_speed_is_reached_by_the_fewest_layers():
    target = SpeedTarget(1.3, "decode", planted())
    tried, taken = fewest(target, lambda n: tuple(range(5 - n, 5)), range(1, 6))
    assert taken == (3, 4)  # 1.2 / 0.8; without layer 4 alone 1.2 / 1.1
    assert [target.line(dropped)["ratio"] for dropped in tried] == pytest.approx([1.2 / 1.1, 1.5])
    assert SpeedTarget(1.3, "prefill", planted()).line((3,))["ratio"] == pytest.approx(10 / 7)
    with pytest.raises(RegrowthError, match="with one layer left decode is 2.40 times as fast"):
        check_reach(SpeedTarget(3, "decode", planted()), "it")


def test_damaged_times_are_refused(tmp_path):
    document = planted().to_json()
    document["kinds"][0]["layers"] = [0, 1, 2, 4]
    (tmp_path / "time.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="do not name every layer once"):
        Times.read(tmp_path / "time.json")


def test_the_commands(small, tmp_path):
    file, how = tmp_path / "time.json", ["--context", "20", "--new-tokens", "2", "--rounds", "2"]
    shown = succeed("prune", "time", small, *how, "--out", file)
    assert "embeddings and head" in shown.stdout
    assert Times.read(file).context == 20
    check_refused(run("prune", "time", small, *how, "--out", file), 1, "exists")
    document = json.loads(file.read_text())
    for kind in document["kinds"]:  # what the clock of a busy machine says may make any cut too slow
        kind["decode"] = {"median": 1.0, "least": 1.0, "most": 1.0}
    file.write_text(json.dumps(document))
    words = ["cut", small, "--speed", "1.1x", "--context", "20", "--criterion", "deepest", "--dry-run"]
    document = json.loads(succeed("prune", *words, "--times", file, "--json").stdout)
    speed = document["evidence"]["speed"]
    assert (speed["target"], speed["of"]) == (1.1, "decode")
    assert (speed["whole"], speed["rounds"], speed["prompt"]) == (True, 2, 20)
    assert speed["taken"]["ratio"] >= 1.1
    check_refused(run("prune", *words[:5], "30", *words[6:], "--times", file), 2, "was taken with 1 x 20 tokens")
    check_refused(run("prune", "time", small, "--context", "129"), 2, "--context 129 is beyond the 128 tokens")
    check_refused(run("prune", "time", small, "--new-tokens", "128"), 2, "--new-tokens 128 leaves no room for a prompt")
    save_small_model("llama", tmp_path / "other")
    check_refused(run("prune", "cut", tmp_path / "other", *words[2:], "--times", file), 1, "time again with")


def test_a_cut_measures_by_itself(small):
    fit = FitSettings(speed=1.05, context=20, speed_of="prefill")
    plan = plan_cut(small, fit=fit, settings=CutSettings(criterion="deepest"), show_progress=False)
    assert plan.evidence["speed"]["of"] == "prefill"
    assert plan.evidence["speed"]["taken"]["ratio"] >= 1.05
