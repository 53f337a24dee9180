"""Finalists of a check, healed: the one that heals best is cut, whatever the check said; finished ones are kept."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

import heal.choosing.finalists as finalists
from heal import DistillSettings
from heal.choosing.finalists import choose_healed
from heal.choosing.record import Finalists
from prune import cut, plan_cut, verify_cut
from prune.choosing.settings import CheckSettings, CutSettings
from prune.common.errors import RegrowthError, UsageError
from prune.scanning.settings import ScanSettings
from tests.support.commands import check_refused, run, succeed
from tests.support.healing import SMALL, changed_copy, distil_tiny, quiet


@pytest.fixture(scope="module")
def checked(tiny_llama, sample_text, tmp_path_factory):
    """The tiny Llama without the two layers that a check of three candidates has chosen."""
    scanning = ScanSettings(samples=8, length=64)
    settings = CutSettings(check=CheckSettings(candidates=3, tokens=1024), scanning=scanning)
    plan = plan_cut(tiny_llama, n=2, text=str(sample_text), settings=settings, show_progress=False)
    return cut(plan, tmp_path_factory.mktemp("checked") / "pruned", show_progress=False)


def rivals(folder):
    check = json.loads((folder / "prune_plan.json").read_text())["evidence"]["check"]
    return [tuple(finalist["dropped"]) for finalist in check["finalists"]]


def plan_of(folder):
    return json.loads((folder / "prune_plan.json").read_text())


def choose(checked, full, text, out, finalists=2, **more):
    run = quiet("256", **more)
    return choose_healed(checked, full, text, out, finalists=finalists, settings=DistillSettings(**SMALL), run=run)


def test_each_finalist_is_healed_as_heal_distill_does_and_the_best_is_cut(checked, tiny_llama, small_text, tmp_path):
    chosen = choose(checked, tiny_llama, small_text, tmp_path / "chosen")
    assert [one.dropped for one in chosen.finalists] == rivals(checked)[:2]
    assert chosen.checked == rivals(checked)[0]
    best = min(chosen.finalists, key=lambda one: one.after)
    assert chosen.chosen == best.dropped
    assert plan_of(tmp_path / "chosen")["dropped"] == list(best.dropped)
    assert verify_cut(tiny_llama, tmp_path / "chosen").sound
    assert Finalists.read(tmp_path / "chosen" / "finalists.json") == chosen
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chosen"]
    by_hand = cut(plan_cut(tiny_llama, layers=list(best.dropped)), tmp_path / "cut", show_progress=False)
    healed = distil_tiny(tiny_llama, by_hand, small_text, tmp_path / "adapter", "256", **SMALL, learning_rate=None)
    assert (best.before, best.after) == (healed.before, healed.after)


@pytest.fixture
def planted(monkeypatch):
    """Healing whose losses after it are planted, in the order of the finalists; how often it was called."""
    told = SimpleNamespace(after=[3.0, 2.5, 2.75], calls=0)

    def distill(*_given, **_named):
        told.calls += 1
        if told.after[told.calls - 1] is None:
            raise RegrowthError("stopped")
        return SimpleNamespace(before=4.0, after=told.after[told.calls - 1])

    monkeypatch.setattr(finalists, "distill", distill)
    return told


def test_healing_may_take_another_cut_than_the_check(checked, tiny_llama, small_text, tmp_path, planted):
    chosen = choose(checked, tiny_llama, small_text, tmp_path / "chosen", finalists=9)
    assert chosen.changed
    assert chosen.chosen == rivals(checked)[1]
    assert "0.500 nats a token less" in chosen.words()
    plan = plan_of(tmp_path / "chosen")
    assert plan["dropped"] == list(rivals(checked)[1])
    assert plan["criterion"] == "angular"
    assert plan["evidence"]["finalists"] == chosen.words()
    assert "angular_distance" not in plan["evidence"]  # it was said of the check's choice
    planted.calls, planted.after = 0, [2.5, 3.0, 2.75]
    same = choose(checked, tiny_llama, small_text, tmp_path / "same", finalists=9)
    assert not same.changed
    assert "angular_distance" in plan_of(tmp_path / "same")["evidence"]


def test_what_was_stopped_goes_on_with_the_next_finalist(
    checked, tiny_llama, small_text, tmp_path, planted, monkeypatch
):
    planted.after = [3.0, None]
    with pytest.raises(RegrowthError, match="stopped"):
        choose(checked, tiny_llama, small_text, tmp_path / "chosen")
    assert [path.name for path in tmp_path.iterdir()] == [".chosen.unfinished"]
    planted.after = [None, None, 2.0]
    with pytest.raises(RegrowthError, match="go on with --resume, or begin anew"):
        choose(checked, tiny_llama, small_text, tmp_path / "chosen")
    with pytest.raises(UsageError, match="--resume: --finalists was"):
        choose(checked, tiny_llama, small_text, tmp_path / "chosen", finalists=3, resume=True)
    longer = replace(small_text, held_out_tokens=999)
    with pytest.raises(UsageError, match="--resume: --held-out-tokens was 128 and is now 999"):
        choose(checked, tiny_llama, longer, tmp_path / "chosen", resume=True)
    with monkeypatch.context() as other:
        other.setattr("heal.models.quantise.compute_dtype", lambda *_, **__: "torch.float16")
        with pytest.raises(UsageError, match='--resume: --dtype was "b?float(16|32)" and is now "float16"'):
            choose(checked, tiny_llama, small_text, tmp_path / "chosen", resume=True)
        other.setattr("prune.models.loading.pick_device", lambda *_: "cuda:1")
        with pytest.raises(UsageError, match='--resume: --device was "cpu" and is now "cuda"'):
            choose(checked, tiny_llama, small_text, tmp_path / "chosen", resume=True)
    resumed = choose(checked, tiny_llama, small_text, tmp_path / "chosen", resume=True)
    assert planted.calls == 3
    assert [one.after for one in resumed.finalists] == [3.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["chosen"]


def test_one_finalist_is_taken_without_healing(checked, tiny_llama, small_text, tmp_path, planted):
    chosen = choose(checked, tiny_llama, small_text, tmp_path / "chosen", finalists=1)
    assert planted.calls == 0
    assert "only one finalist was taken, so nothing was healed" in chosen.words()
    assert chosen.finalists[0].before is None


def test_the_command(checked, pruned, tiny_llama, sample_text, tmp_path, planted):
    words = ("--teacher", tiny_llama, "--text", sample_text, "--tokens", 256, "--out", tmp_path / "chosen")
    document = json.loads(succeed("heal", "finalists", checked, *words, "--json").stdout)
    assert document["format"] == "regrowth.finalists/1"
    check_refused(
        run("heal", "finalists", pruned, *words, "--overwrite"), 2, "no finalists to heal; cut with --check 3"
    )
    check_refused(run("heal", "finalists", checked, *words, "--overwrite", "--finalists", 0), 2, "is not at least 1")
    check_refused(run("heal", "finalists", checked, *words), 1, "already exists")
    touched = changed_copy(checked, tmp_path / "touched")
    refused = run("heal", "finalists", touched, *words, "--overwrite")
    check_refused(
        refused, 1, "was healed since the cut, or cut from other weights; give the model as prune cut left it"
    )
