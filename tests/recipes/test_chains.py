"""The recipes of several sizes, and the one command that makes a model fit, run whole on tiny models."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from eval.billing.cliff import Cliffs
from eval.billing.frontier import Frontier
from prune.common.errors import UsageError
from recipes.record import read_stages
from recipes.schema import load_recipe, parse_changes
from tests.support.commands import succeed

HEALING = {"bits": 16, "rank": 4, "length": 64, "batch_size": 2, "checkpointing": "off", "tokens": "1k"}
HEALING |= {"held_out_tokens": 128}
SHORT = {**HEALING, "samples": 8, "sample_length": 64, "check_tokens": 512, "patch_tokens": 512, "patch_length": 64}
SHORT |= {"domains": "science", "limit": 6}


@pytest.fixture
def originals(tmp_path):
    """Six questions of OpenBookQA's form, six of BoolQ's and some of MMLU's, with MMLU's examples beside them."""
    folder = tmp_path / "originals"
    folder.mkdir()
    places = ["a marsh", "a desert", "a house", "the sea", "a hill", "a river"]
    options = [{"text": text, "label": "ABCDEF"[number]} for number, text in enumerate(places)]
    rows = {
        "openbook": [{"id": f"{n}-1", "question": {"stem": f"{n} fogs are around", "choices": options},
                      "answerKey": "ABCDEF"[n]} for n in range(6)],
        "boolq": [{"question": f"is fog {n} wet", "answer": n % 2 == 0, "passage": f"Fog number {n} is made of water."}
                  for n in range(6)],
    }  # fmt: skip
    for split, count in (("test", 6), ("dev", 5)):
        rows[f"mmlu_{split}"] = [
            {"subject": "anatomy", "question": f"Which bone, of {split} {n}?", "choices": places[:4], "answer": n % 4}
            for n in range(count)
        ]
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def few_texts(sample_text, tmp_path):
    """The first passages of the sample's prose."""
    path = tmp_path / "few.jsonl"
    path.write_text("".join(sample_text.read_text().splitlines(keepends=True)[:120]))
    return path


def changes(**settings):
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_the_frontier_of_a_tiny_model(tiny_llama, few_texts, short_heldout, originals, tmp_path):
    out = tmp_path / "out"
    settings = changes(
        model=tiny_llama, text=few_texts, heldout=short_heldout, originals=f"[{originals}]", out=out, sizes="1,2",
        finalists=2, choose_tokens="1k", max_loss="50%", **SHORT,
    )  # fmt: skip
    succeed("recipe", "run", "frontier", *settings, "--no-budget", "--tidy")
    frontier = Frontier.read(out / "frontier" / "frontier.json")
    assert [point.model for point in frontier.points] == ["llama", "minus-1", "minus-2"]
    assert [len(point.dropped) for point in frontier.points[1:]] == [1, 2]
    assert frontier.points[0].weight_bytes > frontier.points[1].weight_bytes > frontier.points[2].weight_bytes
    assert (out / "frontier" / "frontier.svg").is_file()
    assert sorted(path.name for path in (out / "healed").iterdir()) == ["minus-1", "minus-2"]
    assert not any((out / "checked").iterdir())  # tidied, size by size
    planned = json.loads(succeed("recipe", "run", "frontier", *settings, "--dry-run", "--json").stdout)
    assert {stage["runs"] for stage in planned["stages"]} == {None}
    more = json.loads(
        succeed("recipe", "run", "frontier", *settings, "--set", "sizes=1,2,3", "--dry-run", "--json").stdout
    )
    assert {stage["name"] for stage in more["stages"] if stage["runs"] == "never run"} == {
        "cut-3", "choose-3", "patch-3", "heal-3", "merge-3",
    }  # fmt: skip


@pytest.mark.slow
def test_the_papers_figures_of_a_tiny_model(tiny_llama, few_texts, short_heldout, originals, tmp_path):
    out = tmp_path / "out"
    small = {name: value for name, value in SHORT.items() if name in load_recipe("unreasonable").settings}
    settings = changes(
        model=tiny_llama, heal_text=few_texts, scan_text=short_heldout, originals=f"[{originals}]", out=out,
        healed=2, **{**small, "sizes": "1-3", "shots": 2},
    )  # fmt: skip
    succeed("recipe", "run", "unreasonable", *settings, "--no-budget")
    cliffs = Cliffs.read(out / "figures" / "cliff.json")
    assert {(line.domain, line.protocol, line.way, line.healed) for line in cliffs.lines} == {
        (*task, way, healed)
        for task in (("mmlu", "letters"), ("reading", "choice"))
        for way in ("by similarity", "deepest")
        for healed in (False, True)
    }
    assert {(line.way, line.healed, len(line.points)) for line in cliffs.prose} == {
        (way, healed, count) for way in ("by similarity", "deepest") for healed, count in ((False, 4), (True, 2))
    }
    assert (out / "figures" / "cliff.svg").is_file()


@pytest.mark.slow
def test_regrow_goes_on_where_it_was_stopped(tiny_llama, few_texts, short_heldout, originals, tmp_path):
    out = tmp_path / "out"
    settings = changes(
        model=tiny_llama, text=few_texts, heldout=short_heldout, originals=f"[{originals}]", out=out, n=2,
        quick="true", **{**SHORT, "tokens": "2k", "gains_rounds": 1},
    )  # fmt: skip
    command = [sys.executable, "-m", "recipes", "run", "regrow", *settings, "--no-budget"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (out / ".adapter.unfinished" / "run.json").exists():
        assert child.poll() is None
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGTERM)  # as a terminal's Ctrl-C reaches all of them
    assert child.wait() != 0
    stopped = read_stages(out / "recipe.json")
    assert stopped["heal"].state == "started"
    before = (out / "pruned" / "model.safetensors").stat().st_mtime_ns
    done = succeed("recipe", "run", "regrow", *settings, "--no-budget")
    assert (out / "pruned" / "model.safetensors").stat().st_mtime_ns == before
    assert "scan: unchanged" in done.stderr
    assert {stage.state for stage in read_stages(out / "recipe.json").values()} == {"done"}
    assert (out / "comparison" / "report.html").is_file()
    assert json.loads((out / "comparison" / "comparison.json").read_text())["gains"]["rounds"] == 1


def test_regrow_takes_a_number_of_layers_or_a_size_to_fit():
    recipe = load_recipe("regrow")
    with pytest.raises(UsageError, match=r"regrow needs one of n and fit: add --set n=\.\.\. or --set fit="):
        recipe.resolve({"model": "m"})
    with pytest.raises(UsageError, match="regrow takes one of n and fit, not both"):
        recipe.resolve({"model": "m", "n": 8, "fit": "8GiB"})
    fitted = recipe.resolve(parse_changes(["model=m", "fit=8GiB", "context=32k", "fit_bits=4"])).stages[2].words()
    assert fitted[:8] == ["cut", "m", "--fit", "8GiB", "--context", "32k", "--bits", "4"]
    words = {stage.name: stage.words() for stage in recipe.resolve(parse_changes(["model=m", "n=8"])).stages}
    assert words["cut"][:4] == ["cut", "m", "--n", "8"]
    assert "--pass-over" in words["patch"]
    assert "--length" not in words["heal"]
    assert "--context 8k" in " ".join(recipe.resolve(parse_changes(["model=m", "fit=8GiB"])).stages[2].words())
    quick = {
        stage.name: stage.words() for stage in recipe.resolve(parse_changes(["model=m", "n=8", "quick=true"])).stages
    }
    assert quick["heal"][quick["heal"].index("--tokens") + 1] == "500k"
    named = recipe.resolve(parse_changes(["model=m", "n=8", "quick=true", "tokens=9M"]))
    assert named.settings["tokens"] == "9M"  # what is named counts
