"""A model asked without some of its heads: like one whose weights are zero there, and its answers kept apart."""

import json
import shutil

import pytest

from eval.billing.document import read_run, write_run
from eval.comparison import compare
from eval.runs.run import run
from tests.support.checkpoints import hand_made_heads
from tests.support.commands import check_refused
from tests.support.commands import run as run_command
from tests.support.models import changed, save_tiny

GONE = ((3, 1), (5, 0))  # the two that copy
FEW = {"domains": "math", "limit": 2, "sets": ["mmlu", "asdiv"], "thinking": "fast", "chat_template": "off"}


@pytest.fixture(scope="module")
def asked(sample_questions, sample_heldout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    text = folder / "text.jsonl"
    text.write_text("".join(sample_heldout.read_text().splitlines(keepends=True)[:3]))
    return {**FEW, "data": sample_questions, "text": str(text), "cache": folder, "show_progress": False}


@pytest.fixture(scope="module")
def heads_file(tiny_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "heads.json"
    hand_made_heads(tiny_llama).write(path)
    return path


@pytest.fixture(scope="module")
def full(tiny_llama, asked):
    return run(tiny_llama, **asked)


@pytest.fixture(scope="module")
def without(tiny_llama, asked, heads_file, full):  # asked after the whole model, whose answers are kept by then
    return run(tiny_llama, ablate_heads=heads_file, top=2, heads_by="copy", **asked)


def _scores(result):
    return [(s.id, s.thinking, s.correct, s.answer_nll_bits, s.response) for s in result.samples]


def test_scores_and_texts_are_those_of_a_model_whose_weights_are_zero_there(tiny_llama, asked, full, without, tmp_path):
    zeroed = shutil.copytree(tiny_llama, tmp_path / "zeroed")
    with changed(zeroed) as model:
        for layer, head in GONE:
            model.model.layers[layer].self_attn.o_proj.weight[:, 8 * head : 8 * (head + 1)] = 0
    wanted = run(zeroed, **asked)
    for ours, theirs in zip(without.samples, wanted.samples, strict=True):
        assert ours.response == theirs.response
        if not ours.thinking:
            assert ours.answer_nll_bits == pytest.approx(theirs.answer_nll_bits, rel=1e-6)
    nats = [[window.nats for window in result.prose["held-out"].windows] for result in (without, wanted, full)]
    assert nats[0] == pytest.approx(nats[1], rel=1e-6)
    assert nats[0] != pytest.approx(nats[2], rel=1e-6)
    texts = {sample.protocol for sample in full.samples if isinstance(sample.response, str)}
    assert texts == {"choice", "generation"}  # fast thinking writes to both


def test_kept_answers_are_never_those_of_another_model(tiny_llama, asked, heads_file, full, without):
    again = run(tiny_llama, **asked)
    assert (again.asked, _scores(again)) == (0, _scores(full))
    assert without.known == 0
    once_more = run(tiny_llama, ablate_heads=heads_file, top=2, heads_by="copy", **asked)
    assert (once_more.asked, _scores(once_more)) == (0, _scores(without))
    others = run(tiny_llama, ablate_heads=heads_file, top=2, heads_by="copy", ablate_random=0, **asked)
    assert others.known == 0
    drawn = [tuple(head) for head in others.settings["removed_heads"]["heads"]]
    assert [layer for layer, _ in drawn] == [3, 5]
    assert not set(drawn) & set(GONE)


def test_runs_say_what_was_taken_out_and_stand_side_by_side(tiny_llama, heads_file, full, without, tmp_path):
    write_run(full, tmp_path / "full")
    write_run(without, tmp_path / "without")
    record = {"heads": [[3, 1], [5, 0]], "by": "copy", "random": None, "file": str(heads_file)}
    assert json.loads((tmp_path / "without/run.json").read_text())["settings"]["removed_heads"] == record
    assert json.loads((tmp_path / "without/results.json").read_text())["config"]["llama"]["removed_heads"] == record
    assert "removed_heads" not in json.loads((tmp_path / "full/results.json").read_text())["config"]["llama"]
    assert read_run(tmp_path / "without").settings["removed_heads"] == record
    bill = compare(tmp_path / "full", [tmp_path / "without"], out=tmp_path / "bill", show_progress=False)
    assert [model.label for model in bill.models] == ["full", "without"]
    assert any(row.versus and row.versus.answer_nll_bits_difference.estimate != 0 for row in bill.rows)
    note = f"without: asked without 2 of its heads (the first by copy score, {heads_file})"
    assert note in bill.warnings


def test_bad_input_is_one_clear_line(tiny_llama, sample_questions, heads_file, tmp_path):
    command = ["evaluate", "run", tiny_llama, "--data", sample_questions, "--domains", "math", "--limit", 2]
    ablating = [*command, "--ablate-heads", heads_file]
    check_refused(run_command(*command, "--top", 5), 2, "--top goes with --ablate-heads")
    check_refused(run_command(*command, "--ablate-random", 0), 2, "--ablate-random goes with --ablate-heads")
    check_refused(run_command(*ablating, "--backend", "vllm"), 2, "--ablate-heads takes heads out of a model of tr")
    check_refused(run_command(*ablating, "--top", 0), 2, "--top 0: use 1 or more")
    check_refused(run_command(*ablating, "--top", 33), 2, "--top 33: the model has 32 heads")
    check_refused(run_command(*ablating, "--ablate-random", 1), 2, "--top 20 of 32 heads leaves too few")
    check_refused(run_command(*ablating, "--ablate-random", -1), 2, "--ablate-random -1: use 0 or more")
    check_refused(run_command(*ablating, "--heads-by", "size"), 2, "--heads-by size is unknown; use write, copy")
    check_refused(run_command(*command, "--ablate-heads", tmp_path / "no.json"), 1, "no.json does not exist")
    other = tmp_path / "other.json"
    hand_made_heads(tiny_llama, shards={"model.safetensors": "0"}).write(other)
    check_refused(run_command(*command, "--ablate-heads", other), 1, "with other weights than")
    hand_made_heads(tiny_llama, config_sha256="0").write(other, overwrite=True)
    check_refused(run_command(*command, "--ablate-heads", other), 1, "with another config.json than")


def test_a_model_whose_heads_cannot_be_told_is_refused(sample_model, sample_questions, tmp_path):
    folder = save_tiny(tmp_path / "bloom", sample_model, "bloom", layers=8)  # it has an attention of its own
    hand_made_heads(folder).write(tmp_path / "heads.json")
    command = ["evaluate", "run", folder, "--data", sample_questions, "--domains", "math", "--limit", 2, "--no-cache"]
    check_refused(run_command(*command, "--ablate-heads", tmp_path / "heads.json"), 1, "shows no attention weights")
