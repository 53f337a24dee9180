"""The work of an unfinished run: kept whole, given back to the same run alone, and gone when it is done."""

import json
import re
import signal

import numpy as np
import pytest

from prune.common.errors import RegrowthError, UsageError
from prune.common.files.resume import Unfinished, check_unchanged
from prune.common.machine.stopping import Interrupted
from prune.scanning import scan as scanning
from tests.support.commands import check_refused, run, succeed

FACTS = {"model": "a", "sizes": (1, 2)}


def begin(out, *, resume=False, overwrite=False):
    return Unfinished.beside(out, resume=resume, overwrite=overwrite)


def restored(state, arrays):
    return state["step"], arrays["values"].tolist()


@pytest.fixture
def out(tmp_path):
    """Of a run that was interrupted."""
    unfinished = begin(tmp_path / "out")
    assert unfinished.read(FACTS, restored) is None
    unfinished.write({"step": 3}, {"values": np.array([0.5, np.nan])})
    return tmp_path / "out"


def test_what_was_written_comes_back_in_a_hidden_sibling_until_it_is_cleared(out):
    assert [path.name for path in out.parent.iterdir()] == [".out.unfinished"]
    unfinished = begin(out, resume=True)
    step, values = unfinished.read(FACTS, restored)
    assert (step, values[0], np.isnan(values[1])) == (3, 0.5, True)
    assert not unfinished.due()
    unfinished.clear()
    assert not list(out.parent.iterdir())


def test_it_is_not_touched_without_a_word_and_goes_with_overwrite(out):
    with pytest.raises(RegrowthError, match="go on with --resume, or begin anew with --overwrite"):
        begin(out)
    assert begin(out, overwrite=True).read(FACTS, restored) is None
    assert begin(out, resume=True).read(FACTS, restored) is None


def test_other_facts_are_refused_by_name_and_facts_not_yet_known_are_not_asked(out):
    unfinished = begin(out, resume=True)
    with pytest.raises(UsageError, match=r"--resume: --sizes was \[1, 2\] and is now \[1\]; .*--overwrite"):
        unfinished.read(FACTS | {"sizes": (1,)}, restored)
    with pytest.raises(UsageError, match="--resume: --seed was not there and is now 0"):
        unfinished.read(FACTS | {"seed": 0}, restored)
    assert unfinished.read({"model": "a"}, restored)[0] == 3


@pytest.mark.parametrize(
    ("fact", "called"),
    [
        ({"settings": {"lora_alpha": 8}}, "--lora-alpha"),
        ({"steps": {"steps": 8}}, "--tokens, in steps,"),
        ({"text": "8"}, "--text"),
        ({"text": {"text": {"source": "a", "sha256": "8"}}}, "--text (sha256)"),
        ({"text": {"domain_texts": {"law": {"field": "text"}}}}, "--domain-text (law.field)"),
        ({"model": {"model": "a", "weights_sha256": "8"}}, "the model (weights_sha256)"),
        ({"cuts": ["1-2"]}, "the list of cuts"),
    ],
)
def test_a_change_is_told_by_the_option_that_a_user_types(fact, called):
    with pytest.raises(UsageError, match=re.escape(f"--resume: {called} was not there and is now ")):
        check_unchanged({}, fact)


@pytest.mark.parametrize("content", [b"", b"something else", None])
def test_a_damaged_file_is_refused_and_left(out, content):
    path = out.with_name(".out.unfinished")
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(RegrowthError, match="not what an interrupted run has left; begin anew with --overwrite"):
        begin(out, resume=True).read(FACTS, restored)
    with pytest.raises(RegrowthError, match="not what an interrupted run has left"):
        begin(out, resume=True).read(FACTS, lambda state, arrays: state["gone"])
    assert path.exists()


def test_each_process_keeps_its_own_and_one_clears_all(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        unfinished = begin(tmp_path / "out", resume=True)
        unfinished.read(FACTS, restored)
        unfinished.write({"step": int(rank)}, {"values": np.zeros(1)})
        assert unfinished.read(FACTS, restored)[0] == int(rank)
    assert len(list(tmp_path.iterdir())) == 2
    unfinished.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("begun", "now"), [(4, 1), (1, 4)])
def test_another_number_of_processes_is_refused_and_loses_nothing(tmp_path, monkeypatch, begun, now):
    """Each of several processes has its share of the work, so one cannot go on with theirs, nor they with its."""
    monkeypatch.setenv("WORLD_SIZE", str(begun))
    for rank in range(begun):
        monkeypatch.setenv("RANK", str(rank))
        unfinished = begin(tmp_path / "out", resume=True)
        unfinished.read(FACTS, restored)
        unfinished.write({"step": 3}, {"values": np.zeros(1)})
    monkeypatch.setenv("WORLD_SIZE", str(now))
    monkeypatch.setenv("RANK", str(now - 1))
    kept = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UsageError, match="--resume: the run was begun by .*; start as many, or begin anew"):
        begin(tmp_path / "out", resume=True).read(FACTS, restored)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_done_and_says_where(tmp_path, number):
    handler = signal.getsignal(number)
    unfinished = begin(tmp_path / "out")
    with (
        pytest.raises(Interrupted, match=r"what was done is in .*\.out\.unfinished: .*--resume") as stopped,
        unfinished,
    ):
        unfinished.read(FACTS, restored)
        assert not unfinished.due()
        signal.raise_signal(number)
        assert unfinished.due()
        unfinished.write({"step": 1}, {"values": np.array([0.5])})
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is handler
    assert begin(tmp_path / "out", resume=True).read(FACTS, restored) == (1, [0.5])


def test_ctrl_c_before_there_is_work_and_a_second_one_stop_at_once(tmp_path):
    unfinished = begin(tmp_path / "out")
    with pytest.raises(Interrupted, match="^interrupted; nothing was kept$"), unfinished:
        unfinished.read(FACTS, restored)
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted, match="^interrupted; nothing was kept$"), unfinished:
        assert not unfinished.due()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert not list(tmp_path.iterdir())


def test_a_scan_that_is_interrupted_goes_on_to_the_same_numbers(tiny_llama, sample_text, tmp_path, monkeypatch):
    words = ("prune", "scan", tiny_llama, "--text", sample_text, "--samples", 8, "--length", 16, "--batch-size", 2)
    words += ("--device", "cpu", "--out")
    keep, kept = scanning._keep, []

    def interrupting(*given):
        kept.append(given)
        if len(kept) == 2:
            signal.raise_signal(signal.SIGINT)
        keep(*given)

    succeed(*words, tmp_path / "whole.json")
    monkeypatch.setattr(scanning, "_keep", interrupting)
    check_refused(run(*words, tmp_path / "scan.json"), 130, "the same command with --resume goes on there")
    assert len(kept) == 2
    monkeypatch.setattr(scanning, "_keep", keep)
    assert "Going on with " in succeed(*words, tmp_path / "scan.json", "--resume").stderr
    whole, again = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "scan"))
    assert again["distance"] == whole["distance"]
    assert not list(tmp_path.glob(".*"))
