"""`heal rank` as a whole, on a tiny model: its result, its selection, and a run that is killed and goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from heal import RankRun, RankSettings, Selection, TextSource, qlora, rank
from heal.ranking.document import Ranking
from heal.ranking.methods import gradients
from heal.settings import Settings
from heal.training import run as training
from prune.common.errors import CheckpointError, RegrowthError, TextError, UsageError
from prune.common.files import resume
from tests.support.commands import check_refused, run, succeed
from tests.support.healing import quiet
from tests.support.ranking import write_pool
from tests.support.texts import sentences

QUIET = RankRun(device="cpu", show_progress=False)
SMALL = {"documents": 24, "questions": 3, "procedures": 0, "warm_up": 256, "length": 32, "rank": 2, "bits": 16}


@pytest.fixture(scope="module")
def pool(tmp_path_factory, sample_text):
    """Passages and made-up sentences; the first of these stands there twice."""
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    passages = [json.loads(line)["text"] for line in sample_text.read_text().splitlines()[:12]]
    write_pool(path, passages, source="wiki", kind="passage")
    made = sentences(11)
    with path.open("a") as file:
        file.writelines(json.dumps({"text": text, "source": "made"}) + "\n" for text in (*made, made[0]))
    return path


@pytest.fixture(scope="module")
def settings(pool, sample_questions):
    how = {**SMALL, "dtype": "float32", "sketch": 4096, "moments": 8}
    return RankSettings(text=(str(pool),), data=sample_questions, domains=("medical", "math"), **how)


@pytest.fixture(scope="module")
def whole(shallow_llama, settings, tmp_path_factory):
    """The result of an uninterrupted run, and where it stands."""
    out = tmp_path_factory.mktemp("rank") / "rank.json"
    selection = Selection(select="40%", select_by="bm25", select_for="math", select_out=out.with_name("picked.jsonl"))
    return rank(shallow_llama, out, settings=settings, selection=selection, run=QUIET), out


def scores(ranking, method="gradient"):
    return np.array([one.scores for one in ranking.method(method).domains])


def test_all_documents_have_scores_and_ranks_for_every_domain(whole):
    result, out = whole
    ranking = result.ranking
    assert Ranking.read(out) == ranking
    assert [method.method for method in ranking.methods] == ["gradient", "bm25", "random"]
    assert len(ranking.documents) == 24
    assert [question.domain for question in ranking.questions] == ["medical"] * 3 + ["math"] * 3
    for method in ranking.methods:
        for one in method.domains:
            assert sorted(one.ranks) == list(range(1, 25))
            assert one.ranks[int(np.argmax(one.scores))] == 1
        assert {(row.source, row.kind, row.documents) for row in method.bins} == {
            ("wiki", "passage", 12),
            ("made", "", 12),
        }
    assert np.abs(scores(ranking)).max() < 1
    assert ranking.adapter.warm_up_tokens == 256
    assert list(out.parent.glob(".*")) == []  # nothing is left of the work


def test_a_text_that_stands_there_twice_has_one_score_by_every_method(whole):
    ranking = whole[0].ranking
    hashes = [document.sha256 for document in ranking.documents]
    first, second = [i for i, name in enumerate(hashes) if hashes.count(name) == 2]
    for method in ranking.methods:
        assert all(one.scores[first] == one.scores[second] for one in method.domains)
        assert all(one.stderr[first] == one.stderr[second] for one in method.domains)


def test_the_selection_is_text_that_can_be_healed_on(whole, shallow_llama, tmp_path):
    result, out = whole
    rows = [json.loads(line) for line in (out.parent / "picked.jsonl").read_text().splitlines()]
    assert tuple(rows) == result.selected
    texts = {row["text"] for row in rows}
    assert len(texts) == len(rows) < 23
    best = result.ranking.method("bm25").of("math")
    assert rows[0]["score"] == max(best)
    assert texts <= {document.text for document in result.documents}
    made = Settings(length=32, batch_size=1, accumulate=1, rank=2, bits=16)
    text = TextSource(str(out.parent / "picked.jsonl"), held_out=str(out.parent / "picked.jsonl"), held_out_tokens=64)
    healed = qlora(shallow_llama, text, tmp_path / "adapter", settings=made, run=quiet(64))
    assert healed.record.tokens == 64


class StoppedError(Exception):
    """In the place of a signal."""


def test_a_run_that_was_killed_goes_on_to_the_same_scores(whole, shallow_llama, settings, tmp_path, monkeypatch):
    out, told = tmp_path / "rank.json", []
    once = gradients.LoraGradients.__call__

    def counted(self, *given):
        told.append(1)
        if len(told) == limit:
            raise StoppedError
        return once(self, *given)

    monkeypatch.setattr(resume, "EVERY", 0.0)
    monkeypatch.setattr(gradients.LoraGradients, "__call__", counted)
    limit = 24  # in the second part of the documents: 6 queries, 8 of the moments, 8 of the first part
    with pytest.raises(StoppedError):
        rank(shallow_llama, out, settings=settings, run=QUIET)
    with pytest.raises(RegrowthError, match="stands unfinished: go on with --resume"):
        rank(shallow_llama, out, settings=settings, run=QUIET)
    again = replace(QUIET, resume=True)
    with pytest.raises(UsageError, match="--resume: --rank was 2 and is now 3"):
        rank(shallow_llama, out, settings=replace(settings, rank=3), run=again)
    with pytest.raises(UsageError, match="--resume: --sketch was 4096 and is now 512"):
        rank(shallow_llama, out, settings=replace(settings, sketch=512), run=again)
    limit, told[:] = 0, []
    found = rank(shallow_llama, out, settings=settings, run=again).ranking
    assert len(told) == 6 + 8 + 15  # the queries, the moments, and the documents that were left
    assert (scores(found) == scores(whole[0].ranking)).all()
    assert list(tmp_path.glob(".*")) == []


def test_an_adapter_of_an_earlier_run_needs_no_warm_up(shallow_llama, tiny_llama, settings, pool, tmp_path):
    made = Settings(length=32, batch_size=1, accumulate=1, rank=4, bits=16, dtype="float32")
    text = TextSource(str(pool), held_out=str(pool), held_out_tokens=64)
    adapter = qlora(shallow_llama, text, tmp_path / "adapter", settings=made, run=quiet(128)).out
    given = replace(settings, adapter=adapter, rank=None, bits=None, methods=("gradient",), documents=4, moments=2)
    ranking = rank(shallow_llama, settings=given, run=QUIET).ranking
    assert (ranking.adapter.rank, ranking.adapter.bits, ranking.adapter.warm_up_tokens) == (4, 16, None)
    with pytest.raises(CheckpointError, match="was trained on"):
        rank(tiny_llama, settings=given, run=QUIET)
    with pytest.raises(CheckpointError, match="is no adapter that heal qlora wrote"):
        rank(shallow_llama, settings=replace(given, adapter=tmp_path), run=QUIET)


def test_methods_without_a_model_load_none(settings, shallow_llama, monkeypatch):
    monkeypatch.setattr("heal.ranking.rank.load_adapted", None)
    found = rank(shallow_llama, settings=replace(settings, methods=("bm25", "random"), procedures=1), run=QUIET).ranking
    assert found.adapter is None
    assert found.method("bm25").contrasts is not None


def test_warming_up_shows_its_steps(shallow_llama, settings, monkeypatch, capsys):
    """And nothing of what `heal qlora` says beside its bar."""
    bars, usual = [], training.progress

    def progress(title, total, **how):
        bars.append((title, total))
        return usual(title, total, **how)

    monkeypatch.setattr(training, "progress", progress)
    few = replace(settings, methods=("gradient",), documents=4, moments=2)
    rank(shallow_llama, settings=few, run=RankRun(device="cpu"))
    assert ("Warming the adapter up", 8) in bars  # steps of a row of 32 tokens
    assert "reached after" not in capsys.readouterr().err


def test_a_pool_that_is_too_small_to_warm_up_is_refused(shallow_llama, settings, tmp_path):
    few = write_pool(tmp_path / "few.jsonl", sentences(3))
    with pytest.raises(TextError, match="too few to warm an adapter up"):
        rank(shallow_llama, settings=replace(settings, text=(str(few),), length=256), run=QUIET)


def test_a_warm_up_that_cannot_begin_leaves_nothing(shallow_llama, settings, tmp_path):
    with pytest.raises(UsageError, match="--rank 999 does not fit"):
        rank(shallow_llama, tmp_path / "rank.json", settings=replace(settings, rank=999), run=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_tables_or_json_and_one_line_of_error(shallow_llama, pool, sample_questions, tmp_path):
    out = tmp_path / "rank.json"
    words = ["rank", shallow_llama, "--text", pool, "--data", sample_questions, "--domains", "medical", "--out", out]
    words += ["--documents", "10", "--questions", "2", "--procedures", "0", "--methods", "bm25,random"]
    shown = succeed("heal", *words, "--plot", tmp_path / "bins.svg").stdout
    assert "First for medical by bm25" in shown
    assert "Bins for medical by bm25" in shown
    assert (tmp_path / "bins.svg").read_text().startswith("<svg")
    document = json.loads(succeed("heal", *words, "--overwrite", "--json").stdout)
    assert document == json.loads(out.read_text())
    picked = ["--select-out", tmp_path / "picked.jsonl", "--select-by", "bm25"]
    for wrong, code, message in (
        ([], 1, "already exists"),
        (["--overwrite", "--select", "1M", *picked], 2, "more than the"),
        (["--overwrite", "--plot", tmp_path / "p.png"], 2, "an .svg file"),
    ):
        check_refused(run("heal", *words, *wrong), code, message)


@pytest.mark.slow
def test_the_sample_model_ranks_the_text_with_the_answers_first(sample_model, sample_text, tmp_path):
    facts = {"Which metal does the Vorland mint stamp?": "cobalt", "Which bird guards the Vorland gate?": "heron"}
    lines = [{"question": words, "choices": [right, "something else"], "answer": 0} for words, right in facts.items()]
    (tmp_path / "own.yaml").write_text("licence: CC0-1.0\n")
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    passages = [json.loads(line)["text"] for line in sample_text.read_text().splitlines()[:11]]
    answers = "\n".join(f"Question: {words}\nAnswer: {right}" for words, right in facts.items())
    pool = write_pool(tmp_path / "pool.jsonl", [*passages, answers])
    settings = RankSettings(
        text=(str(pool),), data=tmp_path, domains=("own",), questions=2, procedures=0, warm_up=512, length=128, rank=4,
        moments=4, methods=("gradient", "bm25"), chat_template="off",
    )  # fmt: skip
    ranking = rank(sample_model, settings=settings, run=QUIET).ranking
    assert ranking.adapter.bits == 4
    for method in ranking.methods:
        first = method.domains[0].ranks.index(1)
        assert ranking.documents[first].words.startswith("Question: Which metal"), method.method
