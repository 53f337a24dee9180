"""`compare`: whole folders of whole bills, the same numbers twice, and nothing paired that is no pair."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from eval.billing.document import write_run
from eval.billing.statistics import mcnemar_exact
from eval.comparison import compare, dropped_layers, unique_labels
from eval.reports.wording.text import bounds
from eval.runs.files import read_lines
from eval.runs.run import run
from prune import cut, plan_cut
from prune.checkpoint.identity import model_identity
from prune.common.errors import RegrowthError, UsageError
from prune.common.screen.numbers import signed
from tests.support.models import changed

SMALL = {"domains": "medical,math", "limit": 5, "sets": ["mmlu", "asdiv"], "show_progress": False}
ONCE = {**SMALL, "noise": False}


@pytest.fixture(scope="module")
def other(tiny_llama, tmp_path_factory):
    """The tiny model with its last layers' weights changed."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("other") / "llama")
    torch.manual_seed(1)
    with changed(folder) as model:
        for layer in model.model.layers[4:]:
            layer.mlp.down_proj.weight.normal_(0, 0.5)
    return folder


@pytest.fixture(scope="module")
def made(tiny_llama, other, sample_questions, short_heldout, tmp_path_factory):
    out = tmp_path_factory.mktemp("bill") / "out"
    document = compare(tiny_llama, [other], data=sample_questions, text=str(short_heldout), out=out, **ONCE).to_json()
    return out, document


def samples_of(out, row):
    return read_lines(out / f"samples_{row['model']}_regrowth_{row['domain']}_{row['protocol']}.jsonl")


def test_all_files_are_there_and_agree(made):
    out, document = made
    tasks = ["regrowth_medical_choice", "regrowth_math_choice", "regrowth_math_generation"]
    samples = {f"samples_{m}_{t}.jsonl" for m in ("llama", "llama-2") for t in tasks}
    whole = {"results.json", "comparison.json", "comparison.md", "comparison.svg", "report.html"}
    assert {p.name for p in out.iterdir()} == samples | whole
    assert json.loads((out / "comparison.json").read_text()) == document
    assert document["format"] == "regrowth.comparison/3"
    assert [m["label"] for m in document["models"]] == ["llama", "llama-2"]
    assert document["models"][0]["shards"].keys() == {"model.safetensors"}
    assert document["provenance"]["questions"].keys() == {"medical.jsonl", "math.jsonl"}
    results = json.loads((out / "results.json").read_text())
    for row in document["rows"]:
        task = f"regrowth_{row['domain']}_{row['protocol']}"
        verdicts = samples_of(out, row)
        assert len(verdicts) == row["n"] == 5
        assert row["accuracy"]["estimate"] == sum(v["correct"] for v in verdicts) / 5
        assert row["answer_nll_bits"] == pytest.approx(sum(v["answer_nll_bits"] for v in verdicts) / 5)
        reported = results["results"][f"{row['model']}/{task}"]
        metric = "acc_norm,none" if row["protocol"] == "choice" else "exact_match,none"
        assert reported[metric] == row["accuracy"]["estimate"]
        assert reported["answer_nll_bits,none"] == pytest.approx(row["answer_nll_bits"])
        assert reported[metric.replace(",", "_stderr,")] != "N/A"
    assert results["higher_is_better"]["llama/regrowth_math_choice"]["answer_nll_bits"] is False


def test_differences_are_of_the_pairs(made):
    out, document = made
    for row in document["rows"]:
        full, own = samples_of(out, {**row, "model": "llama"}), samples_of(out, row)
        assert [(s["id"], s["prompt_hash"]) for s in full] == [(s["id"], s["prompt_hash"]) for s in own]
        if row["model"] == "llama":
            assert row["versus"] is None
            continue
        lost = sum(a["correct"] and not b["correct"] for a, b in zip(full, own, strict=True))
        gained = sum(b["correct"] and not a["correct"] for a, b in zip(full, own, strict=True))
        versus = row["versus"]
        assert (versus["lost"], versus["gained"]) == (lost, gained)
        assert versus["mcnemar_p"] == mcnemar_exact(lost, gained)
        change = sum(b["answer_nll_bits"] - a["answer_nll_bits"] for a, b in zip(full, own, strict=True)) / 5
        found = versus["answer_nll_bits_difference"]
        assert found["estimate"] == pytest.approx(change)
        assert found["low"] < found["estimate"] < found["high"]


def test_prose_is_billed_too(made):
    _, document = made
    full, other = document["prose"]
    assert full["difference"] is None
    assert other["difference"]["low"] <= other["difference"]["estimate"] <= other["difference"]["high"]
    change = other["nats_per_token"] - full["nats_per_token"]
    assert other["difference"]["estimate"] == pytest.approx(change) != 0


def test_the_table_and_the_figure(made):
    out, document = made
    lines = (out / "comparison.md").read_text().splitlines()
    table = [line for line in lines if line.startswith(("| medical choice", "| math"))]
    assert len(table) == len(document["rows"])
    (between,) = [line for line in lines if line.startswith("| medical against math, choice | llama-2 |")]
    found = document["interactions"][0]["answer_nll_bits_per_byte"]
    assert f"{signed(found['estimate'], 3)} {bounds(found, 1, 3)}" in between
    assert "- medical choice has 5 questions; below 30 an interval says little" in lines
    assert all(line.count("|") == table[0].count("|") for line in table)
    assert any("5 (few)" in line for line in table)
    assert (out / "comparison.svg").read_text().startswith("<svg ")


def test_the_same_inputs_give_the_same_numbers(made, tiny_llama, other, sample_questions, short_heldout, tmp_path):
    out, document = made
    ask = {"data": sample_questions, "text": str(short_heldout), **ONCE}
    again = compare(tiny_llama, [other], out=tmp_path / "again", **ask).to_json()
    for key in ("rows", "prose", "models"):
        assert again[key] == document[key]
    for path in out.glob("samples_*"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert (out / "results.json").read_bytes() == (tmp_path / "again" / "results.json").read_bytes()


def test_a_failing_model_leaves_nothing(tiny_llama, sample_questions, tmp_path):
    broken = shutil.copytree(tiny_llama, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RegrowthError):
        compare(tiny_llama, [broken], data=sample_questions, out=tmp_path / "out", **ONCE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_a_cut_tells_its_dropped_layers_until_its_folder_holds_another(tiny_llama, tmp_path):
    out = cut(plan_cut(tiny_llama, layers="2-3"), tmp_path / "cut", show_progress=False)
    identity = model_identity(out, name=str(out))
    assert dropped_layers(identity) == (2, 3)
    assert dropped_layers(model_identity(tiny_llama, name=str(tiny_llama))) is None
    cut(plan_cut(tiny_llama, layers="2-4"), out, overwrite=True, show_progress=False)
    assert dropped_layers(identity) is None
    assert dropped_layers(model_identity(out, name=str(out))) == (2, 3, 4)


def test_labels():
    assert unique_labels(["a/model", "b/model", "c/x/", "owner/name"]) == ["model", "model-2", "x", "name"]
    assert unique_labels(["m", "n"], ["a", " c"]) == ["a", "c"]
    for labels in (["a"], ["a", "a "], ["a", "b/c"], ["a", " "], ["a", "b" * 101]):
        with pytest.raises(UsageError, match="--labels"):
            unique_labels(["m", "n"], labels)
    with pytest.raises(UsageError, match="one other"):
        compare("m", [], data="d", domains="medical", out="o")


def test_prose_of_two_tokenizers_is_not_paired(tiny_llama, sample_questions, sample_heldout):
    from eval.billing.rows.bill import bill_prose

    few = {**SMALL, "data": sample_questions, "domains": "math", "limit": 2, "text": str(sample_heldout)}
    first, second = run(tiny_llama, **few), run(tiny_llama, seed=1, **few)
    document = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert document["tasks"] == [task.name for task in first.tasks]
    assert [sample["prompt_hash"] for sample in document["samples"]] == [s.prompt_hash for s in first.samples]
    assert document["prose"]["held-out"]["sha256"] == first.prose["held-out"].sha256
    with pytest.raises(RegrowthError, match="not paired"):
        bill_prose("m", "held-out", second.prose["held-out"], first.prose["held-out"])


def test_stored_runs_that_were_not_asked_alike(tiny_llama, sample_questions, tmp_path):
    few = {**SMALL, "data": sample_questions, "limit": 2, "sets": ["mmlu"]}
    write_run(run(tiny_llama, **few), tmp_path / "both")
    write_run(run(tiny_llama, **{**few, "domains": "math", "dtype": "bfloat16"}), tmp_path / "half")
    with pytest.raises(RegrowthError, match="not paired: half was not asked medical_choice, and both was"):
        compare(tmp_path / "both", [tmp_path / "half"], out=tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()
    document = compare(tmp_path / "half", [tmp_path / "both"], out=tmp_path / "out", show_progress=False).to_json()
    warnings = "\n".join(document["warnings"])
    assert "both was asked medical_choice too, and half was not: left out" in warnings
    assert "not the same dtype for all models: bfloat16 (half), float32 (both)" in warnings


def test_a_model_that_lost_its_digits_is_billed_for_mathematics(sample_model, sample_questions, tmp_path):
    """Planted: of the real model, the ten digits become a word like any other, to read and to write."""
    planted = shutil.copytree(sample_model, tmp_path / "planted")
    digits = AutoTokenizer.from_pretrained(sample_model).convert_tokens_to_ids(list("0123456789"))
    with changed(planted) as model:
        table = model.get_input_embeddings().weight
        table[digits] = table.mean(0)
    asked = {**ONCE, "limit": 6, "sets": ["medmcqa", "asdiv"], "data": sample_questions, "dtype": "float32"}
    bill = compare(sample_model, [planted], out=tmp_path / "out", **asked)
    lost = {(r.domain, r.protocol): r.versus.answer_nll_bits_per_byte_difference for r in bill.rows if r.versus}
    assert lost["math", "generation"].low > 1 > lost["medical", "choice"].high
