"""Choosing and checking: shared walks against plain passes, the cascade, each criterion, and the command."""

import json
from typing import get_args

import pytest
import torch

from prune.choosing.cascade import Prices, affordable, rung_tokens, spread_starts, survivors
from prune.choosing.check import check_candidates, greedy_removal
from prune.choosing.costs import Costs
from prune.choosing.criteria import CRITERIA, CriterionName
from prune.choosing.settings import CutSettings, parse_weights
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.cutting.plan import CutPlan
from prune.cutting.planning import plan_cut
from prune.models.walks.variants import FULL, score_variants
from prune.scanning.samples import few_samples_note
from tests.support.checkpoints import hand_made_scan
from tests.support.commands import check_refused, run, succeed
from tests.support.models import tiny
from tests.support.states import silence, windows


def plain_logprobs(model, window, dropped):
    """Log-probabilities with layers made pass-throughs, one window, no sharing."""
    layers = model.get_decoder().layers if hasattr(model.get_decoder(), "layers") else model.get_decoder().h
    handles = [
        layers[index].register_forward_hook(
            lambda _m, args, kwargs, _o: args[0] if args else kwargs["hidden_states"], with_kwargs=True
        )
        for index in dropped
    ]
    with torch.no_grad():
        found = model(torch.tensor([window])).logits[0].float().log_softmax(-1)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "qwen3"])
def test_shared_walks_give_the_loss_and_kl_of_plain_passes(family):
    model = tiny(family, layers=6)
    variants = [FULL, frozenset({1, 2}), frozenset({2, 3}), frozenset({0}), frozenset({1, 4}), frozenset(range(5))]
    scores = score_variants(model, windows(), variants, batch_tokens=64)
    assert scores.tokens.tolist() == [len(w) - 1 for w in windows()]
    for place, window in enumerate(windows()):
        full = plain_logprobs(model, window, ())[:-1]
        for row, variant in enumerate(variants):
            cut = plain_logprobs(model, window, variant)[:-1]
            loss = -cut.gather(1, torch.tensor(window[1:])[:, None]).sum()
            apart = (full.exp() * (full - cut)).sum()
            assert scores.loss[row, place] == pytest.approx(float(loss), rel=1e-4, abs=1e-4)
            assert scores.kl[row, place] == pytest.approx(float(apart), rel=1e-3, abs=1e-3)


def test_a_walk_runs_shared_layers_once_and_leaves_the_model_as_it_was():
    model = tiny(layers=6)
    runs = [0] * 6
    handles = [
        layer.self_attn.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
        for i, layer in enumerate(model.model.layers)
    ]
    given = windows()[:1]
    scores = score_variants(model, given, [frozenset({3, 4}), frozenset({4})])
    assert runs == [1, 1, 1, 1, 1, 3]  # full and {4} share layer 3; only the full model runs 4; three ways through 5
    assert scores.layer_tokens == 8 * len(given[0])
    for handle in handles:
        handle.remove()
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_a_loss_that_is_not_finite_is_an_error():
    model = tiny(layers=6)
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(RegrowthError, match="not finite"):
        score_variants(model, windows(), [frozenset({1})])


def test_starts_are_spread_minima_first():
    row = [0.5, 0.2, 0.3, 0.4, 0.45, 0.46, 0.1, 0.3, 0.9, 0.9, 0.9]
    assert spread_starts(row, 2) == [6, 1]
    spread = spread_starts(row, 5)
    assert spread[:2] == [6, 1]
    assert 10 in spread
    assert sorted(spread_starts(row, 99)) == list(range(11))


def test_prices_count_shared_layers_once():
    prices = Prices(layers=30, head=8.0, tokens=1000)
    assert prices.plain == 38_000
    assert prices.budget == 57_000
    assert prices.per_token([(13, 14), (20, 21)]) == 30 + (30 - 15) + (30 - 22) + 3 * 8
    assert rung_tokens(prices, [(13, 14)], 0.5) == int(28_500 / (30 + 15 + 16))
    blocks = [(start, start + 1) for start in range(28)]
    few = affordable(prices, blocks, 0.3)
    assert 2 <= few < 28
    assert survivors([0.3, 0.1, 0.2, 0.9], 2, always=3) == [1, 3]
    assert survivors([0.3, 0.1, 0.2, 0.9], 2, always=2) == [1, 2]


def many(count=200):
    generator = torch.Generator().manual_seed(1)
    return [[1, *torch.randint(3, 64, (20,), generator=generator).tolist()] for _ in range(count)]


@pytest.mark.parametrize("start", [0, 2, 3])
def test_the_check_finds_a_planted_block_that_the_criterion_missed(start):
    model = tiny(layers=6)
    for layer in model.model.layers[start : start + 2]:
        silence(layer)
    own = (1, 2) if start != 1 else (3, 4)
    blocks = [(s, s + 1) for s in range(4)]
    check = check_candidates(model, many(), blocks, own, finalists=2)
    assert check.chosen == (start, start + 1)
    assert check.own == own
    assert check.finalists[0].kl == pytest.approx(0.0, abs=1e-5)
    assert {f.dropped for f in check.finalists} == {own, check.chosen}
    assert check.gain > 0
    assert check.full_loss == pytest.approx(check.finalists[0].loss, abs=1e-5)
    assert check.passes <= 1.5
    assert json.loads(json.dumps(check.to_json()))["chosen"] == list(check.chosen)


@pytest.mark.parametrize("finalists", [1, 2, 4, 20])
def test_the_check_keeps_to_its_bound_on_text_of_any_size(finalists):
    """One window or many, short or long: cost counted by what ran, and the criterion's own choice always in it."""
    model = tiny(layers=6)
    blocks = [(s, s + 1) for s in range(4)] + [(s,) for s in range(5)]
    for length in (8, 9, 13, 40, 256):
        for count in (1, 2, 3, 7):
            text = [[1, *(3 + (7 * i + k) % 60 for i in range(length - 1))] for k in range(count)]
            for own in ((4, 5), (0, 1)):
                check = check_candidates(model, text, blocks, own, finalists=finalists)
                assert check.passes <= 1.5, (length, count, own)
                assert own in [finalist.dropped for finalist in check.finalists]
                assert check.screened >= 2
                assert 1 <= check.tokens < check.text_tokens


def test_greedy_removal_measures_again_after_each_removal():
    model = tiny(layers=6)
    removal = greedy_removal(model, windows(), 3)
    gone = []
    for layer, loss in zip(removal.order, removal.loss, strict=True):
        left = [one for one in range(5) if one not in gone]  # layer 5, the last, stays
        each = [score_variants(model, windows(), [frozenset([*gone, one])], kl=False) for one in left]
        means = [float(scores.loss.sum() / scores.tokens.sum()) for scores in each]
        assert left[means.index(min(means))] == layer
        assert loss == pytest.approx(min(means), abs=1e-5)
        gone.append(layer)


def test_every_criterion_of_the_registry_is_on_the_command_line():
    assert set(get_args(CriterionName)) == set(CRITERIA)


def costs_of(folder, layers=8, **provenance):
    domains = {"medical": {2: {1: 0.1, 3: 0.5, 5: 0.4}}, "math": {2: {1: 0.9, 3: 0.2, 4: 0.0}}}
    path = folder / "costs.json"
    costs = Costs(layers=layers, measure="nats", domains=domains, provenance=provenance)
    path.write_text(json.dumps(costs.to_json()))
    return path


def test_the_domain_criterion_weighs_what_a_sweep_measured(tiny_llama, tmp_path):
    costs = costs_of(tmp_path)
    assert Costs.read(costs).weighed(2) == {1: 0.5, 3: 0.35}  # only what both domains measured

    def planned(n=2, **settings):
        return plan_cut(tiny_llama, n=n, settings=CutSettings(**{"criterion": "domain", "costs": costs} | settings))

    assert planned().dropped == (3, 4)
    plan = planned(weigh={"medical": 3, "math": 1})
    assert plan.dropped == (1, 2)
    assert plan.evidence["domain_cost"] == pytest.approx(0.3)
    assert planned(weigh={"math": 1}).dropped == (4, 5)
    with pytest.raises(UsageError, match="law"):
        planned(weigh={"law": 1})
    with pytest.raises(UsageError, match="no block of that size"):
        planned(n=3)
    with pytest.raises(UsageError, match="--costs"):
        planned(costs=None)
    with pytest.raises(UsageError, match="belongs to --criterion domain"):
        planned(criterion="deepest")
    with pytest.raises(CheckpointError, match="7 layers"):
        planned(costs=costs_of(tmp_path, layers=7))
    model = {"model": "another", "config_sha256": "0" * 64}
    with pytest.raises(CheckpointError, match=r"costs\.json was made on another, with another config\.json than"):
        planned(costs=costs_of(tmp_path, model=model))


@pytest.mark.parametrize("text", ["medical", "medical=", "=1", "a=1,a=2", "a=nan", "a=inf", ""])
def test_weights_that_make_no_sense(text):
    with pytest.raises(UsageError, match="--weigh"):
        parse_weights(text)


@pytest.mark.parametrize("weights", [{"a": -1.0, "b": 1.0}, {"a": 0.0}])
def test_weights_that_cannot_be_are_refused_in_the_same_words_typed_or_not(weights, tmp_path):
    refused = []
    typed = ",".join(f"{name}={weight:g}" for name, weight in weights.items())
    for given in (weights, parse_weights(typed)):
        with pytest.raises(UsageError, match="--weigh a=") as refusal:
            CutSettings(criterion="domain", costs=tmp_path / "costs.json", weigh=given)
        refused.append(str(refusal.value))
    assert refused[0] == refused[1]


def test_damaged_costs_are_refused(tmp_path):
    path = costs_of(tmp_path)
    document = json.loads(path.read_text())
    for domains in ({}, {"a": {"9": {"0": 1.0}}}, {"a": {"2": {"7": 1.0}}}, {"a": {"2": {"1": "x"}}}, {"a": [1]}):
        path.write_text(json.dumps(document | {"domains": domains}))
        with pytest.raises(CheckpointError, match="damaged"):
            Costs.read(path)


def test_cut_checks_its_choice_and_the_plan_tells_all(tiny_llama, sample_text, tmp_path):
    small = ["--check-tokens", "512", "--check", "3", "--samples", "4", "--length", "32"]
    out = tmp_path / "out"
    done = succeed("prune", "cut", tiny_llama, "--n", "2", "--text", sample_text, *small, "--out", out)
    plan = CutPlan.read(out / "prune_plan.json")
    check = plan.evidence["check"]
    assert check["chosen"] == list(plan.dropped)
    assert len(check["finalists"]) == 3
    assert check["finalists"][0]["dropped"] == check["chosen"]
    assert [f["kl"] for f in check["finalists"]] == sorted(f["kl"] for f in check["finalists"])
    assert check["own"] in [f["dropped"] for f in check["finalists"]]
    assert check["held_out"] is True
    for words in ("(taken", "KL", "plain passes", "full model"):
        assert words in done.stdout
        assert words in (out / "README.md").read_text()


def test_greedy_loss_by_the_command(tiny_llama, sample_text):
    small = ["--check-tokens", "1024", "--text", sample_text, "--dry-run", "--json"]
    plan = json.loads(succeed("prune", "cut", tiny_llama, "--n", "2", "--criterion", "loss", *small).stdout)
    assert sorted(plan["evidence"]["removal"]["order"]) == plan["dropped"]
    assert "check" not in plan["evidence"]


def test_text_for_the_check_that_is_missing_is_one_clear_line(tiny_llama, tmp_path):
    hand_made_scan(tiny_llama).write(tmp_path / "scan.json")
    command = ["prune", "cut", tiny_llama, "--n", "2", "--scan", tmp_path / "scan.json", "--dry-run"]
    check_refused(run(*command), 2, "--text, or --check 0")
    succeed(*command, "--check", "0")
    document = json.loads((tmp_path / "scan.json").read_text())
    document["provenance"]["text"] = {"source": str(tmp_path / "gone.jsonl"), "field": "text", "sha256": "0"}
    (tmp_path / "scan.json").write_text(json.dumps(document))
    check_refused(run(*command), 2, "gone.jsonl cannot be read")


def test_a_wiki_dump_is_many_samples_and_short_text_is_warned_of(tiny_llama, tmp_path):
    """The file of the issue: articles are lines, and no blank line parts them."""
    dump, tiny_text = tmp_path / "dump.txt", tmp_path / "tiny.txt"
    dump.write_text("".join(f"Article {i}. " + f"It says this and that of number {i}. " * 30 + "\n" for i in range(60)))
    tiny_text.write_text("A few words are all that there is to read here. " * 12)
    small = ["--n", "2", "--length", "32", "--check-tokens", "1024", "--dry-run", "--json"]
    done = succeed("prune", "cut", tiny_llama, "--text", dump, "--samples", "48", *small)
    evidence = json.loads(done.stdout)["evidence"]
    assert evidence["scan"]["samples"] == 48
    assert evidence["check"]["text_tokens"] >= 1024
    assert evidence["check"]["passes"] <= 1.5
    assert "Warning" not in done.stderr
    done = succeed("prune", "cut", tiny_llama, "--text", tiny_text, "--samples", "48", *small)
    assert json.loads(done.stdout)["evidence"]["check"]["passes"] <= 1.5
    told = [line for line in done.stderr.splitlines() if line.startswith("Warning")]
    for line, subject in zip(told, ("the scan has", "the check has"), strict=True):
        assert subject in line
        assert "give more text with --text" in line


def test_few_samples_say_what_to_do():
    assert few_samples_note(48, 48) == ""
    assert few_samples_note(40, 48) == "The text gives 40 samples, not 48: all of it is used."
    assert "raise --samples" in few_samples_note(8, 8)
    assert "--text" in few_samples_note(8, 48)
