"""A user's own prompts: asked as they stand, read back, kept apart, and refused where they do not fit."""

import json
from pathlib import Path

import pytest
import yaml

from eval.asking.harness import PlannedTask
from eval.asking.prompts import Prompts, read_prompts, shipped_prompts
from eval.asking.tasks import TaskPlan, plan_tasks
from eval.questions.schema import format_questions
from eval.runs.run import run
from eval.settings import Settings
from prune.common.errors import RegrowthError, UsageError
from tests.support.commands import check_refused, succeed
from tests.support.commands import run as run_command
from tests.support.questions import question_of

FAST = {"prompt": "Pick {{one}}.\n{question}\n{choices}\n", "max_tokens": 4}
SLOW = {"prompt": "Think.\n{question}\n{choices}", "open_prompt": "Think: {question}", "answer_after": "Result"}
OWN = {"fast": FAST, "slow": SLOW}


def _file(folder, **document):
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _task(folder, mode, document=OWN, **changes):
    prompts = read_prompts(_file(folder, **document))
    item = question_of(question="Which {{one}} of {question}?", **changes)
    return PlannedTask(TaskPlan("d", item.protocol, (item,), thinking=mode, slow_tokens=64, prompts=prompts))


def _chat(messages, add_generation_prompt=True):
    turns = "".join(f"<{turn['role']}>{turn['content']}" for turn in messages)
    return turns + ("<assistant>" if add_generation_prompt else "")


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_asked_is_what_the_file_says(tmp_path, chat):
    def asked(mode, document, **changes):
        task = _task(tmp_path, mode, document, **changes)
        doc = task.eval_docs[0]
        how = {"apply_chat_template": chat, "chat_template": _chat if chat else None}
        prefix = task.doc_to_prefix(doc)
        text = task.fewshot_context(doc, task.config.num_fewshot, gen_prefix=prefix, fewshot_as_multiturn=True, **how)
        request = task.construct_requests(doc, text, metadata=(None, None, None), **how)
        assert request.args[0] == text
        return text.removeprefix("<user>"), request.args[1]

    opened = "<assistant>" if chat else ""
    text, how = asked("fast", OWN)
    assert text == f"Pick {{one}}.\nWhich {{{{one}}}} of {{question}}?\nA. left\nB. right\n{opened}"
    assert how == {"until": [], "do_sample": False, "max_gen_toks": 4}

    numbered = {
        "labels": "numbers",
        "choice": "({label}) {choice}",
        "slow": {**SLOW, "answer_prefix": " So", "stop": ["#"]},
    }
    text, how = asked("slow", numbered)
    assert text == f"Think.\nWhich {{{{one}}}} of {{question}}?\n(1) left\n(2) right{opened} So"
    assert how == {"until": ["#"], "do_sample": False, "max_gen_toks": 64}  # of --slow-tokens
    text, _ = asked("slow", OWN, choices=None, answer="9")
    assert text == f"Think: Which {{{{one}}}} of {{question}}?{opened}"


@pytest.mark.parametrize(
    ("mode", "labels", "response", "right", "parsed"),
    [
        ("fast", "letters", "B", True, True),
        ("fast", "letters", "A. left", False, True),
        ("fast", "letters", "2", False, False),
        ("fast", "numbers", "2", True, True),
        ("fast", "numbers", "(2) right", True, True),
        ("fast", "numbers", "2. left", False, False),  # two answers at once
        ("fast", "numbers", "The answer is 1.", False, True),
        ("fast", "numbers", "Option 2", True, True),
        ("fast", "numbers", "Choice 2: right", True, True),
        ("fast", "numbers", "Option 2 or option 1", False, False),
        ("fast", "numbers", "3", False, False),
        ("fast", "numbers", "1.5", False, False),
        ("slow", "letters", "Answer: A\nResult: B", True, True),  # what stands before is the chain
        ("slow", "letters", "Answer: B", False, False),  # a chain that never got to its result
        ("slow", "numbers", "Result: 1? No.\nResult: 2", True, True),
    ],
)
def test_answers_are_read_back_as_they_were_asked_for(tmp_path, mode, labels, response, right, parsed):
    task = _task(tmp_path, mode, {**OWN, "labels": labels})
    scores = task.process_results(task.eval_docs[0], [response])
    assert scores == {"exact_match": float(right), "unparseable": float(not parsed)}


def test_an_opened_answer_may_hold_what_the_answer_stands_behind(tmp_path):
    slow = {**SLOW, "answer_prefix": "Result:"}
    task = _task(tmp_path, "slow", {"slow": slow}, choices=None, answer="9")
    assert task.process_results(task.eval_docs[0], [" 9"])["exact_match"] == 1.0


def test_runs_of_other_prompts_are_never_mixed(tiny_llama, tmp_path):
    rows = [question_of(id=f"q{i}", question=f"Which {i}?") for i in range(3)]
    (tmp_path / "d.jsonl").write_text(format_questions(rows))
    ask = ["--data", tmp_path, "--domains", "d", "--thinking", "fast", "--cache", tmp_path / "kept"]

    def answered(name, *prompts, known):
        out = tmp_path / name
        found = succeed("evaluate", "run", tiny_llama, *ask, *prompts, "--out", out, "--json")
        document = json.loads(found.stdout)
        assert document["measured"]["known"] == known
        results = json.loads((out / "results.json").read_text())
        assert results["config"]["llama"]["prompts"] == document["settings"]["prompts"]
        return out, document["settings"]["prompts"]

    own = _file(tmp_path, **OWN)
    one, first = answered("one", "--prompts", own, known=0)
    again = tmp_path / "again.yaml"
    again.write_text("# the same content\n" + own.read_text())
    assert answered("same", "--prompts", again, known=9)[1] == first
    _, other = answered("other", "--prompts", "one-turn", known=0)
    built_in, none = answered("built-in", known=0)
    assert (none, other != first) == (None, True)

    bill = ["--no-gains", "--out", tmp_path / "bill", "--json"]
    compared = succeed("evaluate", "compare", one, tmp_path / "same", *bill)
    assert {model["settings"]["prompts"] for model in json.loads(compared.stdout)["models"]} == {first}
    for run_folder in (tmp_path / "other", built_in):
        refused = run_command("evaluate", "compare", one, run_folder, "--out", tmp_path / "no")
        check_refused(refused, 1, "was asked in the prompts of")
    refused = run_command("evaluate", "compare", one, tiny_llama, *ask, "--out", tmp_path / "no")
    check_refused(refused, 1, "llama was asked in the prompts of Regrowth, and one in those of a file (SHA-256")


def test_the_shipped_prompts_ask_both_kinds_in_both_modes():
    for name in shipped_prompts():
        prompts = read_prompts(name)
        for mode in ("fast", "slow"):
            shown = prompts.render(mode, "Which?", ["left", "right"])
            assert shown.endswith("Which?\nA. left\nB. right")
            assert prompts.render(mode, "How many?", None).endswith("How many?")
            assert shown.count("\n") == 4  # an instruction, and the question


def test_the_file_of_the_docs_is_one():
    page = (Path(__file__).resolve().parents[3] / "docs" / "prompts.md").read_text("utf-8")
    document = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    prompts = Prompts.model_validate(document)
    assert prompts.fast.stop == ("\n",)
    assert prompts.render("slow", "Which?", ["left"]).endswith("\nWhich?\nA. left")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "has neither fast nor slow"),
        ({"fast": FAST, "medium": SLOW}, "unknown field medium; the file takes labels, choice, fast, slow"),
        ({"fast": {**FAST, "prompt": "{question}"}}, r"fast\.prompt: has no \{choices\}"),
        ({"fast": {**FAST, "prompt": "{choices}"}}, r"fast\.prompt: has no \{question\}"),
        (
            {"fast": {**FAST, "prompt": "{question} {choices} {hint}"}},
            r"unknown field \{hint\}; it takes \{question\} and",
        ),
        ({"fast": {**FAST, "prompt": "{question!r} {choices}"}}, r"unknown field \{question!r\}"),
        ({"fast": {**FAST, "prompt": "{question} {choices} }"}}, "a brace that is text is written twice"),
        ({"fast": {"max_tokens": 4}}, "fast: has neither a prompt nor an open_prompt"),
        ({"fast": {**FAST, "max_tokens": 0}}, r"fast\.max_tokens: .*greater than or equal to 1"),
        ({"fast": {**FAST, "tokens": 4}}, "unknown field tokens; fast takes prompt, open_prompt, .*max_tokens"),
        ({"slow": {**SLOW, "max_tokens": 99}}, "slow: takes no max_tokens: --slow-tokens says"),
        ({"slow": SLOW, "labels": "romans"}, "labels: .*'letters' or 'numbers'"),
        ({"slow": SLOW, "choice": "{choice}"}, r"choice: has no \{label\}"),
        ({"slow": SLOW, "choice": "{label}\n{choice}"}, "choice: must be one line"),
        ({"slow": "Think"}, "slow: "),
        ({"slow": {**SLOW, "stop": [""]}}, r"slow\.stop\.0: .*at least 1 character"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_its_field(tmp_path, document, message):
    path = _file(tmp_path, **document)
    with pytest.raises(RegrowthError, match=message) as error:
        read_prompts(path)
    assert str(error.value).startswith(f"--prompts {path}")
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused_before_a_model_is_loaded(tmp_path):
    rows = [question_of(id=f"q{i}", choices=None, answer=f"{i}") for i in range(3)]
    (tmp_path / "d.jsonl").write_text(format_questions(rows))

    def plan(prompts, *thinking):
        plan_tasks(Settings.of(data=tmp_path, domains="d", prompts=prompts, thinking=thinking or None))

    own = _file(tmp_path, **OWN)
    plan(own, "slow")
    with pytest.raises(UsageError, match="fast has no open_prompt, and domain d has open questions"):
        plan(own, "fast", "slow")
    with pytest.raises(UsageError, match="fast has no open_prompt"):
        _task(tmp_path, "fast", choices=None, answer="9")
    with pytest.raises(UsageError, match="add --thinking fast,slow"):
        plan(own)
    with pytest.raises(UsageError, match="has no slow, and that mode is asked"):
        plan(_file(tmp_path, fast=FAST), "slow")
    with pytest.raises(
        RegrowthError, match=r"none cannot be read \(No such file.*; it takes a YAML file, or .*one-turn"
    ):
        plan("none", "fast")
    (tmp_path / "torn.yaml").write_text("fast: [")
    with pytest.raises(RegrowthError, match="is not YAML"):
        run("no model", data=tmp_path, domains="d", prompts=tmp_path / "torn.yaml", thinking="fast")
