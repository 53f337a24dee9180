"""Heads and the choice: what goes with dropped layers, and choices that keep a share of the copy score."""

import json
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.choosing.check import greedy_removal
from prune.choosing.heads import Heads
from prune.choosing.protecting import HeadProtection
from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError, UsageError
from prune.common.layers import lowest_influence
from prune.cutting.plan import CutPlan
from prune.cutting.planning import plan_cut
from tests.support.checkpoints import UNCHECKED, hand_made_heads, hand_made_scan
from tests.support.commands import check_refused, run, succeed
from tests.support.models import tiny
from tests.support.states import windows


@pytest.fixture
def heads_file(tiny_llama, tmp_path):
    hand_made_heads(tiny_llama).write(tmp_path / "heads.json")
    return tmp_path / "heads.json"


def test_what_goes_with_layers_is_their_share_of_the_sums():
    heads = hand_made_heads()
    assert heads.retrieval_heads == ((3, 1), (5, 0))
    removed = heads.removed_with([3, 4])
    assert removed.copy_score == pytest.approx(0.67 / 1.1)
    assert removed.write_score == pytest.approx(2 / 8)  # what a head takes from a logit is no part of the sum
    assert removed.retrieval_heads == 1
    assert heads.removed_with([]).copy_score == 0


@pytest.mark.parametrize(
    ("criterion", "n", "kept", "dropped"),
    [
        ("angular", 2, None, (2, 3)),
        ("angular", 2, 0.8, (1, 2)),
        ("angular", 2, 0.3, (2, 3)),
        ("deepest", 2, None, (5, 6)),
        ("deepest", 2, 0.75, (5, 6)),
        ("deepest", 2, 0.8, (1, 2)),
        ("influence", 6, None, (0, 1, 2, 3, 4, 6)),
        ("influence", 6, 0.6, (0, 1, 2, 4, 5, 6)),
        ("influence", 5, 0.8, (0, 1, 2, 4, 6)),
    ],
)
def test_each_criterion_keeps_to_what_is_protected(tiny_llama, heads_file, criterion, n, kept, dropped):
    settings = replace(UNCHECKED, criterion=criterion, heads=heads_file, protect_heads=kept)
    plan = plan_cut(tiny_llama, n=n, scan=hand_made_scan(tiny_llama), settings=settings)
    assert plan.dropped == dropped
    removed = hand_made_heads().removed_with(dropped)
    assert plan.evidence["heads"] == {
        "copy_score": removed.copy_score,
        "write_score": removed.write_score,
        "retrieval_heads": removed.retrieval_heads,
        "of_retrieval_heads": 2,
        "protected": kept,
    }
    assert kept is None or removed.copy_score <= 1 - kept


def test_a_choice_that_cannot_be_is_one_clear_line(tiny_llama, heads_file):
    scan = hand_made_scan(tiny_llama)
    settings = replace(UNCHECKED, heads=heads_file, protect_heads=0.8)
    with pytest.raises(UsageError, match=r"0.8: any block of 4 layers has 68.2% .* \(layers 0-3 the least\)"):
        plan_cut(tiny_llama, n=4, scan=scan, settings=settings)
    with pytest.raises(UsageError, match=r"0.8: any 6 layers have 39.1% .* \(layers 0-2 and 4-6 the least\)"):
        plan_cut(tiny_llama, n=6, scan=scan, settings=replace(settings, criterion="influence"))
    with pytest.raises(UsageError, match="--start says which layers, so --protect-heads has no say"):
        plan_cut(tiny_llama, n=2, start=1, settings=settings)
    with pytest.raises(UsageError, match="no head that copies"):
        HeadProtection([0.0, 0.0], 0.8)
    with pytest.raises(UsageError, match="with --heads heads.json"):
        CutSettings(protect_heads=0.8)
    for share, remedy in ((0.0, "a share above 0"), (1.1, "a share above 0"), (float("nan"), "a finite number")):
        with pytest.raises(UsageError, match=f"use {remedy}"):
            replace(settings, protect_heads=share)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=7), st.data())
def test_layers_are_found_wherever_some_may_go(copy_scores, data):
    copy_scores[0] += 0.1
    layers = len(copy_scores)
    n = data.draw(st.integers(1, layers - 1))
    influence = data.draw(st.permutations(range(layers)))
    protection = HeadProtection(copy_scores, data.draw(st.floats(0.01, 1)))
    chosen = lowest_influence(influence, n, may_go=lambda gone: protection.leaves_room(gone, n, allow_last=False))
    if any(protection.allows(some) for some in combinations(range(layers - 1), n)):
        protection.check(n, allow_last=False, blocks=False)
        assert len(chosen) == n
        assert protection.allows(chosen)
    else:
        with pytest.raises(UsageError, match="--protect-heads"):
            protection.check(n, allow_last=False, blocks=False)


def test_greedy_removal_passes_over_what_may_not_go():
    model = tiny(layers=6)
    free = greedy_removal(model, windows(), 2)
    kept = free.order[0]
    assert kept not in greedy_removal(model, windows(), 2, may_go=lambda gone: kept not in gone).order


def test_the_command_checks_only_what_may_go_and_tells_what_goes(tiny_llama, heads_file, sample_text, tmp_path):
    small = ["--text", sample_text, "--check-tokens", "512", "--samples", "4", "--length", "32"]
    command = ["prune", "cut", tiny_llama, "--n", "2", "--heads", heads_file]
    out = tmp_path / "out"
    done = succeed(*command, *small, "--protect-heads", "0.8", "--out", out)
    finalists = CutPlan.read(out / "prune_plan.json").evidence["check"]["finalists"]
    assert sorted(finalist["dropped"] for finalist in finalists) == [[0, 1], [1, 2]]
    assert "heads that go" in done.stdout
    words = "7.3% of the copy score, 25.0% of the write score, 0 of 2 retrieval heads"
    assert words in (out / "README.md").read_text()
    assert "is at risk" not in done.stderr
    warning = " ".join(succeed(*command, "--start", "5", "--dry-run").stderr.split())
    assert "24.5% of the copy score" in warning
    assert "--protect-heads 0.8 keeps a choice to less" in warning


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (lambda folder: hand_made_heads(layers=6), "of a model of 6 layers, but .* has 8"),
        (lambda folder: hand_made_heads(folder, config_sha256="0"), "another config.json .* `prune heads`"),
        (lambda folder: hand_made_heads(folder, shards={"model.safetensors": "0"}), "other weights"),
    ],
)
def test_heads_of_another_model_are_refused(tiny_llama, tmp_path, heads, message):
    heads(tiny_llama).write(tmp_path / "heads.json")
    with pytest.raises(CheckpointError, match=message):
        plan_cut(tiny_llama, n=2, start=1, settings=replace(UNCHECKED, heads=tmp_path / "heads.json"))


def test_damaged_heads_are_refused(tiny_llama, heads_file):
    command = ["prune", "cut", tiny_llama, "--n", "2", "--start", "1", "--dry-run", "--heads", heads_file]
    document = json.loads(heads_file.read_text())
    document["copy_score"][0][0] = float("nan")
    heads_file.write_text(json.dumps(document))
    check_refused(run(*command), 1, "copy_score has a score that is no number")
    heads_file.write_text("{}")
    check_refused(run(*command), 1, "is not a regrowth.heads/1 file")
    heads_file.unlink()
    check_refused(run(*command), 1, "does not exist")
    with pytest.raises(CheckpointError):
        Heads.read(heads_file)
