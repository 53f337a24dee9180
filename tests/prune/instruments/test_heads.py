"""`prune heads` as a whole: a planted head is found and proved, and bad input is one clear line."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from transformers import AutoTokenizer

from prune.choosing.heads import Heads
from prune.common.errors import CheckpointError, RegrowthError, TextError, UsageError
from prune.common.files.resume import Unfinished
from prune.instruments import detecting
from prune.instruments.effects import Runs, verdict
from prune.instruments.heads import heads
from prune.instruments.needles import NEEDLES
from prune.instruments.prompts import Prompter
from prune.instruments.settings import HeadsSettings, parse_numbers
from prune.instruments.showing import draw_heads, heads_table
from tests.support.commands import check_refused, run, succeed
from tests.support.copying_model import COPIES, TEXT, save_copying_model


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    return save_copying_model(tmp_path_factory.mktemp("copying"))


@pytest.fixture(scope="module")
def settings():
    return HeadsSettings(lengths=(100,), depths=3, needles=8, top=(1,), draws=3, new_tokens=9, device="cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(f"{TEXT}\n\n{TEXT}")
    return str(path)


@pytest.fixture(scope="module")
def result(copying, text, settings):
    return heads(copying, text, settings=settings, show_progress=False)


def test_a_chat_template_that_refuses_is_one_line(copying):
    tokenizer = AutoTokenizer.from_pretrained(copying)
    tokenizer.chat_template = "{{ raise_exception('a system prompt is needed') }}"
    for ask in (
        lambda prompter: prompter.ask("What is it?"),
        lambda prompter: prompter.ask_about(["One.", "Two."], 1, NEEDLES[0]),
    ):
        with pytest.raises(TextError, match=r"the chat template of .* refuses .* \(a system prompt is needed\)"):
            ask(Prompter(tokenizer))
        ask(Prompter(tokenizer, chat=False))


def test_the_planted_head_is_first_by_both_scores(result):
    assert result.ranked("write")[0] == result.ranked("copy")[0] == COPIES
    assert result.steady == (COPIES,)
    assert result.sometimes == ()
    assert result.retrieval_share == 1 / 8
    assert result.copy_score[1][2] > 0.7
    others = np.delete(np.ravel(result.copy_score), 4 + 2)
    assert others.max() == 0
    assert result.stability.copy_overlap == 1


def test_its_removal_kills_recall_and_that_of_others_does_not(result):
    (ablation,) = result.ablations
    assert ablation.heads == (COPIES,)
    assert all(layer == COPIES[0] and head != COPIES[1] for draw in ablation.random for layer, head in draw)
    effects = {effect.measure: effect for effect in ablation.effects}
    recall = effects["needle recall"]
    assert recall.questions == recall.clusters == 8  # the trials of the middle depth
    assert recall.full > 0.4
    assert recall.without_top < 0.1
    assert recall.without_random == pytest.approx([recall.full] * 3)
    assert recall.verdict == "seen"
    assert effects["facts right"].verdict == "cannot tell"  # the toy knows none


def test_an_answer_is_the_one_that_transformers_writes(copying, text, result, settings):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prune.instruments.needles import NEEDLES
    from prune.instruments.prompts import Prompter, plan_trials, read_sentences

    tokenizer = AutoTokenizer.from_pretrained(copying)
    model = AutoModelForCausalLM.from_pretrained(copying)
    documents = read_sentences([text], settings.field, settings.seed)
    assert len(result.trials) == 24
    trials = plan_trials(Prompter(tokenizer), list(enumerate(NEEDLES))[:8], documents, (100,), (0.0, 0.5, 1.0))
    for trial, row in list(zip(trials, result.trials, strict=True))[::5]:
        ids = torch.tensor([trial.prompt.ids])
        written = model.generate(ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == row.written
        answer = tokenizer.decode(ids[0, trial.prompt.start : trial.prompt.stop])
        assert detecting.recall(NEEDLES[trial.needle].answer, answer) == 1
        assert row.tokens == ids.shape[1] <= 100


def test_the_file_is_read_as_it_was_written(result, tmp_path):
    result.write(tmp_path / "heads.json")
    assert Heads.read(tmp_path / "heads.json").to_json() == result.to_json()
    document = result.to_json()
    document["heads"] = [4, 3]
    (tmp_path / "damaged.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="another number of heads"):
        Heads.read(tmp_path / "damaged.json")


def test_the_map_has_a_square_for_each_head(result):
    root = ElementTree.fromstring(draw_heads(result))
    squares = [part for part in root.iter() if part.get("class") == "frame"]
    assert len(squares) == 2 * 8
    assert len([part for part in root.iter() if part.get("class") == "ring"]) == 2
    assert "layer 1, head 2" in ElementTree.tostring(root, encoding="unicode")


def test_the_table_tells_what_was_found(result):
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(heads_table(result))
    shown = console.export_text()
    assert "1 of 8 heads (12.5%)" in shown
    assert "needle recall" in shown
    assert "seen" in shown


def test_an_interrupted_run_goes_on(copying, text, settings, result, tmp_path, monkeypatch):
    out = tmp_path / "heads.json"
    ran = []
    whole = detecting.Writer.write

    def write(writer, prompts, watcher=None):
        if watcher is not None:
            ran.append(len(prompts))
            if len(ran) == 3:
                raise KeyboardInterrupt
        return whole(writer, prompts, watcher)

    def begun(**more):
        return Unfinished.beside(out, overwrite=False, **more)

    monkeypatch.setattr(detecting.Writer, "write", write)
    monkeypatch.setattr("prune.common.files.resume.EVERY", -1.0)
    with pytest.raises(KeyboardInterrupt):
        heads(copying, text, settings=settings, unfinished=begun(resume=False), show_progress=False)
    assert ran == [8, 8, 8]
    with pytest.raises(UsageError, match="--draws was 3 and is now 4"):
        other = replace(settings, draws=4)
        heads(copying, text, settings=other, unfinished=begun(resume=True), show_progress=False)
    again = heads(copying, text, settings=settings, unfinished=begun(resume=True), show_progress=False)
    assert ran == [8, 8, 8, 8]  # the third batch alone
    assert again.to_json() == result.to_json()


def test_the_command_writes_the_file_and_the_map(copying, text, result, tmp_path):
    out, plot = tmp_path / "heads.json", tmp_path / "heads.svg"
    small = ["--lengths", "100", "--depths", "3", "--needles", "8", "--draws", "3", "--new-tokens", "9", "--top", "1"]
    command = ["prune", "heads", copying, "--text", text, *small, "--device", "cpu", "--out", out]
    done = succeed(*command, "--plot", plot, "--json")
    assert "Finding heads" in done.stderr
    assert Heads.read(out).to_json() == json.loads(done.stdout)
    assert {**json.loads(done.stdout), "provenance": 0} == {**result.to_json(), "provenance": 0}
    assert plot.read_text() == draw_heads(result)
    assert sorted(tmp_path.iterdir()) == [out, plot]
    check_refused(run(*command), 1, "--overwrite")
    assert "1 of 8 heads" in succeed(*command, "--top", "none", "--depths", "1", "--overwrite").stdout


def test_a_command_that_makes_no_sense_is_one_clear_line(copying, text, tmp_path):
    command = ["prune", "heads", copying, "--text", text, "--out", tmp_path / "heads.json"]
    check_refused(run(*command, "--plot", tmp_path / "map.png"), 2, "the map of heads is an .svg file")
    check_refused(run(*command, "--lengths", "3,x"), 2, "--lengths '3,x': use whole numbers of at least 1")
    check_refused(run(*command, "--lengths", "none"), 2, "--lengths: give one length at least")
    check_refused(run(*command, "--top", "-1"), 2, "--top '-1': use whole numbers")
    check_refused(run(*command, "--needles", "99"), 2, "--needles 99: use 1 to 24")
    check_refused(run(*command, "--against", tmp_path / "gone.json"), 1, "gone.json does not exist")
    (tmp_path / ".heads.json.unfinished").write_text("")
    check_refused(run(*command), 1, "stands unfinished: go on with --resume")
    check_refused(
        run(*command, "--lengths", "100", "--top", "1", "--resume"), 1, "is not what an interrupted run has left"
    )


def test_a_cut_model_is_laid_beside_the_full_one(copying, text, settings, result, tmp_path):
    result.write(tmp_path / "full.json")
    same = heads(copying, text, settings=replace(settings, top=()), against=tmp_path / "full.json", show_progress=False)
    assert same.against.layer_of == (0, 1)
    assert same.against.removed_copy == same.against.removed_write == 0
    assert (same.against.retrieval_heads, same.against.still, same.against.new) == (1, 1, 0)
    assert same.against.copy_correlation == pytest.approx(1)
    other = result.to_json() | {"layers": 3, "heads": [4, 4, 4]}
    for name in ("copy_score", "write_score", "active"):
        other[name] = [*other[name], [0.0] * 4]
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="no plan that says it was cut from that"):
        heads(copying, text, settings=settings, against=tmp_path / "other.json", show_progress=False)


def test_bad_input_is_one_clear_line(copying, text, settings, tmp_path):
    with pytest.raises(UsageError, match="the model takes 512 tokens, 9 of them for the answer; use 503 at most"):
        heads(copying, text, settings=replace(settings, lengths=(510,)), show_progress=False)
    with pytest.raises(UsageError, match="--lengths 40: needle and question take"):
        heads(copying, text, settings=replace(settings, lengths=(40,)), show_progress=False)
    with pytest.raises(UsageError, match="--top 5 of 8 heads"):
        heads(copying, text, settings=replace(settings, top=(5,)), show_progress=False)
    with pytest.raises(TextError, match="too short for a haystack"):
        (tmp_path / "short.txt").write_text("A short text. That is all.")
        heads(copying, str(tmp_path / "short.txt"), settings=settings, show_progress=False)
    with pytest.raises(RegrowthError, match="answered none of 24 trials"):
        heads(copying, text, settings=replace(settings, new_tokens=1), show_progress=False)
    with pytest.raises(UsageError, match="use write or copy"):
        replace(settings, by="size")
    with pytest.raises(UsageError, match="--lengths '3,x': use whole numbers"):
        parse_numbers("3,x", "--lengths")
    assert parse_numbers("none", "--top") == ()
    assert parse_numbers("700, 350", "--lengths") == (350, 700)


def test_a_verdict_needs_an_interval():
    full, needles = np.full(40, 0.9), list(range(20)) * 2
    runs = Runs(full, np.vstack([np.full(40, 0.1), np.full((3, 40), 0.9)]), needles)
    assert verdict("needle recall", runs) == "seen"
    assert verdict("facts right", runs) == "not seen"
    nothing = Runs(full, np.full((4, 40), 0.9), needles)
    assert verdict("needle recall", nothing) == "not seen"
    assert verdict("facts right", nothing) == "seen"
    wild = np.random.default_rng(0).random((4, 40)) - 0.5
    assert verdict("needle recall", Runs(full, 0.9 + wild, needles)) == "cannot tell"


def test_the_sample_model(sample_model: Path, sample_heldout: Path):
    """A smoke run: the real model answers most needles at 300 tokens, knows none of them, and a head stands out."""
    asked = HeadsSettings(lengths=(250,), depths=1, needles=4, top=(), new_tokens=20, device="cpu")
    found = heads(sample_model, str(sample_heldout), settings=asked, show_progress=False)
    assert found.left_out == ()
    assert found.answered >= 2
    assert (found.layers, set(found.heads)) == (30, {9})
    assert found.copy_score[18][6] > 0.2
