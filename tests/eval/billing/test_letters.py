"""The line that says where letters alone collapse, on planted answers."""

from types import SimpleNamespace

import pytest

from eval.billing.rows.letters import letters_warnings
from tests.support.questions import plan_of, sample_of

N = 200
IDS = [f"q{i}" for i in range(N)]


def _run(label, letters, choice, ids=IDS):
    """A model that is right on the first so many of its questions, by letters and by texts."""
    tasks, answers = [], {}
    for protocol, right in (("choice", choice), ("letters", letters)):
        plan = SimpleNamespace(**{**vars(plan_of(ids)), "protocol": protocol, "chance": 0.5})
        tasks.append(plan)
        answers[protocol] = [sample_of(name, i < right, protocol=protocol) for i, name in enumerate(ids)]
    return SimpleNamespace(label=label, tasks=tasks, of=lambda plan: answers[plan.protocol])


def test_letters_that_fall_alone_are_named():
    full = _run("full", 160, 150)
    (line,) = letters_warnings([full, _run("cut", 90, 147), _run("same", 160, 150)])
    assert line.startswith("cut, d: only the letter form collapses. By letters it loses 35.0 points [27.9")
    assert "by the texts of the same 200 questions 1.5 points [" in line


@pytest.mark.parametrize(
    ("full", "cut"),
    [
        ((160, 150), (90, 80)),  # both fell
        ((160, 150), (158, 150)),  # neither, beyond doubt
        ((160, 150), (152, 146)),  # the letters fell, but not more than the texts beyond doubt
        ((160, 102), (90, 100)),  # by texts the full model is at chance, and cannot fall
        ((160, 150), (180, 90)),  # only the texts fell
    ],
)
def test_nothing_is_said_elsewhere(full, cut):
    assert letters_warnings([_run("full", *full), _run("cut", *cut)]) == []


def test_only_questions_asked_both_ways_count():
    full, cut = _run("full", 160, 150), _run("cut", 90, 147)
    texts = [sample for sample in cut.of(cut.tasks[0]) if int(sample.id[1:]) % 2]
    some = SimpleNamespace(
        label="cut", tasks=cut.tasks, of=lambda plan: texts if plan.protocol == "choice" else cut.of(plan)
    )
    (line,) = letters_warnings([full, some])
    assert "of the same 100 questions" in line
    full.tasks.pop()  # no letters
    assert letters_warnings([full, some]) == []
