"""Settings from Python that cannot be: each ends in one line that names the option, whatever public class holds it.

What is wrong in itself shows when the settings are made; what healing makes of them, before a run begins.
"""

import re
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import eval as evaluate
import heal
import prune
from prune.common.errors import UsageError

ASKED = {"domains": ("math",), "data": Path("questions")}
TARGET = {"context": 1000}


def train(model, settings=None, run=None, text="text.jsonl"):
    return heal.qlora(model, text, "out", settings=settings, run=run)


def distill(model, settings):
    return heal.distill(model, model, "text.jsonl", "out", settings=settings)


def patch(model, settings=None, run=None):
    return heal.patch(model, model, "text.jsonl", "out", settings=settings, run=run)


BAD = [
    (prune.CheckSettings, {"tokens": 3}, "--check-tokens"),
    (prune.CheckSettings, {"candidates": -1}, "--check"),
    (prune.ConceptsSettings, {"labels": ("casing",)}, "--labels"),
    (prune.ConceptsSettings, {"labels": ()}, "--labels"),
    (prune.ConceptsSettings, {"scale": "log"}, "--scale"),
    (prune.CutSettings, {"criterion": "cosine"}, "--criterion"),
    (prune.CutSettings, {"criterion": "domain", "costs": Path("c.json"), "weigh": {"math": -1.0}}, "--weigh"),
    (prune.CutSettings, {"criterion": "domain", "costs": Path("c.json"), "weigh": {"math": 0.0}}, "--weigh"),
    (prune.FitSettings, {**TARGET, "speed": 0.5}, "--speed"),
    (prune.FitSettings, {**TARGET, "speed": 1.3, "speed_of": "both"}, "--speed-of"),
    (prune.FitSettings, {**TARGET, "size": 1 << 30, "prefill_chunk": 0}, "--prefill-chunk"),
    (prune.HeadsSettings, {"by": "read"}, "--by"),
    (prune.HeadsSettings, {"lengths": (350, 0)}, "--lengths"),
    (prune.HeadsSettings, {"top": (-5,)}, "--top"),
    (prune.ScanSettings, {"tokens": "first"}, "--tokens"),
    (prune.TimeSettings, {"rounds": 0}, "--rounds"),
    (prune.WriteSettings, {"thinking": "deep"}, "--thinking"),
    (evaluate.ComparisonSettings, {"protocols": ("essay",)}, "--protocols"),
    (evaluate.ComparisonSettings, {"noise_limit": 1}, "--noise-limit"),
    (evaluate.DepthSettings, {**ASKED, "measures": ("speed",)}, "--measures"),
    (evaluate.GainsSettings, {"rounds": 0}, "--gains-rounds"),
    (evaluate.RunSettings, {"thinking": ("deep",)}, "--thinking"),
    (evaluate.RunSettings, {"backend": "onnx"}, "--backend"),
    (evaluate.SweepSettings, {**ASKED, "protocols": ("essay",)}, "--protocols"),
    (heal.RankRun, {"plot": Path("bins.png")}, "--plot"),
    (heal.RankSettings, {"methods": ("cosine",)}, "--methods"),
    (heal.Selection, {"select": "0%", "select_out": Path("rows.jsonl")}, "--select"),
]
BAD_TO_HEAL = [  # settings that a method's function checks, as what is right depends on more of them
    (heal.BudgetQuery, {"method": "sft"}, "--method", lambda model, made: heal.plan_budget(model, made)),
    (heal.DistillSettings, {"plain_loss": 2.0}, "--plain-loss", distill),
    (heal.PatchRun, {"tokens": "many"}, "--tokens", lambda model, made: patch(model, run=made)),
    (heal.PatchSettings, {"objective": "huber"}, "--objective", patch),
    (heal.Settings, {"bits": 3}, "--bits", train),
    (heal.TextSource, {"source": "t", "loss_on": "all but one"}, "--loss-on", lambda m, made: train(m, text=made)),
    (heal.TrainingRun, {"report_to": "paper"}, "--report-to", lambda model, made: train(model, run=made)),
]


def refused(call, option):
    with pytest.raises(UsageError) as refusal:
        call()
    words = str(refusal.value)
    assert "\n" not in words
    assert re.search(rf"{option}\b", words), words


def spelled(value):
    return "" if callable(value) and not isinstance(value, type) else getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("make", "fields", "option"), BAD, ids=spelled)
def test_a_bad_value_is_refused_when_settings_are_made(make, fields, option):
    refused(lambda: make(**fields), option)


@pytest.mark.parametrize(("make", "fields", "option", "call"), BAD_TO_HEAL, ids=spelled)
def test_a_bad_value_is_refused_before_a_run_begins(make, fields, option, call, sample_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = make(**fields)
    refused(lambda: call(sample_model, settings), option)
    assert not list(tmp_path.iterdir())


def test_every_public_class_of_settings_is_tried():
    tried = {make for make, *_ in (*BAD, *BAD_TO_HEAL)}
    public = {getattr(folder, name) for folder in (prune, heal, evaluate) for name in folder.__all__}
    settings = {kind for kind in public if isinstance(kind, type) and is_dataclass(kind)}
    results = {heal.HealResult, heal.Measuring}  # the latter has nothing to choose among
    assert settings - results <= tried, sorted(kind.__name__ for kind in settings - results - tried)


def test_one_name_may_be_given_as_it_is():
    assert evaluate.RunSettings(protocols="letters,choice", thinking="fast").protocols == ("choice", "letters")
