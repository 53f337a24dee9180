"""`evaluate` through Typer's runner: help, JSON, exit codes, one clear line for each kind of bad input."""

import json

import pytest
from typer.testing import CliRunner

from eval.cli import app

runner = CliRunner()


def _run(*arguments):
    return runner.invoke(app, [str(a) for a in arguments])


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "originals" / "ASDiv"
    folder.mkdir(parents=True)
    rows = [
        {"passage": f"There are {i} pens and 2 more.", "question": "How many?", "answer": f"{i + 2} pens"}
        for i in range(6)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.mark.parametrize("command", ["prepare", "run", "compare", "sweep"])
def test_help_has_an_example(command):
    found = _run(command, "--help")
    assert found.exit_code == 0
    assert f"Example: evaluate {command} " in " ".join(found.stdout.split())


def test_prepare_run_and_compare_end_to_end(originals, tiny_llama, tmp_path):
    data, out = tmp_path / "questions", tmp_path / "bill"
    found = _run("prepare", "--data", data, "--from", originals, "--domains", "math", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["domains"]["math"]["questions"] == 6
    assert "error" in _run("prepare", "--data", data, "--from", originals, "--domains", "math").stderr
    assert _run("prepare", "--data", data, "--from", originals, "--domains", "math", "--overwrite").exit_code == 0

    found = _run(
        "run", tiny_llama, "--data", data, "--domains", "math", "--limit", 3, "--json", "--out", tmp_path / "one"
    )
    assert found.exit_code == 0, found.stderr
    document = json.loads(found.stdout)
    assert document["rows"][0]["n"] == 3
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        "results.json",
        "run.json",
        "samples_llama_regrowth_math_generation.jsonl",
    }
    assert "math" in _run("run", tiny_llama, "--data", data, "--domains", "math", "--limit", 2).stdout

    options = ["--data", data, "--domains", "math", "--labels", "full,same", "--out", out]
    found = _run("compare", tiny_llama, tiny_llama, *options, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout) == json.loads((out / "comparison.json").read_text())
    again = _run("compare", tiny_llama, tiny_llama, *options)
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    shown = _run("compare", tiny_llama, tiny_llama, *options, "--overwrite")
    assert shown.exit_code == 0
    assert "Change against full" in shown.stdout


def _fails(code, words, *arguments):
    found = _run(*arguments)
    assert found.exit_code == code, found.output
    assert found.stdout == ""
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert "bug of ours" not in line
    for word in words:
        assert word in line


def test_bad_input_is_one_line_and_writes_nothing(tiny_llama, sample_questions, tmp_path):
    start = sorted(tmp_path.rglob("*"))
    ask = ["--data", sample_questions, "--limit", 2]
    _fails(2, ["'cooking'", "medical", "math"], "run", tiny_llama, *ask, "--domains", "cooking")
    _fails(2, ["no domain is named"], "run", tiny_llama, *ask, "--domains", " , ")
    _fails(1, ["does not exist", "evaluate prepare"], "run", tiny_llama, "--data", tmp_path / "no", "--domains", "math")
    _fails(1, ["no question files", "evaluate prepare"], "run", tiny_llama, "--data", tmp_path, "--domains", "math")
    _fails(1, ["does not exist"], "run", tmp_path / "no", *ask, "--domains", "math")
    _fails(1, ["no config.json"], "run", tmp_path, *ask, "--domains", "math")
    _fails(2, ["--limit 0"], "run", tiny_llama, "--data", sample_questions, "--domains", "math", "--limit", 0)
    _fails(2, ["--batch-size 0"], "run", tiny_llama, *ask, "--domains", "math", "--batch-size", 0)
    _fails(2, ["--max-length 8"], "run", tiny_llama, *ask, "--domains", "math", "--max-length", 8)
    _fails(1, ["--dtype int3"], "run", tiny_llama, *ask, "--domains", "math", "--dtype", "int3")
    _fails(1, ["--device moon"], "run", tiny_llama, *ask, "--domains", "math", "--device", "moon")
    _fails(2, ["--sets", "asdiv"], "run", tiny_llama, *ask, "--domains", "math", "--sets", "none")
    _fails(1, ["--text"], "run", tiny_llama, *ask, "--domains", "math", "--text", tmp_path / "no.txt")
    out = tmp_path / "out"
    _fails(1, ["does not exist"], "compare", tiny_llama, tmp_path / "no", *ask, "--domains", "math", "--out", out)
    _fails(
        2, ["--labels"], "compare", tiny_llama, tiny_llama, *ask, "--domains", "math", "--out", out, "--labels", "one"
    )
    _fails(1, ["--from", "does not exist"], "prepare", "--data", out, "--from", tmp_path / "no.whl")
    _fails(2, ["'cooking'"], "prepare", "--data", out, "--from", tmp_path, "--domains", "cooking")
    assert sorted(tmp_path.rglob("*")) == start


def test_a_domain_that_was_not_prepared_names_the_command(originals, tiny_llama, tmp_path):
    data = tmp_path / "questions"
    assert _run("prepare", "--data", data, "--from", originals, "--domains", "math").exit_code == 0
    _fails(1, ["no law.jsonl", "--domains math,law --overwrite"], "run", tiny_llama, "--data", data, "--domains", "law")


def test_missing_arguments_are_wrong_usage(tiny_llama):
    assert _run("run", tiny_llama).exit_code == 2
    assert _run("compare", tiny_llama, "--data", "x", "--domains", "math", "--out", "o").exit_code == 2


def test_no_network_names_the_way_without(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True, raising=False)
    _fails(1, ["--from PATH"], "prepare", "--data", tmp_path / "q", "--domains", "law")
    assert list(tmp_path.iterdir()) == []
