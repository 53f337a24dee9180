"""Domains: what is listed, and a domain of one's own from a YAML and a JSONL, with errors by file and line."""

import json
from pathlib import Path

import pytest

from eval.questions.declaration import read_declaration
from eval.questions.domains import question_files
from eval.questions.listing import list_domains
from eval.questions.schema import cluster_of, question_id, read_questions
from eval.runs.run import run
from prune.common.errors import RegrowthError, UsageError
from tests.support.commands import check_refused, succeed
from tests.support.commands import run as run_command
from tests.support.questions import question_of
from tests.support.texts import write_jsonl

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"


def _own(folder, yaml="licence: CC0-1.0\n", *lines):
    (folder / "mine.yaml").write_text(yaml)
    write_jsonl(folder / "mine.jsonl", lines)
    return folder


CHOICE = {"question": "Which?", "choices": ["one", "two"], "answer": 1}
NUMBER = {"question": "How many?", "answer": "12 semitones"}


def test_what_a_yaml_says_holds_for_lines_that_do_not_say_otherwise(tmp_path):
    yaml = "# ours\ndescription: about music\nlicence: CC0-1.0\nsource: me\nsubject: notation\n"
    _own(tmp_path, yaml, CHOICE, {**NUMBER, "subject": "rhythm", "licence": "MIT", "cluster": "p1"})
    first, second = read_questions(tmp_path / "mine.jsonl")
    assert (first.domain, first.source, first.subject, first.licence) == ("mine", "me", "notation", "CC0-1.0")
    assert first.id == question_id("Which?", ["one", "two"], 1)
    assert (second.protocol, second.subject, second.licence) == ("generation", "rhythm", "MIT")
    assert cluster_of(second) == "p1"


def test_a_licence_is_enough(tmp_path):
    (item,) = read_questions(_own(tmp_path, "licence: MIT", CHOICE) / "mine.jsonl")
    assert (item.domain, item.source, item.subject, item.licence) == ("mine", "mine", "mine", "MIT")


@pytest.mark.parametrize(
    ("yaml", "why"),
    [
        ("description: x\nlicens: MIT\n", r"mine\.yaml:2: unknown field licens; it takes description, source"),
        ("description: x\n", r"mine\.yaml: no field licence"),
        ("licence: MIT\nsource: [a]\n", r"mine\.yaml:2: source must be text"),
        ("licence:\n", r"mine\.yaml:1: licence must be text"),
        ("licence: MIT\nlicence: X\n", r"mine\.yaml:2: licence stands there twice"),
        ("- a\n", r"mine\.yaml:1: expected fields"),
        ("", r"mine\.yaml:1: expected fields"),
        ("licence: MIT\nsource: 'a\n", r"mine\.yaml:\d+: not YAML"),
    ],
)
def test_a_broken_yaml_is_named_by_file_and_line(tmp_path, yaml, why):
    _own(tmp_path, yaml, CHOICE)
    with pytest.raises(RegrowthError, match=why):
        read_questions(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"question": "How many?"}, "answer: Field required"),
        ({**NUMBER, "answer": "Paris"}, "answer must be one number"),
        ({**CHOICE, "cluster": 3}, "cluster: Input should be a valid string"),
        ([1], "Input should be a valid dictionary"),
        (CHOICE, r"already stands on line 1"),
    ],
)
def test_a_broken_line_is_named_by_file_and_line(tmp_path, line, why):
    _own(tmp_path, "licence: MIT\n", CHOICE, NUMBER, line)
    with pytest.raises(RegrowthError, match=rf"mine\.jsonl:3: .*{why}"):
        read_questions(tmp_path / "mine.jsonl")


def test_a_yaml_without_its_questions(tmp_path):
    (tmp_path / "mine.yaml").write_text("licence: MIT\n")
    with pytest.raises(RegrowthError, match=r"declares a domain, but mine\.jsonl with its questions is missing"):
        question_files(tmp_path, "mine")
    with pytest.raises(UsageError, match="no domain is called 'other'"):
        question_files(tmp_path, "other")


def test_questions_that_share_a_passage_are_one_cluster():
    passage = "A long text about bones that several questions are asked on, with more than eighty characters in it.\n"
    first, second = (question_of(id=name, question=passage + asked) for name, asked in (("a", "Is it?"), ("b", "?")))
    alone = question_of(id="c", question=passage.strip())
    assert cluster_of(first) == cluster_of(second) != cluster_of(alone) == "c"


def test_the_example_of_the_docs_is_a_domain_that_a_model_answers(tiny_llama, tmp_path):
    document = list_domains(EXAMPLES).to_json()
    (music,) = [row for row in document["domains"] if row["there"]]
    assert (music["domain"], music["own"], music["questions"]) == ("music", True, 10)
    assert music["protocols"] == {"choice": 6, "generation": 4}
    assert music["licences"] == ["CC0-1.0"]
    assert read_declaration(EXAMPLES / "music.yaml").description == music["description"] != ""
    found = run(tiny_llama, data=EXAMPLES, domains="music", show_progress=False)
    assert {(s.domain, s.source) for s in found.samples} == {("music", "regrowth-example")}
    assert len(found.samples) == 10


def test_the_listing_of_a_prepared_folder(sample_questions):
    manifest = json.loads((sample_questions / "manifest.json").read_text())
    rows = {row["domain"]: row for row in list_domains(sample_questions).to_json()["domains"]}
    for name, entry in manifest["domains"].items():
        wanted = {key: entry[key] for key in ("questions", "protocols", "sets")}
        wanted |= {"licences": sorted(entry["licences"]), "there": True, "own": False}
        assert {key: rows[name][key] for key in wanted} == wanted


def test_the_command(tmp_path):
    shown = succeed("evaluate", "domains", "--data", EXAMPLES).stdout
    assert "music (own)" in shown
    assert "CC0-1.0" in shown
    document = json.loads(succeed("evaluate", "domains", "--json").stdout)
    assert document["format"] == "regrowth.domains/1"
    assert [row["domain"] for row in document["domains"]][-4:] == ["science", "commonsense", "reading", "mmlu"]
    assert not any(row["there"] for row in document["domains"])
    check_refused(run_command("evaluate", "domains", "--data", tmp_path / "gone"), 1, "evaluate prepare --data")
    (tmp_path / "mine.jsonl").write_text("{}\n")
    check_refused(run_command("evaluate", "domains", "--data", tmp_path), 1, "mine.jsonl:1: id: Field required")
