"""The publishers' own files: recognised by their content, read without guessing, and refused in one clear line."""

import json
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from eval.questions.loaded import drop_wrong_options
from eval.questions.preparation import prepare
from eval.questions.readers.originals import load_sources, recognise_file
from eval.questions.rows import split_mathqa
from eval.questions.schema import Question, question_id, read_questions
from prune.common.errors import RegrowthError
from tests.support.texts import jsonl

REAL = os.environ.get("REGROWTH_ORIGINALS")  # a folder with mmlu/, gsm8k/, pubmedqa/ and math_qa.jsonl


MMLU = {"subject": "anatomy", "question": "Which bone?", "choices": ["femur", "tibia", "ulna", "rib"], "answer": "C"}
MEDQA = {"question": "Which drug?", "answer": "y", "options": {"A": "x", "B": "y"}, "answer_idx": "B", "meta_info": "1"}
MEDMCQA = {"question": "Which nerve?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "subject_name": "Anatomy"}
PUBMEDQA = {"123": {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "no"}}
GSM8K = {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,200"}
MATHQA = {"Problem": "how far ?", "options": "a ) 38 , b ) 27 , c ) 1 , 000 , d ) 2 , e ) none", "correct": "c"}
SVAMP = [{"ID": "1", "Body": "Seven and two.", "Question": "How many?", "Equation": "( 7 + 2 )", "Answer": 9.0}]
LABELLED = [{"text": "a marsh", "label": "A"}, {"text": "a desert", "label": "B"}]
OPTIONS = ("a marsh", "a desert")
ARC = {"id": "x", "question": {"stem": "Which is wet?", "choices": LABELLED}, "answerKey": "A"}
OPENBOOK = {"id": "8-343", "question": {"stem": "Fog is around", "choices": LABELLED}, "answerKey": "A"}
NO_KEY = {"id": "1afa02df", "question": {"question_concept": "fog", "stem": "Where?", "choices": LABELLED}}
PIQA = {"query": "Question: open a jar\n", "choices": ["pull it", "twist it"], "gold": 1}
HELLASWAG = {"ind": 1, "activity_label": "Tea", "ctx_a": "Boil it.", "ctx_b": "she", "ctx": "Boil it. she"}
HELLASWAG |= {"endings": ["pours.", "waits."], "label": 1}
ASDIV = """<?xml version="1.0"?><Machine-Reading-Corpus-File><ProblemSet>
<Problem ID="1" Grade="1"><Body>Seven red and two green apples.</Body><Question>How many?</Question>
<Solution-Type>Addition</Solution-Type><Answer>9 (apples)</Answer><Formula>7+2=9</Formula></Problem>
<Problem ID="2" Grade="1"><Body>A clock.</Body><Question>What time?</Question><Answer>3:15</Answer></Problem>
</ProblemSet></Machine-Reading-Corpus-File>"""
BOOLQ = {"question": "is fog wet", "title": "Fog", "answer": True, "passage": "Fog is water."}

ORIGINALS = {
    "mmlu": ("a.jsonl", jsonl(MMLU), ("anatomy", "Which bone?", ("femur", "tibia", "ulna", "rib"), 2)),
    "medqa": ("b.jsonl", jsonl(MEDQA), ("usmle", "Which drug?", ("x", "y"), 1)),
    "medmcqa": ("c.json", jsonl({**MEDMCQA, "cop": 4}, MEDMCQA), ("anatomy", "Which nerve?", tuple("abcd"), 3)),
    "pubmedqa": ("d.json", json.dumps(PUBMEDQA), ("abstracts", "One.\nTwo.\nDoes it?", ("yes", "no", "maybe"), 1)),
    "gsm8k": ("e.jsonl", jsonl(GSM8K), ("word-problems", "How many?", None, "1,200")),
    "mathqa": ("f.json", json.dumps([MATHQA]), ("mathqa", "how far ?", ("38", "27", "1 , 000", "2", "none"), 2)),
    "svamp": ("g.json", json.dumps(SVAMP), ("word-problems", "Seven and two. How many?", None, "9")),
    "asdiv": ("h.xml", ASDIV, ("word-problems", "Seven red and two green apples. How many?", None, "9 apples")),
    "openbookqa": ("j.jsonl", jsonl(OPENBOOK), ("elementary-science", "Fog is around", OPTIONS, 0)),
    "commonsenseqa": (
        "k.jsonl",
        jsonl({**NO_KEY, "answerKey": "B"}, NO_KEY),
        ("commonsense-concepts", "Where?", OPTIONS, 1),
    ),
    "piqa": ("piqa.jsonl", jsonl(PIQA), ("physical-interaction", "open a jar", ("pull it", "twist it"), 1)),
    "hellaswag": ("l.jsonl", jsonl(HELLASWAG), ("everyday-situations", "Tea: Boil it. She", ("pours.", "waits."), 1)),
    "boolq": ("m.jsonl", jsonl(BOOLQ), ("passages", "Fog is water.\nIs fog wet?", ("yes", "no"), 0)),
    "arc": ("i.jsonl", jsonl(ARC), ("grade-school-science", "Which is wet?", OPTIONS, 0)),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_file_is_known_by_its_content_whatever_its_name(name, tmp_path):
    file, text, wanted = ORIGINALS[name]
    path = tmp_path / f"x-{file}"
    path.write_text(text)
    (loaded,) = load_sources([path]).values()
    assert loaded.name == name
    (found,) = loaded.questions
    assert (found.subject, found.question, found.choices, found.answer) == wanted
    assert list(loaded.origin) == [path.name]
    if name in ("medmcqa", "asdiv", "commonsenseqa"):
        assert sum(loaded.left_out.values()) == 1


RATIONALES = {
    "gsm8k": (GSM8K, "2 + 2 = 4"),
    "medmcqa": ({**MEDMCQA, "cop": 4, "exp": " It is d. "}, "It is d."),
    "pubmedqa": ({**PUBMEDQA["123"], "LONG_ANSWER": "It does not."}, "It does not."),
    "mathqa": ({**MATHQA, "Rationale": '"27 + 11 = 38 , answer : a"'}, "27 + 11 = 38 , answer : a"),
}


@pytest.mark.parametrize("name", RATIONALES)
def test_a_worked_solution_comes_along_and_is_no_part_of_the_id(name, tmp_path):
    row, wanted = RATIONALES[name]
    field = {"medmcqa": "exp", "pubmedqa": "LONG_ANSWER", "mathqa": "Rationale"}.get(name)
    rows = [row] if field is None else [row, {**row, field: None}, {**row, field: " "}]
    found = []
    for number, each in enumerate(rows):
        path = tmp_path / f"{name}{number}.json"
        path.write_text(json.dumps([{**each, "cop": 3, "question": "x"}, each] if name == "medmcqa" else [each]))
        found.append(load_sources([path])[name].questions[-1])
    assert [question.rationale for question in found] == [wanted, None, None][: len(found)]
    assert len({question.id for question in found}) == 1
    assert "rationale" not in replace(found[0], rationale=None).as_row()
    assert found[0].as_row()["rationale"] == wanted


def test_a_question_of_two_sources_keeps_its_solution_and_the_manifest_counts_them(tmp_path):
    bare, told = tmp_path / "bare.json", tmp_path / "told.json"
    bare.write_text(json.dumps([MATHQA, {**MATHQA, "Problem": "how old ?"}]))
    told.write_text(json.dumps([{**MATHQA, "Rationale": "so it is"}]))
    manifest = prepare(tmp_path / "out", source=[bare, told], domains="math")
    assert manifest.domains["math"].rationales == 1
    assert [q.rationale for q in read_questions(tmp_path / "out" / "math.jsonl")] == ["so it is", None]


def test_a_folder_of_all_of_them(tmp_path):
    for file, text, _ in ORIGINALS.values():
        (tmp_path / file).write_text(text)
    (tmp_path / "README.md").write_text("# not a question")
    (tmp_path / "other.json").write_text('{"some": "thing"}')
    (tmp_path / "broken.jsonl").write_text("{oops")
    assert set(load_sources([tmp_path])) == set(ORIGINALS)


def test_arc_easy_is_told_from_arc_by_its_name_and_piqa_by_its_own(tmp_path):
    (tmp_path / "ARC-Easy-Test.jsonl").write_text(jsonl(ARC))
    (tmp_path / "ARC-Challenge-Test.jsonl").write_text(jsonl({**ARC, "id": "y"}))
    assert set(load_sources([tmp_path])) == {"arc", "arc_easy"}
    manifest = prepare(tmp_path / "out", source=tmp_path, domains="science", show_progress=False)
    assert manifest.domains["science"].sets == {"arc": 1}  # the same question twice is asked once
    path = tmp_path / "other.jsonl"
    path.write_text(jsonl(PIQA))
    with pytest.raises(RegrowthError, match="is no known question set"):
        load_sources([path])
    path = tmp_path / "valid.jsonl"
    path.write_text(jsonl({"goal": "open a jar", "sol1": "pull it", "sol2": "twist it"}))  # its labels stand elsewhere
    assert load_sources([path])["piqa"].left_out == {"no answer": 1}


def test_parquet_of_the_hub(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{**MEDMCQA, "cop": cop, "question": f"q{cop}"} for cop in (0, 2)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "m.parquet")
    assert [q.answer for q in load_sources([tmp_path / "m.parquet"])["medmcqa"].questions] == [0, 2]
    (tmp_path / "n.parquet").write_text("PAR1 no")
    with pytest.raises(RegrowthError, match=r"n\.parquet is no known question set: it is not Parquet"):
        load_sources([tmp_path / "n.parquet"])


@pytest.fixture
def mmlu_folder(tmp_path):
    """The layout of MMLU's data.tar: three splits, a CSV for each subject."""
    for split in ("dev", "val", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for subject in ("anatomy", "abstract_algebra"):
            text = f'"Which, of {subject} in {split}?",a,b,"c, too",d,C\nSecond {subject} {split}?,1,2,3,4,A\n'
            text += "Twice?,1,1,2,3,C\n"  # no question to ask, and an example like others
            (tmp_path / "data" / split / f"{subject}_{split}.csv").write_text(text)
    return tmp_path / "data"


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_mmlu_as_in_its_archive_gives_the_test_split(mmlu_folder, tmp_path, form):
    place = mmlu_folder
    if form == "tar":
        place = tmp_path / "data.tar"
        with tarfile.open(place, "w") as archive:
            archive.add(mmlu_folder, "data")
    elif form == "zip":
        place = tmp_path / "data.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for path in mmlu_folder.rglob("*.csv"):
                archive.write(path, f"data/{path.relative_to(mmlu_folder)}")
    loaded = load_sources([place])["mmlu"]
    first, second = (q for q in loaded.questions if q.subject == "anatomy")
    assert (first.question, first.choices, first.answer) == ("Which, of anatomy in test?", ("a", "b", "c, too", "d"), 2)
    assert second.question == "Second anatomy test?"
    assert len(loaded.passed_over) == 2  # val
    assert [q.question for q in loaded.examples if q.subject == "anatomy"] == [
        "Which, of anatomy in dev?",
        "Second anatomy dev?",
        "Twice?",
    ]


def test_splits_that_are_not_measured_are_passed_over_unless_named(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(jsonl({**GSM8K, "question": f"{split}?"}))
    loaded = load_sources([tmp_path])["gsm8k"]
    assert [q.question for q in loaded.questions] == ["test?"]
    assert loaded.passed_over == ["train.jsonl"]
    deeper = tmp_path / "dev" / "mine"
    deeper.mkdir(parents=True)
    (deeper / "gsm8k_test.jsonl").write_text(jsonl({**GSM8K, "question": "deeper?"}))
    assert [q.question for q in load_sources([tmp_path])["gsm8k"].questions] == ["deeper?", "test?"]
    named = load_sources([tmp_path / "train.jsonl"])["gsm8k"]
    assert [q.question for q in named.questions] == ["train?"]


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("x.jsonl", '{"a": 1, "b": 2}\n', r"x\.jsonl is no known question set \(its rows have a, b\); known: MMLU"),
        ("x.jsonl", "{oops\n", "line 1 is not a JSON object"),
        ("x.json", "[]", "it holds no rows"),
        ("x.csv", "a,b\n1,2\n", "no rows of question, four options and a letter"),
        ("cooking_test.csv", "Which?,a,b,c,d,C\n", "'cooking', from its name, is no subject of MMLU"),
        ("anatomy_test.csv", "Which?,a,b,c,d,C\nWhich?,a\n", r"csv: row 2 is not question, four options and a letter"),
        ("x.xml", "<a><b/></a>", "it holds no rows"),
        ("x.xml", "<a", "it is not XML"),
        ("x.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it declares entities"),
        ("x.txt", "How many?", r"x\.txt is no file of a known question set"),
        ("x.jsonl", b"\xff\xfe", "it is not UTF-8 text"),
        ("x.jsonl", jsonl(GSM8K) + "{oops\n", r"x\.jsonl:2 is not a JSON object"),
        ("x.json", jsonl({**MEDMCQA, "cop": 2}), r"its answers \(cop\) are \[2\], so whether they count from 0 or"),
    ],
)
def test_a_file_that_is_none_is_named_with_the_reason(tmp_path, file, text, why):
    path = tmp_path / file
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RegrowthError, match=why):
        load_sources([path])


def test_places_that_hold_nothing(tmp_path):
    with pytest.raises(RegrowthError, match="holds no known question set; known: MMLU"):
        load_sources([tmp_path])
    with pytest.raises(RegrowthError, match="does not exist"):
        load_sources([tmp_path / "gone"])


def test_rows_that_are_not_like_their_set_are_left_out_and_counted(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([MATHQA, {**MATHQA, "options": "a ) 1 , c ) 2"}, {**MATHQA, "correct": "z"}]))
    loaded = load_sources([path])["mathqa"]
    assert len(loaded.questions) == 1
    assert loaded.left_out == {"unreadable row (ValueError)": 2}


def test_options_of_mathqa():
    wanted = ["rs . 400", "rs . 300", "1 , 5", "50", "of these"]
    assert split_mathqa("a ) rs . 400 , b ) rs . 300 , c ) 1 , 5 , d ) 50 , e ) of these") == wanted
    assert split_mathqa("['a ) 3', 'b ) 2 / 5', 'c ) 1', 'd ) 0', 'e ) -1']") == ["3", "2 / 5", "1", "0", "-1"]
    for bad in ("a ) 1 , b ) 2", "1 , 2 , 3", "x a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5"):
        with pytest.raises(ValueError, match="not labelled a to e"):
            split_mathqa(bad)


def _five(text, answer):
    choices = ("1", "2", "3", "4", "5")
    return Question(question_id(text, choices, answer), "", "mathqa", text, choices, answer, "mathqa", "Apache-2.0")


def test_one_wrong_option_is_removed_by_the_seed_and_never_the_right_one():
    items = [_five(f"q{i}", i % 5) for i in range(100)]
    kept = drop_wrong_options(items, keep=4, seed=0)
    for before, after in zip(items, kept, strict=True):
        assert after.choices[after.answer] == before.choices[before.answer]
        assert len(after.choices) == 4
        assert set(after.choices) < set(before.choices)
        assert list(after.choices) == sorted(after.choices)  # their order stays
        assert after.id == question_id(after.question, after.choices, after.answer)
    gone = [set(b.choices) - set(a.choices) for b, a in zip(items, kept, strict=True)]
    assert set().union(*gone) == {"1", "2", "3", "4", "5"}
    assert drop_wrong_options(items[::-1], keep=4, seed=0)[::-1] == kept
    assert drop_wrong_options(items, keep=4, seed=1) != kept
    assert drop_wrong_options(kept, keep=4, seed=1) == kept


def _options_of_mathqa(folder):
    return [len(q.choices) for q in read_questions(folder / "math.jsonl") if q.source == "mathqa"]


def test_prepare_from_several_places(mmlu_folder, tmp_path):
    files = [tmp_path / ORIGINALS[name][0] for name in ("gsm8k", "mathqa", "arc")]
    for path, name in zip(files, ("gsm8k", "mathqa", "arc"), strict=True):
        path.write_text(ORIGINALS[name][1])
    again = tmp_path / "again.jsonl"
    again.write_text(jsonl(GSM8K))
    manifest = prepare(tmp_path / "q", source=[mmlu_folder, *files, again], show_progress=False)
    assert set(manifest.domains) == {"mathematics", "biology-medicine", "medical", "math", "science", "mmlu"}
    assert "law" in manifest.domains_absent
    math = manifest.domains["math"]
    assert math.sets == {"gsm8k": 1, "mathqa": 1, "mmlu": 2}
    assert math.repeats_dropped == 1  # the same problem came from two files
    assert set(manifest.sets["gsm8k"].origin) == {"e.jsonl", "again.jsonl"}
    assert _options_of_mathqa(tmp_path / "q") == [4]
    assert (manifest.mathqa_options, manifest.seed) == (4, 0)
    with pytest.raises(RegrowthError, match="holds no question of domain law"):
        prepare(tmp_path / "none", source=files, domains="math,law", show_progress=False)
    assert not (tmp_path / "none").exists()


def test_a_prepared_file_is_not_taken_for_an_original(tmp_path, sample_questions):
    content = (sample_questions / "law.jsonl").read_bytes()
    with pytest.raises(RegrowthError, match="no known question set"):
        recognise_file("law.jsonl", content, named=True)


@pytest.mark.skipif(not REAL, reason="REGROWTH_ORIGINALS names no folder of real originals")
def test_the_real_originals(tmp_path):
    places = [Path(REAL) / name for name in ("mmlu", "gsm8k", "math_qa.jsonl", "pubmedqa/ori_pqal.json")]
    manifest = prepare(tmp_path / "q", source=places, show_progress=False)
    counts = {name: entry.questions for name, entry in manifest.domains.items()}
    assert len(counts) == 15
    assert counts["mathematics"] == 1062
    assert (manifest.sets["mmlu"].rows, manifest.sets["mmlu"].questions) == (14042, 14033)
    assert manifest.sets["gsm8k"].questions == 1319
    assert manifest.sets["pubmedqa"].questions == 1000
    assert manifest.domains["math"].rationales == 1319  # GSM8K's; the file of MathQA has none
    assert manifest.domains["medical"].rationales == 1000  # PubMedQA's
    passed_over = manifest.sets["mmlu"].passed_over + manifest.sets["gsm8k"].passed_over
    assert sorted(passed_over) == ["train.jsonl"]
    assert manifest.sets["mmlu"].examples == 285
