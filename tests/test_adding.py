"""docs/adding: each page is followed to the letter, and what it adds works."""

import json
import re
import shlex
from pathlib import Path

import yaml
from typer.testing import CliRunner

from eval.cli import app as evaluate
from eval.questions import domains, loaded, preparation, rows
from eval.questions.readers import hub
from prune.choosing import criteria
from prune.choosing.settings import CutSettings
from prune.cutting.planning import plan_cut
from prune.families import table
from tests.support.verdicts import EXACT, REFUSED, judge, quiet

PAGES = Path(__file__).resolve().parents[1] / "docs" / "adding"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """The code blocks of a page in one language, in order."""
    return [text for found, text in BLOCK.findall((PAGES / page).read_text("utf-8")) if found == language]


def test_a_criterion_is_added(monkeypatch, sample_model):
    choice, entry, test = blocks("criterion.md", "python")
    space = dict(vars(criteria))
    exec(choice, space)
    added = eval(entry, space)
    exec(test, space)
    monkeypatch.setitem(criteria.CRITERIA, added.name, added)
    plan = plan_cut(sample_model, n=6, settings=CutSettings(criterion=added.name))
    assert list(plan.dropped) == [12, 13, 14, 15, 16, 17]


def test_a_family_is_added(monkeypatch, tmp_path):
    quiet()
    (row,) = blocks("family.md", "python")
    monkeypatch.delitem(table.FAMILIES, "phi3")
    before = judge("phi3", tmp_path / "before")
    assert before.kind == REFUSED
    assert "phi3" in before.words
    exec(row, {"FAMILIES": table.FAMILIES, "PLAIN": table.PLAIN})
    assert judge("phi3", tmp_path / "after").kind == EXACT


def test_a_domain_is_added(tmp_path):
    (questions,), (declaration,) = blocks("domain.md", "json"), blocks("domain.md", "yaml")
    (tmp_path / "music.jsonl").write_text(questions, "utf-8")
    (tmp_path / "music.yaml").write_text(declaration, "utf-8")
    shown = CliRunner().invoke(evaluate, ["domains", "--data", str(tmp_path), "--json"])
    (music,) = [d for d in json.loads(shown.stdout)["domains"] if d["domain"] == "music"]
    assert (music["questions"], music["own"], music["protocols"]) == (2, True, {"choice": 1, "generation": 1})


def test_a_question_set_is_added(monkeypatch, tmp_path):
    reader, registered = blocks("question-set.md", "python")
    (declared,), (command,) = blocks("question-set.md", "yaml"), blocks("question-set.md", "sh")
    for name, module in {"_READERS": rows, "_FIELDS": rows, "LICENCES": loaded, "PLACES": hub}.items():
        monkeypatch.setattr(module, name, getattr(module, name).copy())
    monkeypatch.setattr(preparation, "LICENCES", loaded.LICENCES)
    space = {**vars(rows), "LICENCES": loaded.LICENCES, "PLACES": hub.PLACES}
    exec(reader, space)
    exec(registered, space)
    ((domain, parts),) = yaml.safe_load(declared).items()
    known = {**domains.declared(), domain: tuple(domains.DomainPart(part["set"]) for part in parts)}
    monkeypatch.setattr(domains, "declared", lambda: known)
    row = {"country": "France", "cities": ["Lyon", "Nice", "Paris"], "capital": 2}
    (tmp_path / "capitals.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(evaluate, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    (question,) = map(json.loads, (tmp_path / "questions" / f"{domain}.jsonl").read_text("utf-8").splitlines())
    assert (question["subject"], question["licence"]) == ("geography", "CC0-1.0")
    assert (question["question"], question["answer"]) == ("What is the capital of France?", 2)
