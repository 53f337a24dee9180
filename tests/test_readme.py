"""What README tells a user to type must work: its commands are run on a tiny model, its targets and files exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.commands import options_of
from tests.support.checkpoints import hand_made_heads, hand_made_scan

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)
HUB_ID = "Qwen/Qwen3-8B"
ROOMS = {"prune": "prune", "heal": "heal", "evaluate": "eval", "recipe": "recipes"}


def _lines(blocks):
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"`make ([a-z-]+)`", README) + [w[1] for w in _lines(BLOCKS) if w[0] == "make"]
    assert {"demo", "test"} <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_every_command_and_option_exists():
    seen = set()
    for words in _lines(BLOCKS):
        if words[0] in ("prune", "heal", "evaluate"):
            known = options_of(" ".join(words[:2]))
            given = [w[2:] for w in words if w.startswith("--")]
            assert set(given) <= {*known, *(option.negation for option in known.values())}, words
            seen.add(" ".join(words[:2]))
    assert {"prune scan", "prune cut", "heal patch", "heal distill", "heal merge", "evaluate compare"} <= seen


@pytest.fixture
def small_world(tmp_path, tiny_llama, sample_text, sample_questions):
    lines = sample_text.read_text().splitlines(keepends=True)[:400]
    (tmp_path / "prose.jsonl").write_text("".join(lines))
    (tmp_path / "questions").symlink_to(sample_questions)
    (tmp_path / "model").symlink_to(tiny_llama)
    return tmp_path


def test_the_commands_for_a_model_of_ones_own_run_as_written(small_world, monkeypatch):
    """As written, but for the model (a tiny one stands for the hub id) and sizes that fit two cores."""
    smaller = {
        "prune scan": ["--samples", "4", "--length", "64"],
        "prune cut": ["--n", "2", "--text", "prose.jsonl", "--check", "1", "--check-tokens", "512"],
        "evaluate sweep": ["--sizes", "0-2", "--limit", "2"],
        "evaluate depth": ["--sizes", "2", "--starts", "1", "--limit", "3", "--no-similarity"],
        "heal budget": ["--n", "2", "--rank", "4", "--length", "64"],
        "heal patch": ["--tokens", "1k", "--length", "64", "--held-out-tokens", "256"],
        "heal distill": shlex.split("--tokens 1k --length 64 --rank 4 --held-out-tokens 256 --eval-every 99"),
        "heal merge": ["--held-out-tokens", "256"],
        "evaluate compare": ["--limit", "2", "--gains-rounds", "1"],
    }
    monkeypatch.chdir(small_world)
    ran = []
    (block,) = [block for block in BLOCKS if HUB_ID in block and "prune cut" in block]
    for words in _lines([block]):
        command = " ".join(words[:2])
        if words[0] not in ROOMS or command == "evaluate prepare":  # needs the hub; the sample's questions stand in
            continue
        if command == "prune heads":  # random layers answer no question, so they have no heads to find
            hand_made_heads(small_world / "model").write("heads.json")
            hand_made_scan(small_world / "model").write(
                "scan.json", overwrite=True
            )  # with a layer before the best block
            continue
        options = smaller.get(command, [])
        if "--fit" in words:
            options = shlex.split("--fit 1400KB --context 64 --prefill-chunk 32 --text prose.jsonl --check 0")
        words = [str(small_world / "model") if w == HUB_ID else w for w in words]
        for name in options[::2]:  # the last of a repeated option counts for a reader, so drop README's own
            if name in words:
                del words[words.index(name) : words.index(name) + 2]
        app = importlib.import_module(f"{ROOMS[words[0]]}.cli").app
        done = CliRunner().invoke(app, [*words[1:], *options])
        if command == "heal patch" and done.exit_code == 1:  # random layers may leave nothing to patch
            assert "no patch is better than none" in done.stderr
            (small_world / "patched").symlink_to(small_world / "pruned")
        else:
            assert done.exit_code == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        ran.append(command)
    healing = ["heal budget", "heal patch", "heal distill", "heal merge"]
    assert ran == [
        "prune scan",
        "evaluate sweep",
        "evaluate depth",
        "prune cut",
        "prune cut",
        *healing,
        "evaluate compare",
    ]
    assert (small_world / "scan.png").exists()
    assert "healed" in (small_world / "bill/comparison.md").read_text()
