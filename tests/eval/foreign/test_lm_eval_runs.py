"""Bills of folders that lm-eval itself wrote, of our version and an older one; and what is refused."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from eval.foreign.answers import by_filter, read_task
from eval.foreign.domains import SETS, known_domains, subject_of
from eval.foreign.folder import read_folder
from eval.foreign.settings import ForeignSettings
from eval.gains.settings import GainsSettings
from eval.lm_eval_comparison import compare_lm_eval
from eval.questions.domains import declared
from eval.runs.files import read_lines
from eval.settings import ComparisonSettings
from prune.common.errors import RegrowthError, UsageError
from tests.support.commands import check_refused, run, succeed
from tests.support.lm_eval_runs import RUNS

NAMES = ("older", "current")


def _bill(full, cut, out, *, mapping=None, filter=None, **options):
    foreign = ForeignSettings(from_lm_eval=True, mapping=mapping, filter=filter)
    return compare_lm_eval(full, [cut], foreign=foreign, out=out, labels="full,cut", **options)


def _rows(comparison):
    return {(row.model, row.domain, row.protocol): row for row in comparison.rows}


def _logged(folder, task, name=None):
    (path,) = folder.glob(f"samples_{task}_*.jsonl")
    return [row for row in read_lines(path) if name is None or row["filter"] == name]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_lm_eval_gets_the_same_bill(name, tmp_path):
    full, cut = RUNS / name / "full", RUNS / name / "cut"
    comparison = _bill(full, cut, tmp_path / "bill")
    rows = _rows(comparison)
    for model, folder in (("full", full), ("cut", cut)):
        (results,) = folder.glob("results_*.json")
        theirs = json.loads(results.read_text())["results"]
        assert rows[model, "medical", "letters"].accuracy.estimate == theirs["mmlu_local_anatomy"]["acc,none"]
        assert rows[model, "commonsense", "choice"].accuracy.estimate == theirs["piqa_local"]["acc_norm,none"]
        assert rows[model, "commonsense", "choice"].accuracy_raw == theirs["piqa_local"]["acc,none"]
        exact = theirs["gsm8k_local"]["exact_match,strict-match"]
        assert rows[model, "math", "generation"].accuracy.estimate == exact
        samples = _logged(folder, "piqa_local")
        keys = [float(row["filtered_resps"][int(row["target"])][0]) for row in samples]
        nll = -sum(keys) / len(keys) / math.log(2)
        assert rows[model, "commonsense", "choice"].answer_nll_bits == pytest.approx(nll)
        assert rows[model, "math", "generation"].answer_nll_bits is None  # lm-eval scores no key of what it generates
    before, after = (_logged(folder, "mmlu_local_anatomy") for folder in (full, cut))
    lost = sum(b["acc"] > a["acc"] for b, a in zip(before, after, strict=True))
    gained = sum(b["acc"] < a["acc"] for b, a in zip(before, after, strict=True))
    versus = rows["cut", "medical", "letters"].versus
    assert (versus.lost, versus.gained) == (lost, gained)
    assert rows["cut", "math", "generation"].versus.answer_nll_bits_difference is None
    assert {row.task for row in comparison.tasks if row.group} == {"mmlu_local"}
    page = (tmp_path / "bill" / "report.html").read_text()
    assert "math generation" in page
    assert (tmp_path / "bill" / "comparison.md").read_text().count("commonsense choice") >= 2


def test_both_versions_tell_the_same_of_one_model(tmp_path):
    comparison = _bill(RUNS / "older" / "full", RUNS / "current" / "full", tmp_path / "bill")
    (warned,) = [line for line in comparison.warnings if "not the same backend" in line]
    assert "lm-eval of an unknown version (hf) (full), lm-eval 0.4.13 (hf) (cut)" in warned  # 0.4.4 does not say
    rows = _rows(comparison)
    for domain, protocol in {(row.domain, row.protocol) for row in comparison.rows}:
        versus = rows["cut", domain, protocol].versus
        assert (versus.lost, versus.gained) == (0, 0)
        if versus.answer_nll_bits_difference is not None:
            assert versus.answer_nll_bits_difference.estimate == pytest.approx(0, abs=1e-3)


def test_the_users_filter_and_domains_count(tmp_path):
    full, cut = RUNS / "current" / "full", RUNS / "current" / "cut"
    mapping = tmp_path / "mine.yaml"
    mapping.write_text("numbers: [gsm8k_local]\nletters: [mmlu_local]\nbody: [anatomy, mmlu_local_anatomy]\n")
    comparison = _bill(full, cut, tmp_path / "a", mapping=mapping, filter="flexible-extract")
    rows = _rows(comparison)
    wanted = {("numbers", "generation"): 3, ("letters", "letters"): 6, ("body", "letters"): 3}
    assert {key[1:]: row.n for key, row in rows.items()} == wanted
    logged = _logged(full, "gsm8k_local", "flexible-extract")
    assert rows["full", "numbers", "generation"].accuracy.estimate == sum(r["exact_match"] for r in logged) / 3
    assert any("piqa_local: of no domain" in line for line in comparison.warnings)
    comparison = _bill(full, cut, tmp_path / "b", mapping=mapping, domains="numbers", max_loss="5%")
    assert {row.domain for row in comparison.rows} == {"numbers"}  # answers that nobody scored, and nothing else
    assert comparison.verdict.decision == "INCONCLUSIVE"
    assert any("judged by its filter strict-match; --filter takes flexible-extract" in w for w in comparison.warnings)
    for text, error, words in [
        ("numbers: [gsm9k]", UsageError, "numbers names gsm9k, which is no task, group or subject of the runs"),
        ("numbers: gsm8k", RegrowthError, "numbers must be a list"),
        ("a/b: [gsm8k_local]", RegrowthError, "'a/b' is no name for a domain"),
        ("[]", RegrowthError, "names no domain"),
        ("a: [", RegrowthError, "is not YAML"),
    ]:
        mapping.write_text(text)
        with pytest.raises(error, match=words):
            _bill(full, cut, tmp_path / "c", mapping=mapping)
    with pytest.raises(UsageError, match="--filter none-such: task gsm8k_local has strict-match, flexible-extract"):
        _bill(full, cut, tmp_path / "c", filter="none-such")
    with pytest.raises(UsageError, match="of no such domain; there are: mathematics"):
        _bill(full, cut, tmp_path / "c", domains="law")
    assert not (tmp_path / "c").exists()


@pytest.fixture
def other(tmp_path):
    """A copy of the cut model's folder, to be changed."""
    return shutil.copytree(RUNS / "current" / "cut", tmp_path / "other")


def _change(folder, pattern, change):
    (path,) = folder.glob(pattern)
    if path.suffix == ".json":
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
    else:
        rows = read_lines(path)
        change(rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_folders_that_do_not_pair_are_refused_in_one_line_that_names_both(other, tmp_path):
    full = RUNS / "current" / "full"
    untouched = {path: path.read_bytes() for path in other.iterdir()}
    for pattern, change, words in [
        ("results_*", lambda d: d["configs"].pop("piqa_local"), "has task piqa_local, and .* has not"),
        ("results_*", lambda d: d["versions"].update(piqa_local=2.0), "task piqa_local has version 1.0 in .* and 2.0"),
        ("samples_piqa*", lambda rows: rows.pop(), "not asked the same questions of task piqa_local"),
        (
            "samples_piqa*",
            lambda rows: rows[1].update(prompt_hash="x"),
            "question 1 of task piqa_local has another prompt",
        ),
        (
            "samples_piqa*",
            lambda rows: rows[1].update(doc_hash="x"),
            "question 1 of task piqa_local has another document",
        ),
    ]:
        _change(other, pattern, change)
        with pytest.raises(RegrowthError, match=words) as refused:
            _bill(full, other, tmp_path / "bill")
        assert str(full) in str(refused.value)
        assert str(other) in str(refused.value)
        assert "\n" not in str(refused.value)
        for path, content in untouched.items():
            path.write_bytes(content)
    _bill(full, other, tmp_path / "bill")


def test_a_run_without_hashes_is_paired_with_one_that_has_them(other, tmp_path):
    full = RUNS / "current" / "full"

    def forget(rows):
        for row in rows:
            for name in ("doc_hash", "prompt_hash", "target_hash"):
                row.pop(name)
            row["arguments"] = [list(each.values()) for each in row["arguments"].values()]  # as an older one logs them

    for task in ("piqa", "gsm8k"):
        _change(other, f"samples_{task}*", forget)
    same, mixed = _bill(full, RUNS / "current" / "cut", tmp_path / "a"), _bill(full, other, tmp_path / "b")
    assert mixed.warnings == same.warnings
    for found, wanted in zip(mixed.rows, same.rows, strict=True):  # sums in another order: of questions by their hashes
        assert (found.model, found.domain, found.protocol) == (wanted.model, wanted.domain, wanted.protocol)
        assert found.accuracy.estimate == pytest.approx(wanted.accuracy.estimate)
        if wanted.versus is not None:
            assert (found.versus.lost, found.versus.gained) == (wanted.versus.lost, wanted.versus.gained)
    _change(other, "samples_piqa*", lambda rows: rows[1]["arguments"][0].__setitem__(0, "Question: another"))
    with pytest.raises(RegrowthError, match="question 1 of task piqa_local has another prompt"):
        _bill(full, other, tmp_path / "c")


def test_what_is_no_folder_of_lm_eval_is_refused(other, tmp_path):
    full = RUNS / "current" / "full"
    for change, words in [
        (lambda: shutil.copytree(full, other / "more"), r"several models \(\., more\)"),
        (lambda: shutil.rmtree(other / "more"), ""),
        (lambda: next(other.glob("samples_piqa*")).write_text("5\n"), "samples_piqa.*line 1 is no object"),
        (lambda: next(other.glob("samples_piqa*")).unlink(), "samples_piqa_local_.* run lm-eval with --log_samples"),
        (lambda: next(other.glob("results_*")).write_text("{"), "cannot be read as JSON"),
        (lambda: next(other.glob("results_*")).write_text("{}"), "is no results file of lm-eval"),
        (lambda: next(other.glob("results_*")).unlink(), "holds no results_<date>.json"),
    ]:
        change()
        if words:
            with pytest.raises(RegrowthError, match=words):
                _bill(full, other, tmp_path / "bill")
    assert not (tmp_path / "bill").exists()
    for gains, option in ((GainsSettings(gains=False), "--no-gains"), (GainsSettings(rounds=7), "--gains-rounds")):
        with pytest.raises(UsageError, match=f"^{option} is of models that are measured"):
            compare_lm_eval(full, [other], out=tmp_path / "bill", gains=gains)
    with pytest.raises(UsageError, match="--thinking asks a model"):
        _bill(full, other, tmp_path / "bill", thinking="fast")
    with pytest.raises(UsageError, match="--mapping goes with --from-lm-eval"):
        ForeignSettings(mapping=Path("x"))
    ForeignSettings(from_lm_eval=True).check(ComparisonSettings.of(labels="a,b", max_loss="1%"))


def test_the_newest_of_several_dates_is_taken(other):
    date = next(other.glob("results_*")).stem.removeprefix("results_")
    later = "2031-01-02T03-04-05.678901"
    for kind in (f"results_{date}.json", f"samples_piqa_local_{date}.jsonl"):
        shutil.copy(other / kind, other / kind.replace(date, later))
    _change(other, f"results_{later}.json", lambda d: [d["configs"].pop(t) for t in list(d["configs"]) if t[0] != "p"])
    _change(other, f"results_{later}.json", lambda d: d["results"]["piqa_local"].update({"acc,none": 0.125}))
    logged = read_folder(other)
    assert logged.dates == (later, date)
    assert logged.harness["results"]["piqa_local"]["acc,none"] == 0.125
    assert set(logged.tasks) == {"piqa_local", "gsm8k_local", "mmlu_local_anatomy", "mmlu_local_abstract_algebra"}
    assert logged.notes == ("piqa_local was run on several dates: the newest is taken",)
    _change(other, f"results_{later}.json", lambda d: d.update(model_name="another"))
    with pytest.raises(RegrowthError, match="holds the results of several models"):
        read_folder(other)


def test_filters_without_a_name_are_told_by_their_order():
    rows = [{"doc_id": i, "exact_match": 0.0} for _ in range(2) for i in range(3)]
    found = by_filter("gsm8k", rows, {"exact_match,strict-match": 0, "exact_match,flexible-extract": 0, "alias": "x"})
    assert {name: [row["doc_id"] for row in some] for name, some in found.items()} == {
        "strict-match": [0, 1, 2],
        "flexible-extract": [0, 1, 2],
    }
    with pytest.raises(RegrowthError, match="not as many under each filter"):
        by_filter("gsm8k", rows[:-1], {"exact_match,strict-match": 0, "exact_match,flexible-extract": 0})


def _picked(acc, **more):
    arguments = [["Q:", " no"], ["Q:", " yes"]]
    return {"doc_id": 0, "doc": {}, "target": "1", "arguments": arguments, "filtered_resps": [[-2.0], [-1.0]],
            "acc": acc, **more}  # fmt: skip


@pytest.mark.parametrize("rows", [[_picked(1), _picked(0.37)], [_picked(1, acc_norm=0.5)], [_picked(float("nan"))]])
def test_a_probability_that_is_called_accuracy_is_no_verdict(rows):
    found = read_task("truthfulqa_mc2", {"output_type": "multiple_choice"}, {"none": rows}, None)
    assert (found.protocol, found.answers) == (None, ())
    assert found.notes == (
        "truthfulqa_mc2 has answers that are neither right nor wrong, and stands among lm-eval's tasks alone",
    )
    (answer,) = read_task("piqa", {"output_type": "multiple_choice"}, {"none": [_picked(1.0)]}, None).answers
    assert answer.correct


def test_names_of_lm_eval_tell_their_domains():
    assert subject_of("mmlu_high_school_us_history") == "high_school_us_history"
    assert subject_of("mmlu_flan_cot_zeroshot_anatomy") == subject_of("mmlu_anatomy_generative") == "anatomy"
    assert subject_of("mmlu_pro") is subject_of("anatomy") is None
    assert subject_of("mmlu_pro_philosophy") is subject_of("mmlu_prox_en_philosophy") is None  # other questions
    assert subject_of("mmlu_professional_law") == "professional_law"
    assert known_domains("mmlu_anatomy") == ["biology-medicine", "medical", "mmlu"]
    assert known_domains("mmlu_miscellaneous") == ["mmlu"]
    assert known_domains("mmlu_pro_philosophy") == []
    assert known_domains("gsm8k_cot_zeroshot") == known_domains("mathqa") == ["math"]
    assert known_domains("medqa_4options") == known_domains("pubmedqa") == ["medical"]
    assert known_domains("arc_challenge") == ["science"]
    assert known_domains("piqa") == known_domains("hellaswag") == ["commonsense"]
    assert known_domains("boolq") == ["reading"]
    assert known_domains("winogrande") == []
    assert {part.set for parts in declared().values() for part in parts} == {"mmlu", *SETS.values()}


def test_the_command_bills_folders(tmp_path):
    full, cut = RUNS / "current" / "full", RUNS / "current" / "cut"
    told = succeed("evaluate", "compare", "--from-lm-eval", full, cut, "--out", tmp_path / "bill", "--json")
    document = json.loads(told.stdout)
    assert document["gains"] is None
    assert document["provenance"]["lm_eval"]["full"]["version"] == "0.4.13"
    words = ["compare", full, cut, "--out", tmp_path / "b", "--mapping", "x.yaml"]
    check_refused(run("evaluate", *words), 2, "--mapping goes with --from-lm-eval")


@pytest.mark.slow
def test_lm_evals_own_command_line_end_to_end(tmp_path, sample_model):
    from tests.support.lm_eval_runs import make

    (tmp_path / "work").mkdir()
    make(tmp_path / "work", tmp_path / "runs", count=2)
    comparison = _bill(tmp_path / "runs" / "full", tmp_path / "runs" / "cut", tmp_path / "bill")
    assert {(row.domain, row.protocol) for row in comparison.rows} >= {("math", "generation"), ("medical", "letters")}
    assert yaml.safe_load((tmp_path / "work" / "gsm8k_local.yaml").read_text())["task"] == "gsm8k_local"
