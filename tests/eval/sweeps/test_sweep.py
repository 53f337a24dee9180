"""Sweeps: every log-likelihood is that of lm-eval's HFLM on the written checkpoint, and no variant is made up."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval import run, sweep
from eval.asking.trees import share_requests
from eval.asking.walk import RouteAnswers, choose_way, score
from eval.billing.sweep import SweepRecord
from eval.runs.files import read_lines
from eval.sweeps.lookup import Prompting, StoredAnswers, collect, collector, read
from eval.sweeps.measure import walk_questions
from eval.sweeps.plan import plan_sweep
from eval.sweeps.unfinished import KeptAnswers
from prune import cut, plan_cut
from prune.checkpoint.identity import model_identity
from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.common.files.resume import Unfinished
from prune.models.walks.walking import Route, count_passes
from tests.support.checkpoints import hand_made_scan
from tests.support.commands import check_refused, error_line, succeed
from tests.support.commands import run as run_command
from tests.support.models import changed
from tests.support.sweeps import FEW, agree, by_hflm, tasks

FAMILIES = {"llama": "tree", "qwen3": "tree", "gpt2": "tree", "gpt_neox": "tree", "gemma2": "plain", "bloom": "plain"}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "gpt_neox")]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", *SLOW])
def test_a_sweep_scores_as_hflm_on_the_written_checkpoints(family, tiny, sample_questions, tmp_path):
    folder = tiny(family)
    found = sweep(folder, data=sample_questions, sizes="0,2,3", starts="2,4", chat_template="off", **FEW)
    assert found.document.how.path == FAMILIES[family]
    assert (found.document.how.why is None) == (FAMILIES[family] == "tree")
    assert [v.label for v in found.plan.variants] == ["full", "2@2", "2@4", "3@2", "3@4"]
    agree(found, 0, by_hflm(folder, sample_questions))
    for place in (2, 3) if family == "llama" else (3,):
        variant = found.plan.variants[place]
        cut(plan_cut(folder, layers=list(variant.dropped)), tmp_path / str(place))
        agree(found, place, by_hflm(tmp_path / str(place), sample_questions))


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_every_choice_scores_as_by_hflm_not_the_right_one_alone(family, tiny, sample_questions, tmp_path):
    folder = tiny(family)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    plan = plan_sweep(8, sizes="0,3", rule="2")
    scorer = collector(model, tokenizer, 1024)
    found = walk_questions(scorer, plan, tasks(sample_questions), Prompting(), show_progress=False)
    number = dict(zip(found.collected.pairs, found.collected.owners, strict=True))
    cut(plan_cut(folder, n=3, start=2), tmp_path / "cut")
    seen = set()
    for place, checkpoint in enumerate((folder, tmp_path / "cut")):
        for entries in by_hflm(checkpoint, sample_questions).values():
            for entry in entries:
                for pair, ((logprob, greedy),) in zip(entry["arguments"], entry["resps"], strict=True):
                    at = number[tuple(pair)]
                    assert found.answers.of(place, at) == (pytest.approx(logprob, abs=1e-4), bool(greedy))
                    seen.add((place, at))
    assert len(seen) == 2 * len(set(number.values())) > 2 * 4 * 4


def test_a_sweep_asks_what_run_asks(tiny, sample_questions):
    folder = tiny("llama")
    found = sweep(folder, data=sample_questions, sizes="1", **FEW)
    assert found.document.settings["chat_template"] is True
    asked = run(folder, data=sample_questions, **FEW)
    for task in found.tasks:
        samples = asked.of(next(plan for plan in asked.tasks if plan.name == task.plan.name))
        assert [s.answer_nll_bits for s in samples] == pytest.approx(task.nll[0].tolist(), abs=1.4e-4)
        if task.correct is not None:
            assert [s.correct for s in samples] == task.correct[0].tolist()
            assert [s.response for s in samples] == task.response[0].tolist()
            assert [s.prompt_hash for s in samples] == list(task.prompts)


def test_the_real_model_scores_as_hflm(sample_model, sample_questions, tmp_path):
    few = {**FEW, "limit": 2}
    found = sweep(sample_model, data=sample_questions, sizes="6", starts="13", dtype="float32", **few)
    assert found.document.how.path == "tree"
    cut(plan_cut(sample_model, n=6, start=13), tmp_path / "cut")
    agree(found, 1, by_hflm(tmp_path / "cut", sample_questions, limit=2, chat=True))


@pytest.fixture(scope="module")
def planted(tiny, tmp_path_factory):
    """A model whose layers 2 to 4 do nothing."""
    folder = shutil.copytree(tiny("llama"), tmp_path_factory.mktemp("planted") / "llama")
    with changed(folder) as model:
        for layer in model.model.layers[2:5]:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
    return folder


@pytest.fixture(scope="module")
def swept(planted, sample_questions, sample_heldout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    out, prose = folder / "out", folder / "prose.jsonl"
    prose.write_text("".join(sample_heldout.read_text().splitlines(keepends=True)[:2]))
    options = {**FEW, "text": str(prose)}
    return out, sweep(planted, data=sample_questions, sizes="0-4", starts="all", out=out, **options)


def test_layers_that_do_nothing_cost_nothing_and_are_found(swept, planted):
    out, found = swept
    for answers in found.document.maps:
        grid = np.array(answers.answer_nll_bits_difference, dtype=float)
        idle = {(1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (3, 2)}
        for row, size in zip(grid, answers.sizes, strict=True):
            for start, value in zip(answers.starts, row, strict=True):
                if (size, start) in idle:
                    assert value == pytest.approx(0, abs=1e-4)
                elif not np.isnan(value):
                    assert abs(value) > 1e-3
    own = [task for task in found.tasks if task.plan.domain == "math"]
    right = [[q.choices[q.answer] if q.choices else q.answer for q in task.plan.questions] for task in own]
    sizes = [sum(len(text.encode()) for text in texts) for texts in right]
    rises = [(task.nll.sum(1) - task.nll[0].sum()) / size for task, size in zip(own, sizes, strict=True)]
    for place, variant in enumerate(found.plan.variants[1:], start=1):
        cost = found.costs.domains["math"][variant.n][variant.start]
        assert cost == pytest.approx(np.mean([rise[place] for rise in rises]))
    assert "bits per byte" in found.costs.measure
    for n in (2, 3):
        chosen = plan_cut(planted, n=n, settings=CutSettings(criterion="domain", costs=out / "costs.json"))
        costs = found.costs.domains
        cheapest = min(range(8 - n), key=lambda s: sum(costs[d][n][s] for d in costs))
        assert chosen.dropped == tuple(range(cheapest, cheapest + n))
        assert chosen.evidence["domain_cost"] <= 1e-4


def test_all_files_are_there_and_agree(swept):
    out, found = swept
    document = json.loads((out / "sweep.json").read_text())
    assert document == found.to_json()
    samples = {f"samples_regrowth_{name}.jsonl" for name in ("medical_choice", "math_choice", "math_generation")}
    figures = {"curves.svg", "map.svg"}
    assert {p.name for p in out.iterdir()} == {"sweep.json", "costs.json", "report.html", *samples, *figures}
    labels = [variant["label"] for variant in document["variants"]]
    for row in document["rows"]:
        lines = read_lines(out / f"samples_regrowth_{row['domain']}_{row['protocol']}.jsonl")
        place = labels.index(row["variant"])
        bits = [line["answer_nll_bits"][place] for line in lines]
        assert len(bits) == row["n"] == 4
        assert row["answer_nll_bits"]["estimate"] == pytest.approx(np.mean(bits))
        if row["protocol"] == "choice":
            assert row["accuracy"]["estimate"] == np.mean([line["correct"][place] for line in lines])
            assert row["answer_greedy"] is None
        else:
            assert (row["accuracy"], row["chance"]) == (None, None)
            assert row["answer_greedy"] == np.mean([line["answer_greedy"][place] for line in lines])
        if row["variant"] == "full":
            assert row["versus"] is None
        else:
            change = np.mean(bits) - np.mean([line["answer_nll_bits"][0] for line in lines])
            assert row["versus"]["answer_nll_bits_difference"]["estimate"] == pytest.approx(change)
    for curve in document["curves"]:
        assert [point["size"] for point in curve["points"]] == [0, 1, 2, 3, 4]
    prose = {row["variant"]: row for row in document["prose"]}
    assert prose["full"]["difference"] is None
    assert prose["3@2"]["nats_per_token"] == pytest.approx(prose["full"]["nats_per_token"], abs=1e-4)
    assert prose["2@0"]["nats_per_token"] != pytest.approx(prose["full"]["nats_per_token"], abs=1e-2)


def test_starts_of_a_scan(tiny, sample_questions, tmp_path):
    folder = tiny("llama")
    scan = hand_made_scan(folder)
    scan.write(tmp_path / "scan.json")
    found = sweep(folder, data=sample_questions, scan=tmp_path / "scan.json", sizes="1-3", **{**FEW, "limit": 2})
    assert [v.start for v in found.plan.variants] == [None, *(b.start for b in scan.best[:3])]
    hand_made_scan(folder, config_sha256="0").write(tmp_path / "other.json")
    with pytest.raises(CheckpointError, match=r"other\.json was made on"):
        sweep(folder, data=sample_questions, scan=tmp_path / "other.json", sizes="1-3", **FEW)


def _asked(folder, data, limit=4):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    scorer = collector(model, AutoTokenizer.from_pretrained(folder), 1024)
    return model, collect(tasks(data, limit), scorer, Prompting())


ROUTES = [Route(), Route(frozenset({3, 4})), Route(frozenset({4, 5, 6}))]


def test_an_interrupted_sweep_goes_on(tiny, sample_questions, tmp_path, monkeypatch):
    model, collected = _asked(tiny("llama"), sample_questions)
    requests = collected.requests
    way = choose_way(model, requests)
    whole = score(model, requests, ROUTES, way=way, batch_tokens=256)
    monkeypatch.setattr("prune.common.files.resume.EVERY", 0)
    kept, passes = KeptAnswers(Unfinished(tmp_path / "kept"), {"model": "a"}), []

    def stop(answers, new):
        kept.keep(answers)
        if new:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(model, requests, ROUTES, way=way, batch_tokens=256, watch=stop)
    half = kept.restore()
    assert 0 < half.done.sum() < len(requests)
    again = score(model, requests, ROUTES, way=way, answers=half, watch=lambda _, new: passes.append(new))
    assert sum(passes) == len(requests)
    assert again.logprob == pytest.approx(whole.logprob, abs=1e-4)
    assert (again.greedy == whole.greedy).all()


def test_shares_of_the_questions_are_joined_to_the_whole(tiny, sample_questions):
    model, collected = _asked(tiny("llama"), sample_questions)
    requests = collected.requests
    way = choose_way(model, requests)
    whole = score(model, requests, ROUTES, way=way)
    parts = [score(model, requests, ROUTES, way=way, mine=share_requests(requests, rank, 3)) for rank in range(3)]
    assert all(0 < part.done.sum() < len(requests) for part in parts)
    joined = RouteAnswers.joined(parts)
    assert joined.done.all()
    assert joined.logprob == pytest.approx(whole.logprob, abs=1e-4)
    assert (joined.greedy == whole.greedy).all()
    assert joined.read == sum(part.read for part in parts)


@pytest.mark.slow
def test_two_processes_give_the_sweep_of_one(tiny, sample_questions, tmp_path):
    words = [tiny("llama"), "--data", sample_questions, "--domains", "medical,math", "--sets", "mmlu,asdiv"]
    words += ["--limit", 4, "--sizes", "0-3", "--starts", "deepest"]
    succeed("evaluate", "sweep", *words, "--out", tmp_path / "one")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "eval", "sweep"]
    command = [sys.executable, *launch, *map(str, words), "--out", str(tmp_path / "two")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = (SweepRecord.read(tmp_path / name / "sweep.json") for name in ("one", "two"))
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    assert one.variants == two.variants
    for name in ("one", "two"):
        assert (tmp_path / name / "costs.json").exists()
    assert done.stdout.count("variants in one walk") + done.stderr.count("variants in one walk") == 1
    for ours, theirs in zip(nlls(tmp_path / "one"), nlls(tmp_path / "two"), strict=True):
        assert ours == pytest.approx(theirs, abs=1.4e-4)


def nlls(folder):
    """The answer NLL of each question and variant, from the samples that a sweep wrote."""
    return [row["answer_nll_bits"] for path in sorted(folder.glob("samples_*.jsonl")) for row in read_lines(path)]


def test_a_resumed_sweep_never_crosses_models(tiny, sample_questions, tmp_path, monkeypatch):
    """A twin of the same shapes has the same headers; its file is refused, and before the model is loaded."""
    folder, twin = tiny("llama"), shutil.copytree(tiny("llama"), tmp_path / "twin")
    with changed(twin) as model:
        model.model.layers[7].mlp.down_proj.weight[-1] += 1.0
    assert model_identity(twin)["shards"] == model_identity(folder)["shards"]
    out, kept = tmp_path / "out", tmp_path / ".out.unfinished"
    ask = {"data": sample_questions, "sizes": "1", "out": out, **FEW, "domains": "math", "limit": 2}
    monkeypatch.setattr("prune.common.files.resume.EVERY", 0)
    with monkeypatch.context() as patched:
        patched.setattr("eval.sweeps.document.write_sweep", lambda *_, **__: pytest.fail("as if it was interrupted"))
        with pytest.raises(pytest.fail.Exception):
            sweep(folder, **ask)
    first = sweep(folder, **{**ask, "out": None})
    with pytest.raises(RegrowthError, match="go on with --resume, or begin anew with --overwrite"):
        sweep(folder, **ask)
    ask["resume"] = True
    with monkeypatch.context() as patched:
        patched.setattr("eval.sweeps.run.load_asked", lambda *_, **__: pytest.fail("the model was loaded"))
        with pytest.raises(UsageError, match="--resume: the model was"):
            sweep(twin, **ask)
        with pytest.raises(UsageError, match="--resume: the list of cuts was"):
            sweep(folder, **{**ask, "sizes": "2"})
        (tmp_path / ".other.unfinished").write_text("not that")
        with pytest.raises(RegrowthError, match="is not what an interrupted run has left"):
            sweep(folder, **{**ask, "out": tmp_path / "other"})
    again = sweep(folder, **ask)
    assert [t.nll.tolist() for t in again.tasks] == [t.nll.tolist() for t in first.tasks]
    assert not kept.exists()
    other = sweep(twin, **ask, overwrite=True)
    contents = [one.document.provenance["model"]["content_sha256"] for one in (first, again, other)]
    assert contents[0] == contents[1] != contents[2]
    assert (other.tasks[0].nll != first.tasks[0].nll).any()


def test_less_memory_means_smaller_batches_and_the_same_answers(tiny, sample_questions):
    model, collected = _asked(tiny("llama"), sample_questions)
    requests = collected.requests
    way = choose_way(model, requests)
    whole = score(model, requests, ROUTES, way=way)

    def full(_module, _args, kwargs, tokens=200):
        if kwargs["hidden_states"].numel() > 32 * tokens:
            raise torch.OutOfMemoryError("out of memory")

    attention = model.model.layers[3].self_attn
    handle = attention.register_forward_pre_hook(full, with_kwargs=True)
    less = score(model, requests, ROUTES, way=way)
    handle.remove()
    assert less.notes[0] == "out of memory at 1024 tokens a batch: went on with 512"
    assert less.logprob == pytest.approx(whole.logprob, abs=1e-4)
    attention.register_forward_pre_hook(lambda *given: full(*given, tokens=0), with_kwargs=True)
    with pytest.raises(RegrowthError, match="one question at a time"):
        score(model, requests, ROUTES, way=way)


def test_no_answer_is_made_up(tiny, sample_questions):
    asked = tasks(sample_questions)
    pairs = _asked(tiny("llama"), sample_questions)[1].pairs
    known = dict.fromkeys(pairs, (-1.0, False))
    results = read(asked, StoredAnswers(known), Prompting())["results"]
    assert results["regrowth_math_generation"]["answer_nll_bits,none"] > 1
    del known[pairs[3]]
    with pytest.raises(RegrowthError, match="no answer is stored to"):
        read(asked, StoredAnswers(known), Prompting())
    with pytest.raises(RegrowthError, match="no generated text"):
        StoredAnswers(known).generate_until([])


def test_the_plan_counts_what_the_walk_runs():
    deepest = plan_sweep(30, sizes="0-15", rule="deepest")
    assert deepest.passes() == 29 + 16
    assert [v.start for v in deepest.variants[1:3]] == [28, 27]
    every = plan_sweep(30, sizes="1-15", rule="all")
    assert len(every.variants) == 1 + sum(30 - n for n in range(1, 16))
    assert every.passes() < sum(30 - v.n for v in every.variants)
    assert count_passes(4, [Route(), Route(frozenset({1})), Route(frozenset({1}), "a", 2)]) == 4 + 2 + 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sizes", "0-8"], "of 8 layers at most 7 can be dropped"),
        (["--sizes", "4-1"], "--sizes '4-1': the range 4-1 runs backwards"),
        (["--sizes", "0"], "drops nothing"),
        (["--sizes", "2", "--starts", "6"], "no block of the sizes 2 can start at layer 6"),
        (["--sizes", "2", "--starts", "best"], "add --scan scan.json"),
        (["--sizes", "2", "--domains", "cooking"], "no domain is called 'cooking'"),
        (["--sizes", "2", "--batch-tokens", "3"], "--batch-tokens 3 is too few"),
        (["--sizes", "2", "--adapter", "nowhere"], "heal.json does not exist"),
        (["--sizes", "2", "--scan", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(options, words, tiny_llama, sample_questions, tmp_path):
    asked = ["--data", sample_questions, "--domains", "math", "--out", tmp_path / "out"]
    result = run_command("evaluate", "sweep", tiny_llama, *asked, *options)
    assert result.exit_code in (1, 2)
    assert words in error_line(result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_json_or_tables(tiny_llama, sample_questions, tmp_path):
    asked = ["--data", sample_questions, "--domains", "math", "--limit", "3", "--sizes", "0-2"]
    found = succeed("evaluate", "sweep", tiny_llama, *asked, "--out", tmp_path / "one", "--json")
    assert json.loads(found.stdout)["format"] == "regrowth.sweep/2"
    assert "3 variants in one walk of 10 layer passes: 1.2 times one model" in found.stderr
    command = ["evaluate", "sweep", tiny_llama, *asked, "--out", tmp_path / "two"]
    assert "math choice: 3 questions, chance 25 %" in succeed(*command).stdout
    check_refused(run_command(*command), 1, "already exists")
