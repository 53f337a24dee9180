"""Settings and arguments from Python that cannot be: each ends in one line that names the option or the argument.

What is wrong in itself shows when the settings are made; what healing makes of them, before a run begins. Types are
tried of every field of every public class of settings, and of every argument of every public function.
"""

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import eval as evaluate
import heal
import prune
from eval.foreign.settings import ForeignSettings
from heal.budget.stations import Amounts
from prune.common.errors import UsageError
from prune.common.screen.options import Option

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
    (heal.TextSource, {"source": ()}, "--text", lambda m, made: train(m, text=made)),
    (heal.TextSource, {"source": "t", "held_out": ()}, "--held-out", lambda m, made: train(m, text=made)),
    (heal.TextSource, {"source": "t", "held_out_tokens": 0}, "--held-out-tokens", lambda m, made: train(m, text=made)),
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


def public():
    return [getattr(folder, name) for folder in (prune, heal, evaluate) for name in folder.__all__]


SETTINGS = [kind for kind in public() if isinstance(kind, type) and is_dataclass(kind) and kind is not heal.HealResult]
FUNCTIONS = [function for function in public() if inspect.isfunction(function)]
OF_FIELDS = [function for function in FUNCTIONS if "options" in inspect.signature(function).parameters]


def test_every_public_class_of_settings_is_tried():
    tried = {make for make, *_ in (*BAD, *BAD_TO_HEAL)}
    untried = set(SETTINGS) - tried - {heal.Measuring}  # that has nothing to choose among
    assert not untried, sorted(kind.__name__ for kind in untried)


def test_one_name_may_be_given_as_it_is():
    assert evaluate.RunSettings(protocols="letters,choice", thinking="fast").protocols == ("choice", "letters")


# --- types ---------------------------------------------------------------------------------------------------------

WHOLE = {  # what makes settings at all, where the defaults do not
    evaluate.DepthSettings: ASKED,
    evaluate.SweepSettings: ASKED,
    heal.TextSource: {"source": "text.jsonl"},
    prune.FitSettings: {**TARGET, "size": 1 << 30},
}
WRONG = {  # a kind of value -> values that are not of it, however kindly they are read
    int: ("many", [1], math.nan, 1.5, True, b"1"),
    float: ("much", [1.0], math.nan, math.inf, True, b"1"),
    bool: ("yes", 1, 0, [True]),
    str: (5, True, ["text"], b"text", Path("text")),
    Path: (5, True, ["text"], b"text"),
    tuple: (5, 1.5, True, object(), [object()]),
    Mapping: (5, True, ["a"], {1: object()}),
    type(None): (),
}


def kinds_of(hint):
    """The kinds of a type hint: those of each member of a union."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(hint) is Literal:
        return {str}
    if get_origin(hint) is not None and not isinstance(get_origin(hint), type):
        return set().union(*map(kinds_of, get_args(hint)))
    if type(hint).__name__ == "UnionType":
        return set().union(*map(kinds_of, get_args(hint)))
    made = get_origin(hint) or hint
    return {Mapping if issubclass(made, Mapping) else made}


def flag_of(make, name):
    """The option of a field as it is written, and whether it declares one."""
    hint = get_type_hints(make, include_extras=True)[name]
    option = next((more for more in get_args(hint)[1:] if isinstance(more, Option)), None)
    return (option and option.flag) or f"--{name.replace('_', '-')}", option


def wrong_values(kinds):
    """Values that are of none of the kinds."""
    tables = [WRONG[kind] for kind in kinds if kind in WRONG and kind is not type(None)]
    values = [value for value in (tables[0] if tables else ()) if all(any(value is w for w in t) for t in tables)]
    return [*values, object()] + ([] if type(None) in kinds else [None])


def one_line(call, named):
    with pytest.raises(UsageError) as refusal:
        call()
    words = str(refusal.value)
    assert "\n" not in words
    assert words.startswith(named), words


@pytest.mark.parametrize("make", [*SETTINGS, ForeignSettings, Amounts], ids=spelled)
def test_a_field_of_a_wrong_type_is_refused_in_one_line_that_names_it(make):
    whole = WHOLE.get(make, {})
    make(**whole)
    hints = get_type_hints(make, include_extras=True)
    for field in fields(make):
        flag, option = flag_of(make, field.name)
        for value in wrong_values(kinds_of(hints[field.name])):
            one_line(lambda: make(**{**whole, field.name: value}), flag if option else f"{field.name}=")  # noqa: B023


def test_what_is_nearly_of_the_type_is_taken_as_it():
    scan = prune.ScanSettings(samples=np.int64(4), max_memory="4GiB")
    assert (scan.samples, type(scan.samples), scan.max_memory) == (4, int, 4 << 30)
    assert prune.CutSettings(criterion="domain", costs="c.json").costs == Path("c.json")
    assert prune.HeadsSettings(lengths=[350, 700]).lengths == (350, 700)
    assert prune.HeadsSettings(lengths="700,350").lengths == (350, 700)
    assert evaluate.SweepSettings(domains=["math", "law", "math"], data="q").domains == ("math", "law")
    assert evaluate.RunSettings(data="q").data == Path("q")
    assert type(heal.Settings(alpha=np.float32(2.5)).alpha) is float
    assert heal.Settings(alpha=16).alpha == 16
    assert heal.Settings(checkpointing="on").checkpointing is True
    assert heal.Settings(checkpointing="auto").checkpointing == "auto"


BESIDE = {  # fields without which others are refused whatever they hold
    evaluate.ComparisonSettings: {"needles": True},
    evaluate.RunSettings: {"needles": True, "ablate_heads": "heads.json"},
    prune.CutSettings: {"heads": "heads.json"},
}
# What a number below 0 means to healing hangs on more than the field, so it is refused before the run begins.
LATER = {
    heal.Settings: train,
    heal.DistillSettings: distill,
    heal.PatchSettings: patch,
    heal.PatchRun: lambda model, made: patch(model, run=made),
    heal.TrainingRun: lambda model, made: train(model, run=made),
    heal.TextSource: lambda model, made: train(model, text=made),
    heal.BudgetQuery: lambda model, made: heal.plan_budget(model, made),
}


@pytest.mark.parametrize("make", SETTINGS, ids=spelled)
def test_a_number_below_0_is_refused_before_a_run_begins(make, sample_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = {**WHOLE.get(make, {}), **BESIDE.get(make, {})}
    hints = get_type_hints(make)
    for field in fields(make):
        if not kinds_of(hints[field.name]) & {int, float}:
            continue
        with pytest.raises(UsageError) as refusal:
            made = make(**{**whole, field.name: -1})
            LATER[make](sample_model, made)
        assert re.search(rf"{flag_of(make, field.name)[0]}\b", str(refusal.value)), (field.name, str(refusal.value))
        assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def stand_in(annotation):
    """A value that an argument takes."""
    if annotation.startswith("Sequence"):
        return []
    return "some" if "str" in annotation else type(annotation, (), {})()


@pytest.mark.parametrize("function", FUNCTIONS, ids=spelled)
def test_an_argument_of_a_wrong_type_is_refused_in_one_line_that_names_it(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters = inspect.signature(function).parameters
    needed = {
        name: stand_in(parameter.annotation)
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    for name, parameter in parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            one_line(lambda: function(**{**needed, name: object()}), f"{name}=<object object at")  # noqa: B023
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: prune.plan_cut("m", n="4"), "n='4': use a whole number or None"),
        (lambda: prune.plan_cut("m", n=True), "n=True: "),
        (
            lambda: prune.plan_cut("m", settings={"criterion": "random"}),
            "settings={'criterion': 'random'}: use Cut",
        ),
        (lambda: prune.scan("m", []), "--text names no text"),
        (lambda: prune.scan("m", [5]), "text=[5]: "),
        (lambda: prune.verify_cut("m", "c", tolerance=math.nan), "tolerance=nan: use a finite number"),
        (lambda: prune.verify_cut("m", "c", tolerance=-1), "--tolerance -1: "),
        (lambda: prune.verify_cut("m", "c", logits="no"), "logits='no': use True or False"),
        (lambda: evaluate.compare("m", "other", out="o"), "others='other': use a list"),
        (lambda: evaluate.prepare("d", domains=[3]), "domains=[3]: "),
        (lambda: heal.held_out_loss("m", heal.TextSource("t"), length=0), "length=0: use 8 or more"),
        (lambda: heal.held_out_loss("m", heal.TextSource("t"), batch_size=0), "batch_size=0: use 1 or more"),
        (lambda: heal.plan_budget("m", dtype="int3"), "--dtype int3 is unknown"),
    ],
)
def test_arguments_that_cannot_be(call, named):
    one_line(call, named)


@pytest.mark.parametrize("function", OF_FIELDS, ids=spelled)
def test_an_option_of_a_function_is_refused_as_a_field_is(function):
    others = {"out": "out"} if "out" in inspect.signature(function).parameters else {}
    first = ("full", ["other"]) if "others" in inspect.signature(function).parameters else ("model",)
    for name in ("data", "domains", "limit", "seed", "sets", "few_shot", "dtype", "load_in_4bit", "text"):
        flag = f"--{name.replace('_', '-')}"
        one_line(lambda: function(*first, **others, **{name: object()}), flag)  # noqa: B023
