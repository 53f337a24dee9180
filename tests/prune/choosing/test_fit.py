"""A cut to a size: the fewest layers that make it fit, in the table, the plan and the command."""

import json

import pytest
import torch

from prune import FitSettings, plan_cut
from prune.checkpoint.source import Source
from prune.choosing import check, choose
from prune.choosing.costs import Costs
from prune.choosing.fit import SizeTarget, check_reach, fewest, fit_evidence, least_layers
from prune.choosing.settings import CheckSettings, CutSettings, parse_speed
from prune.common.errors import RegrowthError, UsageError
from prune.cutting.cut import cut
from prune.cutting.plan import CutPlan
from prune.families.subject import open_subject
from prune.models.loading import load_model
from prune.models.memory.held import held_cache_bytes, held_weight_bytes
from prune.models.memory.kv_cache import LayerCache, cache_of
from prune.models.memory.needs import Load, Needs, Work
from prune.models.memory.reckoning import read_needs
from prune.models.memory.weights import Weights
from prune.scanning.settings import ScanSettings
from tests.support.checkpoints import hand_made_heads
from tests.support.commands import check_refused, run, succeed
from tests.support.every_family import save_small_model

DEEPEST = CutSettings(criterion="deepest")


def needs(layers=6, context=100):
    """Layers of 1000 bytes; those of even number keep every token (10 bytes), the others 5 tokens."""
    caches = [
        LayerCache("full", token=10) if i % 2 == 0 else LayerCache("window", window=5, windowed=10)
        for i in range(layers)
    ]
    work = Work(begin=100, layers=(300,) * layers, beyond=(7,) * layers, end=200)
    return Needs(Load(context), Weights((1000,) * layers, 500), tuple(caches), work)


def deepest(n):
    return tuple(range(5 - n, 5))


def test_the_sum_is_that_of_the_layers_that_stay():
    target = SizeTarget(6000, needs())
    full, cut_ = target.line(()), target.line((3, 4))
    assert full["total"] == 500 + 6000 + 3 * 1000 + 3 * 50 + 300 + 6 * 7
    assert (cut_["weights"], cut_["cache"], cut_["work"]) == (4500, 2 * 1000 + 2 * 50, 300 + 4 * 7)
    assert cut_["met"] is False
    assert target.line((2, 3, 4))["met"] is True  # 3500 + 1000 + 2 * 50 + 300 + 21


def test_the_fewest_layers_that_fit_are_taken():
    target = SizeTarget(6000, needs())
    tried, taken = fewest(target, deepest, range(1, 6))
    assert (tried, taken) == ([deepest(1), deepest(2), deepest(3)], deepest(3))
    assert not target.line(deepest(2))["met"]
    assert least_layers(target) == 2  # were they two that keep every token
    assert least_layers(SizeTarget(5000, needs())) == 3
    evidence = fit_evidence(target, tried, taken)["fit"]
    assert [line["n"] for line in evidence["sizes"]] == [0, 1, 2, 3]
    assert evidence["taken"] == evidence["sizes"][-1]
    assert evidence["kinds"] == {"full": 3, "window": 3}


def test_a_target_out_of_reach_and_one_that_is_met():
    with pytest.raises(RegrowthError, match="already, within --fit 0.0 MiB.*nothing is written"):
        check_reach(SizeTarget(20_000, needs()), "it")
    with pytest.raises(RegrowthError, match="with one layer left it takes .* try --bits 4, or a shorter --context"):
        check_reach(SizeTarget(1000, needs()), "it")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "model"
    save_small_model("gemma3_text", folder)
    return folder


def needs_of(folder, context=100, **asked):
    subject = open_subject(folder)
    return read_needs(
        subject.source, subject.checkpoint, Load(context, **asked), layer_of=subject.names.layer, layers=subject.layers
    )


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_next", "zamba2", "gemma4_text"])
def test_what_the_cut_model_takes_is_what_the_plan_said(family, tmp_path):
    """Reckoned layer by layer of the full model, and counted on the cut one: weights that are loaded, cache filled."""
    save_small_model(family, tmp_path / "full")
    whole = needs_of(tmp_path / "full")
    target = whole.of(range(8)).total - 1
    settings = FitSettings(size=target, context=100)
    dropped = {"zamba2": (6,)}.get(family)
    if dropped is None:
        plan = plan_cut(tmp_path / "full", fit=settings, settings=DEEPEST, show_progress=False)
        dropped, line = plan.dropped, plan.evidence["fit"]["taken"]
    else:
        plan, line = plan_cut(tmp_path / "full", layers=dropped), SizeTarget(target, whole).line(dropped)
    cut(plan, tmp_path / "cut", show_progress=False)
    model = load_model(Source(tmp_path / "cut", "it"))
    assert line["weights"] == held_weight_bytes(model)
    with torch.no_grad():
        cache = cache_of(model(input_ids=torch.arange(100)[None] % 80 + 2, use_cache=True))
    assert line["cache"] == held_cache_bytes(cache)
    assert line["total"] <= target


def test_the_plan_holds_the_target_and_the_line_and_reads_back(small, tmp_path):
    target = needs_of(small, sequences=2).of([0, 1, 2, 3, 7]).total
    fit = FitSettings(size=target, context=100, sequences=2)
    plan = plan_cut(str(small), fit=fit, settings=DEEPEST, show_progress=False)
    assert plan.dropped == (4, 5, 6)
    assert plan.evidence["fit"]["taken"]["total"] == target
    assert (plan.evidence["fit"]["target"], plan.evidence["fit"]["sequences"]) == (target, 2)
    cut(plan, tmp_path / "cut", show_progress=False)
    assert CutPlan.read(tmp_path / "cut" / "prune_plan.json").evidence == plan.evidence


def test_all_that_the_check_tries_fit(tiny_llama, sample_text):
    needs = needs_of(tiny_llama, 64)
    target = SizeTarget(needs.of([0, 1, 2, 3, 4, 7]).total, needs)
    settings = CutSettings(check=CheckSettings(candidates=3, tokens=512), scanning=ScanSettings(samples=4, length=64))
    fit, text = FitSettings(size=target.bytes, context=64), str(sample_text)
    plan = plan_cut(tiny_llama, text=text, fit=fit, settings=settings, show_progress=False)
    finalists = [tuple(one["dropped"]) for one in plan.evidence["check"]["finalists"]]
    assert len(finalists) == 3
    assert all(len(dropped) == 2 and target.line(dropped)["met"] for dropped in finalists)
    assert plan.evidence["fit"]["taken"]["dropped"] == list(plan.dropped)
    assert not target.line((5,))["met"]


def test_greedy_removal_stops_as_soon_as_it_fits(tiny_llama, sample_text):
    size = needs_of(tiny_llama, 64).of([0, 1, 2, 3, 4, 7]).total
    settings = CutSettings(criterion="loss", check=CheckSettings(tokens=512))
    fit, text = FitSettings(size=size, context=64), str(sample_text)
    plan = plan_cut(tiny_llama, text=text, fit=fit, settings=settings, show_progress=False)
    order = plan.evidence["removal"]["order"]
    assert sorted(order) == list(plan.dropped)
    assert [line["n"] for line in plan.evidence["fit"]["sizes"]] == [0, 1, 2]
    assert not plan.evidence["fit"]["sizes"][-2]["met"]


def test_greedy_removal_is_carried_on_from_size_to_size(tiny_llama, sample_text, monkeypatch):
    steps = []
    score = check.score_variants
    monkeypatch.setattr(check, "score_variants", lambda *given, **how: steps.append(1) or score(*given, **how))
    monkeypatch.setattr(choose, "least_layers", lambda target: 1)
    settings = CutSettings(criterion="loss", check=CheckSettings(tokens=512))
    fit, text = FitSettings(size=needs_of(tiny_llama, 64).of([0, 1, 2, 3, 7]).total, context=64), str(sample_text)
    plan = plan_cut(tiny_llama, text=text, fit=fit, settings=settings, show_progress=False)
    assert (len(plan.dropped), len(steps)) == (3, 3)
    assert len(plan.evidence["removal"]["loss"]) == 3


def test_with_protected_heads_a_smaller_choice_is_told_as_it_was(tiny_llama, sample_text, tmp_path, monkeypatch):
    """It may then be no beginning of the larger one."""
    hand_made_heads(tiny_llama).write(tmp_path / "heads.json")
    monkeypatch.setattr(choose, "least_layers", lambda target: 1)
    settings = CutSettings(
        criterion="loss", heads=tmp_path / "heads.json", protect_heads=0.4, check=CheckSettings(tokens=512)
    )
    fit, text = FitSettings(size=needs_of(tiny_llama, 64).of(range(6)).total, context=64), str(sample_text)
    plan = plan_cut(tiny_llama, text=text, fit=fit, settings=settings, show_progress=False)
    one, two = (tuple(line["dropped"]) for line in plan.evidence["fit"]["sizes"][1:])
    assert two == plan.dropped
    assert one == plan_cut(tiny_llama, n=1, text=text, settings=settings, show_progress=False).dropped
    assert not set(one) <= set(two)


@pytest.mark.parametrize("kept", [4, 2])  # of layers; no criterion has tried any size, or those that are allowed
def test_protected_heads_say_how_many_layers_they_leave(tiny_llama, tmp_path, kept):
    hand_made_heads(tiny_llama).write(tmp_path / "heads.json")
    settings = CutSettings(criterion="influence", heads=tmp_path / "heads.json", protect_heads=0.9)
    size = needs_of(tiny_llama, 64).of(range(kept)).total
    words = f"needs {8 - kept} layers or more, and --protect-heads 0.9 leaves at most 2"
    with pytest.raises(UsageError, match=words):
        plan_cut(tiny_llama, fit=FitSettings(size=size, context=64), settings=settings, show_progress=False)


def test_costs_say_which_sizes_they_lack(tiny_llama, tmp_path):
    path, whole = tmp_path / "costs.json", needs_of(tiny_llama, 64)
    blocks = {2: {1: 0.1, 3: 0.5}, 3: {1: 0.2}}
    path.write_text(json.dumps(Costs(layers=8, measure="nats", domains={"law": blocks}, provenance={}).to_json()))
    settings = CutSettings(criterion="domain", costs=path)
    plan = plan_cut(tiny_llama, fit=FitSettings(size=whole.of(range(7)).total, context=64), settings=settings)
    assert plan.dropped == (1, 2)
    assert dict(plan.rows())["not tried"] == "n = 1: the costs hold no block of that size"
    fit = FitSettings(size=whole.of(range(4)).total, context=64)
    words = r"--criterion domain reaches it of .*: without 3 layers it takes .* holds blocks of up to 3 layers"
    with pytest.raises(RegrowthError, match=words):
        plan_cut(tiny_llama, fit=fit, settings=settings)


def test_four_bits_take_less(small):
    stored, eight, four = (needs_of(small, bits=bits).of(range(8)) for bits in (16, 8, 4))
    assert stored.weights > eight.weights
    assert stored.cache == 2 * four.cache  # fp32 as stored, and what is not quantised in 16 bits else
    assert four.weights != eight.weights


def test_the_command(small, tmp_path):
    target = needs_of(small).of([0, 1, 2, 3, 4, 7]).total
    words = ["cut", small, "--fit", f"{target}B", "--context", "100", "--criterion", "deepest"]
    shown = succeed("prune", *words, "--dry-run")
    assert "sum" in shown.stdout
    assert "taken" in shown.stdout
    assert "the full model" in shown.stdout
    made = succeed("prune", *words, "--out", tmp_path / "once")
    assert (made.output.count("the full model"), made.output.count("KV cache ")) == (1, 2)  # the table once, and a row
    document = json.loads(succeed("prune", *words, "--json", "--out", tmp_path / "cut").stdout)
    assert document["dropped"] == [5, 6]
    assert document["evidence"]["fit"]["taken"]["total"] == target
    inspected = succeed("prune", "inspect", tmp_path / "cut")
    assert "KV cache" in inspected.stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--fit", "1GiB", "--context", "64"], 1, "already, within --fit 1.00 GiB"),
        (["--fit", "1KB", "--context", "64"], 1, "no cut of"),
        (["--fit", "1GiB"], 2, "--fit needs --context"),
        (["--fit", "1GiB", "--n", "3"], 2, "so --n has no say"),  # first: it goes, and a --context may go with it
        (["--fit", "lots", "--context", "64"], 2, "--fit lots: write a size"),
        (["--fit", "1MB", "--context", "many"], 2, "--context 'many' is not a number of tokens"),
        (["--fit", "1MB", "--context", "64", "--prefill-chunk", "1,0"], 2, "--prefill-chunk '1,0' is not a number"),
        (["--fit", "1MB", "--context", "1k"], 2, "--context 1000 is beyond the 128 tokens"),
        (["--fit", "1MB", "--context", "64", "--n", "3"], 2, "so --n has no say"),
        (["--fit", "1MB", "--context", "64", "--layers", "3"], 2, "so --layers has no say"),
        (["--fit", "1MB", "--context", "64", "--start", "3"], 2, "so --start has no say"),
        (["--fit", "1MB", "--context", "64", "--bits", "3"], 2, "--bits 3 is unknown"),
        (["--fit", "1MB", "--context", "64", "--sequences", "0"], 2, "--sequences at least 1"),
        (["--fit", "1MB", "--speed", "2x", "--context", "64"], 2, "two targets"),
        (["--fit", "1MB", "--context", "64", "--speed-of", "decode"], 2, "--speed-of goes with --speed"),
        (["--n", "2", "--context", "64"], 2, "--context goes with --fit or --speed"),
        (["--n", "2", "--bits", "4"], 2, "--bits goes with --fit"),
        (["--speed", "1x", "--context", "64"], 2, "--speed 1x: write a factor above 1"),
        (["--speed", "1.3x", "--context", "64", "--bits", "4"], 2, "--bits goes with --fit"),
    ],
)
def test_wrong_options_are_one_line(small, tmp_path, options, code, words):
    check_refused(
        run("prune", "cut", small, *options, "--criterion", "deepest", "--out", tmp_path / "out"), code, words
    )
    assert not (tmp_path / "out").exists()


def test_speeds_are_read():
    assert (parse_speed("1.3x"), parse_speed("2")) == (1.3, 2.0)
    with pytest.raises(UsageError):
        parse_speed("fast")
