"""Heals on chats: the loss is that of the answers by hand, a stopped run goes on, and the full model writes chats."""

import json
import shutil
import signal
from collections import Counter
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM

from heal import TextSource
from heal.merging.agreement import measuring_text
from heal.result import HealRecord
from heal.settings import Measuring
from heal.text.sources import HeldOut, hold_out, row_stream
from heal.training.run import PROSE_ALONE, chats_line
from prune.checkpoint.source import Source
from prune.common.errors import TextError, UsageError
from prune.common.machine.stopping import Interrupted
from prune.models.loading import load_tokenizer
from tests.support.chats import THINKING, answers, chat, chats
from tests.support.checkpoints import same_weights
from tests.support.commands import check_refused, run
from tests.support.healing import distil_tiny, heal_tiny
from tests.support.healing_steps import signal_in_step
from tests.support.texts import sentences, write_jsonl

EXACT = {"length": 64, "batch_size": 1, "accumulate": 2, "bits": 16, "dtype": "float32", "eval_every": 1, "seed": 2}


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("talk") / "chats.jsonl", chats(240))


@pytest.fixture(scope="module")
def text(talk):
    return TextSource(str(talk), held_out_tokens=300)


def by_hand(rows, tokenizer, losses):
    """Sum over the answers' tokens and how many they are, a chat at a time: `losses` gives one for each next token."""
    total, count = torch.zeros((), dtype=torch.float64), []
    for row in rows:
        starts = [*(row.positions == 0).nonzero()[0].tolist(), len(row.tokens)]
        count.append(0)
        for start, stop in pairwise(starts):
            ids = row.tokens[start:stop].tolist()
            kept = torch.tensor(answers(tokenizer, ids)[1:])
            total += losses(torch.tensor([ids]))[kept].double().sum()
            count[-1] += int(kept.sum())
    return float(total), count


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_answers_of_a_step(tiny_llama, pruned, text, tmp_path):
    """Two passes of one row with unequal counts of answer tokens; plain and divergence, training and held-out."""
    tokenizer = load_tokenizer(Source(tiny_llama, "tiny"))
    full, cut = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (tiny_llama, pruned)
    )

    def plain(ids):
        return torch.nn.functional.cross_entropy(cut(ids).logits[0, :-1], ids[0, 1:], reduction="none")

    def divergence(ids):
        theirs, ours = (model(ids).logits[0, :-1].double().log_softmax(-1) for model in (full, cut))
        return (theirs.exp() * (theirs - ours)).sum(-1)

    held_out = hold_out(text, tokenizer, length=64)
    rows = row_stream(text, tokenizer, held_out, length=64, seed=2).take(2)
    with torch.enable_grad():
        healed = heal_tiny(pruned, text, tmp_path / "plain", tokens=128, **EXACT).to_json()
        taught = distil_tiny(
            tiny_llama, pruned, text, tmp_path / "taught", tokens=128, plain_loss=0.0, **EXACT
        ).to_json()
    total, counts = by_hand(rows, tokenizer, plain)
    assert counts[0] != counts[1]  # or a mean of means would do
    assert healed["curve"][1]["loss"] == pytest.approx(total / sum(counts), rel=1e-5)
    by_rows = by_hand(rows, tokenizer, divergence)[0] / sum(counts)
    assert taught["curve"][1]["loss"] == pytest.approx(by_rows, rel=2e-3)  # a small difference of float32 logits
    assert healed["loss_tokens"] == sum(counts)
    total, measured = by_hand(held_out.rows, tokenizer, plain)
    assert healed["held_out"]["tokens"] == sum(measured)
    assert healed["held_out_loss"]["before"] == pytest.approx(total / sum(measured), rel=1e-5)
    assert (healed["tokens"], healed["loss_on"]) == (128, "answers")
    assert healed["chats"]["read"] > 1
    source = Source(pruned, str(pruned))
    again = measuring_text(HealRecord.read(tmp_path / "plain" / "heal.json"), source, Measuring())
    assert again.held_out.sha256 == held_out.sha256  # what a merge measures on


def mixed(talk, prose, **changes):
    return TextSource((str(prose), str(talk)), held_out_tokens=300, mix=(0.25, 0.75), **changes)


def test_a_stopped_run_on_prose_and_chats_goes_on(tiny_llama, prose, talk, tmp_path, monkeypatch):
    """Bit for bit, the place in both texts included; another share or another loss is refused."""

    def heal(name, text=None, **running):
        settings = {**EXACT, "dropout": 0.2, "eval_every": 4, "accumulate": 1}
        text = mixed(talk, prose) if text is None else text
        return heal_tiny(tiny_llama, text, tmp_path / name, 4 * 64, {"save_every": 2, **running}, **settings)

    alone = heal("alone")
    signal_in_step(3, signal.SIGINT, monkeypatch)
    with pytest.raises(Interrupted):
        heal("stopped")
    with pytest.raises(UsageError, match=r"--resume: --mix was \[0.25, 0.75\] and is now \[0.5, 0.5\]"):
        heal("stopped", TextSource((str(prose), str(talk)), held_out_tokens=300, mix=(0.5, 0.5)), resume=True)
    with pytest.raises(UsageError, match=r'--resume: --loss-on was not there and is now "all"'):
        heal("stopped", mixed(talk, prose, loss_on="all"), resume=True)
    resumed = heal("stopped", resume=True)
    assert same_weights(alone.out, resumed.out)
    one, other = alone.to_json(), resumed.to_json()
    assert other["resumed"] == [3]
    assert {name: one[name] for name in ("curve", "loss_tokens", "mix", "chats")} == {
        name: other[name] for name in ("curve", "loss_tokens", "mix", "chats")
    }
    assert one["mix"] == [0.25, 0.75]
    assert 0 < one["loss_tokens"] < one["tokens"]


def test_the_full_model_writes_chats_that_are_a_text(tiny_llama, pruned, text, tmp_path, monkeypatch):
    """What it ends is kept as a chat of its question and its own answer; what it does not end is left out."""
    tokenizer = load_tokenizer(Source(tiny_llama, "tiny"))
    asked = chats(60, seed=5)
    prompts = write_jsonl(tmp_path / "asked.jsonl", asked)
    answer = tokenizer(" It is so, and so it was.", add_special_tokens=False)["input_ids"]

    def write(_, __, given, most, *___):
        ended = [*answer, tokenizer.eos_token_id][:most]
        return [answer if index % 4 == 3 else ended for index in range(len(given))]

    monkeypatch.setattr("prune.writing.writers.write_answers", write)
    how = {**EXACT, "teacher_data": "self", "response_tokens": 16, "accumulate": 1}
    record = distil_tiny(tiny_llama, pruned, text, tmp_path / "own", tokens=512, prompts=str(prompts), **how).to_json()
    written = tmp_path / "own" / "responses.jsonl"
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    questions = [row["messages"][0] for row in asked]
    assert len(rows) == record["responses"]["responses"] == record["responses"]["finished"]
    for row in rows:
        assert row["messages"][0] in questions
        assert row["messages"][1:] == [{"role": "assistant", "content": "It is so, and so it was."}]
        assert "text" not in row
    *full, last = Counter(row["batch"] for row in rows).values()  # of each batch of 16 every fourth is left out
    assert set(full) <= {12}
    assert 0 < last <= 12  # those beyond the tokens asked for are left out too
    assert record["chats"]["read"] <= len(rows)
    assert record["chats"]["cut"] == 0
    assert record["loss_on"] == "answers"
    again = row_stream(TextSource(str(written)), tokenizer, HeldOut((), frozenset()), length=64, seed=0).take(3)
    assert all(0 < row.targets < 63 for row in again)
    with pytest.raises(TextError, match="some are chats and others prose; name what it answers with --prompts"):
        prose = write_jsonl(tmp_path / "prose.jsonl", ({"text": line} for line in sentences(400)))
        distil_tiny(
            tiny_llama, pruned, TextSource((text.source, str(prose)), held_out_tokens=200), tmp_path / "a", **how
        )
    with pytest.raises(UsageError, match="--mix is of texts to train on; with --teacher-data self"):
        both = TextSource((text.source, text.source), mix=(0.5, 0.5))
        distil_tiny(tiny_llama, pruned, both, tmp_path / "b", **how)


def test_prose_alone_is_told_to_cost_a_model_with_a_template(tiny_llama, prose, text, tmp_path, capsys):
    plain = TextSource(str(prose), held_out_tokens=128)
    heal_tiny(tiny_llama, plain, tmp_path / "out", 64, {"show_progress": True}, **{**EXACT, "accumulate": 1})
    assert " ".join(PROSE_ALONE.split()) in " ".join(capsys.readouterr().err.split())
    without = shutil.copytree(tiny_llama, tmp_path / "base")
    (without / "chat_template.jinja").unlink()
    with pytest.raises(TextError, match=r"the tokenizer of .* has no chat template; heal on prose"):
        heal_tiny(without, text, tmp_path / "none", 128, **EXACT)


def test_cut_chats_are_told_of():
    assert chats_line({}, 64) == chats_line({"read": 9, "cut": 0, "passed_over": 0}, 64) == ""
    line = chats_line({"read": 1200, "cut": 30, "passed_over": 4}, 64)
    assert line.startswith("Of 1,200 chats, 30 were cut at the end of a row of 64 tokens, and 4 passed over")


def test_errors_are_one_line_and_leave_nothing(tiny_llama, talk, tmp_path):
    files = {
        "none": [{"messages": chat("Why?")}],
        "empty": [{"messages": []}],
        "both": [{"messages": chat("Why?", "So.")}, {"text": "prose"}],
    }
    folder = tmp_path / "texts"
    folder.mkdir()
    paths = {name: write_jsonl(folder / f"{name}.jsonl", rows * 40) for name, rows in files.items()}
    thinking = shutil.copytree(tiny_llama, folder / "thinking")
    (thinking / "chat_template.jinja").write_text(THINKING)
    thoughts = chat("Why?", "<think>Hm.</think>So.", "And?", "Well.")
    paths["thoughts"] = write_jsonl(folder / "thoughts.jsonl", [{"messages": thoughts}] * 40)
    small = {"tokens": 64, "length": 64, "batch-size": 1, "accumulate": 1, "bits": 16, "rank": 4, "device": "cpu"}
    common = [f"--{name}={value}" for name, value in small.items()]
    for model, words, code, line in (
        (
            tiny_llama,
            ["--text", paths["none"]],
            1,
            "a chat without an answer (`role` 'assistant') has nothing to learn",
        ),
        (tiny_llama, ["--text", paths["empty"]], 1, "its `messages` are empty"),
        (tiny_llama, ["--text", paths["both"]], 1, "keep chats and prose in two sources"),
        (thinking, ["--text", paths["thoughts"]], 1, "in another way once more follows"),
        (tiny_llama, ["--text", talk, "--mix", "0.5,0.5"], 2, "shares of 2 texts, and there are 1"),
        (tiny_llama, ["--text", talk, "--mix", "half"], 2, "--mix half: write a share for each --text"),
        (tiny_llama, ["--text", talk, "--loss-on", "me"], 2, "--loss-on me is unknown; use answers, all"),
    ):
        done = run("heal", "qlora", model, "--out", tmp_path / "out", "--held-out", talk, *common, *words)
        check_refused(done, code, line)
    done = run("prune", "scan", tiny_llama, "--text", talk, "--out", tmp_path / "scan.json")
    check_refused(done, 1, "chats.jsonl row 1 is a chat (`messages`), and only prose is read here")
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_the_sample_model_learns_to_answer(sample_model, talk, tmp_path, capsys):
    text = TextSource(str(talk), held_out_tokens=128)
    how = {**EXACT, "accumulate": 1, "targets": "feed-forward", "eval_every": 9}
    result = heal_tiny(sample_model, text, tmp_path / "adapter", 2 * 64, {"show_progress": True}, **how)
    assert result.after < result.before
    assert PROSE_ALONE[:40] not in capsys.readouterr().err
