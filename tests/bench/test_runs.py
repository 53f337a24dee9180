"""Runs in parts: a folder of other settings is refused, and a result is there whole or not at all."""

import json
import sys

import pytest

from bench import heal_defaults, heal_ways
from bench.shared.runs import keep


@pytest.mark.parametrize("bench", [heal_ways, heal_defaults])
def test_a_folder_of_other_settings_is_refused_before_anything_runs(bench, tmp_path, monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["bench", "--work", str(tmp_path), *words])
        bench.main()

    def run(*_words):
        raise RuntimeError("it ran")

    monkeypatch.setattr(bench, "command", run)
    for tokens in ("1k", "2k"):  # which the files of one folder tell apart
        with pytest.raises(RuntimeError, match="it ran"):
            call("--n", "6", "--tokens", tokens)
    with pytest.raises(SystemExit, match="--n was 6 in .*, and is now 8; give another --work"):
        call("--n", "8")
    call("--table")
    assert "nothing measured yet" in capsys.readouterr().out


def test_a_result_is_made_once_and_whole(tmp_path):
    path = tmp_path / "result-a-1.5M.json"
    with pytest.raises(TypeError):
        keep(path, lambda: {"unwritable": object()})
    assert not path.exists()
    keep(path, lambda: {"value": 1})
    keep(path, lambda: pytest.fail("made again"))
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]
