"""Rows a pass and checkpointing that are chosen for the memory there is: the same is learnt."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

import heal.training.plan as planning
from heal import DistillSettings, Settings
from heal.defaults import left_open
from heal.training.checkpoints import Checkpoints
from prune.common.errors import RegrowthError, UsageError
from prune.common.machine.memory import available
from tests.support.checkpoints import weights
from tests.support.commands import check_refused, run
from tests.support.healing import distil_tiny, heal_tiny, quiet

EXACT = {"bits": 16, "dtype": "float32", "dropout": 0.0, "length": 64, "accumulate": None, "seed": 3}
FREE = {"batch_size": "auto", "checkpointing": "auto"}
TOKENS = "300k"  # steps of 16 rows of 64 tokens, as the budget has them


@pytest.fixture
def plan_with(shallow_llama, small_text, tmp_path, monkeypatch):
    def planned(free, method="qlora", model=None, teacher=None, **settings):
        monkeypatch.setattr(planning, "available", lambda device: free)
        make = DistillSettings if method == "distill" else Settings
        chosen = make(**{**EXACT, **FREE, "rank": 4, **settings})
        return planning.plan_healing(
            method, model or shallow_llama, small_text, tmp_path / "a", chosen, quiet(TOKENS), teacher=teacher
        )

    return planned


def test_more_memory_takes_more_rows_a_pass_and_a_step_keeps_its_rows(plan_with):
    found = [plan_with(free << 19) for free in (27, 42, 72, 128, 512)]
    assert {plan.schedule.rows_per_step for plan in found} == {16}
    sizes = [plan.schedule.batch_size for plan in found]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == 16
    assert (found[0].settings.checkpointing, found[-1].settings.checkpointing) == (True, False)
    assert found[-1].settings.batch_size * found[-1].settings.accumulate == 16
    assert found[-1].free_memory == 256 << 20
    assert found[-1].from_budget == ("learning_rate", "warmup")


def test_a_disk_without_room_for_adapter_and_checkpoint_is_told_before_training(plan_with, shallow_llama, monkeypatch):
    adapted = [tensor for name, tensor in weights(shallow_llama).items() if name.endswith("proj.weight")]
    held = 4 * 4 * sum(sum(tensor.shape) for tensor in adapted)  # bytes of an adapter of rank 4
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4 * held))
    plan_with(1 << 30)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4 * held - 1))
    with pytest.raises(RegrowthError, match=r"--out .*: the adapter and a checkpoint take .* are free; make room"):
        plan_with(1 << 30)


def test_what_is_given_is_not_chosen(plan_with):
    assert plan_with(1 << 30, batch_size=2, accumulate=3).schedule.batch_size == 2
    assert plan_with(1 << 30, checkpointing=True).settings.checkpointing is True
    assert plan_with(0, batch_size=2, checkpointing=False).free_memory is None  # nothing to choose: not looked at
    assert left_open(Settings(batch_size="auto")) == ("length", "learning_rate", "warmup")


def test_a_teacher_takes_its_room(plan_with, tiny_llama, pruned):
    sizes = [
        [plan_with(free << 20, method, pruned, teacher).schedule.batch_size for free in (45, 60, 80, 120, 160)]
        for method, teacher in (("qlora", None), ("distill", tiny_llama))
    ]
    assert all(alone >= taught for alone, taught in zip(*sizes, strict=True))
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize(
    ("free", "settings", "words"),
    [
        (1 << 62, {}, "--batch-size auto: how much memory is free cannot be told .* give --batch-size"),
        (1 << 20, {}, "--batch-size auto: not even one row fits: .* use --bits 4, or a smaller --length"),
        (1 << 20, {"bits": 4}, "MiB on cpu; use a smaller --length"),
        (1 << 30, {"accumulate": 2}, "--batch-size auto settles --accumulate too"),
        (1 << 30, {"checkpointing": "maybe"}, "--checkpointing maybe: use on, off or auto"),
        (1 << 30, {"batch_size": "most"}, "--batch-size most: use auto or a whole number"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(plan_with, free, settings, words):
    with pytest.raises(UsageError, match=words):
        plan_with(free, **settings)


def test_several_processes_or_cards_are_told_to_say_it(plan_with, monkeypatch, shallow_llama, small_text, tmp_path):
    monkeypatch.setattr("prune.models.spread.check_spread", lambda *_: None)
    spread = replace(quiet(TOKENS), device_map="auto")
    with pytest.raises(UsageError, match="--batch-size auto chooses for one card; with --device-map give"):
        settings = Settings(**{**EXACT, **FREE, "rank": 4})
        planning.plan_healing("qlora", shallow_llama, small_text, tmp_path / "b", settings, spread)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--batch-size auto chooses for one process; give --batch-size"):
        plan_with(1 << 30)


def test_a_wrong_word_is_refused_by_the_command(shallow_llama, tmp_path):
    words = ("--text", "t.jsonl", "--out", tmp_path / "o", "--batch-size", "some")
    check_refused(run("heal", "qlora", shallow_llama, *words), 2, "--batch-size some: use auto or a whole number")


@pytest.mark.parametrize("method", ["qlora", "distill"])
def test_whatever_the_memory_the_same_is_learnt(method, tiny_llama, pruned, small_text, tmp_path, monkeypatch):
    """In float32, without dropout: curves and adapters are equal to rounding."""
    found, little_memory = [], {"qlora": 15 << 20, "distill": 37 << 20}[method]
    for free in (little_memory, 1 << 30):
        monkeypatch.setattr(planning, "available", lambda device, free=free: free)
        out, how = tmp_path / f"{method}-{free}", {**EXACT, **FREE, "tokens": "1k"}
        if method == "qlora":
            found.append(heal_tiny(pruned, small_text, out, learning_rate=1e-3, **how))
        else:
            found.append(distil_tiny(tiny_llama, pruned, small_text, out, learning_rate=1e-3, **how))
    little, much = (one.to_json() for one in found)
    assert little["settings"]["batch_size"] < much["settings"]["batch_size"]
    assert little["settings"]["checkpointing"] is True
    assert much["settings"]["checkpointing"] is False
    assert (little["free_memory"], much["free_memory"]) == (little_memory, 1 << 30)
    for first, second in zip(little["curve"], much["curve"], strict=True):
        assert first["held_out_loss"] == pytest.approx(second["held_out_loss"], abs=2e-5)
        assert first["loss"] == pytest.approx(second["loss"], abs=2e-5)
    ours, theirs = (weights(one.out) for one in found)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)


def test_a_run_that_goes_on_takes_the_pass_it_was_begun_with(plan_with, shallow_llama, small_text, tmp_path):
    """However much is free by then."""
    begun = plan_with(1 << 30)
    unfinished = Checkpoints(begun.out)
    unfinished.folder.mkdir()
    unfinished.write_run({"settings": asdict(begun.settings)}, {})
    run = replace(quiet(TOKENS), resume=True)
    settings = Settings(**{**EXACT, **FREE, "rank": 4})
    plan_with(14 << 20)  # of which another run would take fewer rows
    plan = planning.plan_healing("qlora", shallow_llama, small_text, begun.out, settings, run)
    assert (plan.settings, plan.schedule, plan.free_memory) == (begun.settings, begun.schedule, None)


def test_free_memory_is_told_here():
    assert 0 < available("cpu") < 1 << 62
