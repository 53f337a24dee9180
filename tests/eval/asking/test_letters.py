"""Options shown and the letter scored: lm-eval's own `mmlu` to the byte, in runs and sweeps; and what is refused."""

import json
from importlib.resources import files

import pytest
import yaml

from eval.asking.letters import describe_subject
from eval.asking.tasks import example_notes, hash_examples, plan_tasks
from eval.depth.settings import DepthSettings
from eval.questions.examples import examples_path, format_examples, read_examples
from eval.questions.schema import format_questions, read_questions
from eval.runs.files import read_lines
from eval.runs.run import run
from eval.runs.samples import hash_prompt
from eval.settings import Questions, Settings
from eval.sweeps.run import sweep
from eval.sweeps.settings import SweepSettings
from prune.common.errors import RegrowthError, UsageError
from tests.support.questions import question_of

SHOTS, ASKED = 5, 2
SUBJECTS = ("anatomy", "abstract_algebra")


@pytest.fixture(scope="module")
def shown(tmp_path_factory, sample_questions):
    """Real MMLU questions of two subjects, the shortest: five of each stand as examples, two are asked."""
    data = tmp_path_factory.mktemp("letters")
    every = [*read_questions(sample_questions / "medical.jsonl"), *read_questions(sample_questions / "math.jsonl")]
    examples, asked = [], []
    for subject in SUBJECTS:
        short = sorted(
            (q for q in every if (q.source, q.subject) == ("mmlu", subject)),
            key=lambda q: len(q.question) + len(str(q.choices)),
        )
        examples += short[:SHOTS]
        asked += short[SHOTS : SHOTS + ASKED]
    examples_path(data, "mmlu").parent.mkdir()
    examples_path(data, "mmlu").write_text(format_examples(examples))
    (data / "mixed.jsonl").write_text(format_questions(asked))
    return data


def _lm_evals_own(data, tmp_path, subject):
    """lm-eval's own YAML of a subject, with nothing changed but where its questions come from."""
    folder = files("lm_eval") / "tasks" / "mmlu" / "default"
    config = {
        **yaml.safe_load((folder / "_default_template_yaml").read_text()),
        **yaml.safe_load((folder / f"mmlu_{subject}.yaml").read_text()),
    }
    data_files = {}
    for split, path in (("test", data / "mixed.jsonl"), ("dev", examples_path(data, "mmlu"))):
        asked = [row for row in read_lines(path) if row["subject"] == subject]
        columns = ("id", "subject", "question", "choices", "answer")  # `datasets` wants the same in both splits
        rows = [{name: row.get(name, "") for name in columns} for row in asked]
        data_files[split] = str(tmp_path / f"{subject}_{split}.jsonl")
        (tmp_path / f"{subject}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("include", "dataset_name", "tag"):
        config.pop(name)
    config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": data_files, "cache_dir": str(tmp_path / "c")}}
    (tmp_path / f"mmlu_{subject}.yaml").write_text(yaml.safe_dump(config))
    return config["task"]


def test_letters_are_lm_evals_own_mmlu(shown, sample_model, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = [_lm_evals_own(shown, tmp_path, subject) for subject in SUBJECTS]
    theirs = simple_evaluate(
        model=HFLM(pretrained=str(sample_model), dtype="float32", batch_size=1, device="cpu"),
        tasks=tasks,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        num_fewshot=SHOTS,
        bootstrap_iters=1,
    )
    how = {"protocols": "letters", "few_shot": SHOTS, "chat_template": "off", "show_progress": False}
    ours = run(sample_model, data=shown, domains="mixed", **how)
    (plan,) = ours.tasks
    assert plan.name == "regrowth_mixed_letters"
    assert len(plan.questions) == len(SUBJECTS) * ASKED
    assert ours.notes == ()
    logged = {entry["doc"]["id"]: entry for task in tasks for entry in theirs["samples"][task]}
    samples = {sample.id: sample for sample in ours.of(plan)}
    assert samples.keys() == logged.keys()
    for name, entry in logged.items():
        asked = [tuple(argument) for argument in entry["arguments"]]
        assert [continuation for _, continuation in asked] == [" A", " B", " C", " D"]
        assert asked[0][0].count("Answer:") == SHOTS + 1
        scores = [score for score, _ in entry["filtered_resps"]]
        assert samples[name].prompt_hash == hash_prompt(entry["arguments"])
        assert samples[name].correct == samples[name].correct_raw == bool(entry["acc"])
        assert samples[name].response == scores.index(max(scores))
        nll = -scores[entry["doc"]["answer"]] / 0.6931471805599453
        assert samples[name].answer_nll_bits == pytest.approx(nll, abs=1e-3)
    right = sum(theirs["results"][task]["acc,none"] * ASKED for task in tasks)
    assert ours.harness["results"][plan.name]["acc,none"] == pytest.approx(right / len(logged))


@pytest.mark.parametrize("chat", ["off", "on"])
def test_a_sweep_asks_the_same_letters(shown, tiny_llama, tmp_path, chat):
    how = {"data": shown, "domains": "mixed", "protocols": "choice,letters", "few_shot": 1, "chat_template": chat}
    ours = run(tiny_llama, show_progress=False, **how)
    swept = sweep(tiny_llama, sizes="2", starts="all", out=tmp_path / "s", show_progress=False, **how)
    for task in swept.tasks:
        samples = ours.of(task.plan)
        assert list(task.prompts) == [sample.prompt_hash for sample in samples]
        assert task.nll[0].tolist() == pytest.approx([sample.answer_nll_bits for sample in samples], abs=1e-3)
        assert task.correct[0].tolist() == [sample.correct for sample in samples]
    choice, letters = swept.tasks
    assert (choice.plan.protocol, letters.plan.protocol) == ("choice", "letters")
    assert letters.sizes.tolist() == [1.0] * letters.n  # a letter is a byte, so that it would outweigh any text
    rise = (choice.nll.sum(1) - choice.nll[0].sum()) / choice.sizes.sum()
    assert list(swept.costs.domains["mixed"][2].values()) == pytest.approx(rise[1:].tolist())
    assert swept.document.provenance["questions"].keys() == {"mixed.jsonl", "examples/mmlu.jsonl"}


def test_each_subject_has_its_own_examples_and_sets_without_any_take_others(shown, tmp_path):
    (plan,) = plan_tasks(Questions.of(data=shown, domains="mixed", protocols="letters", few_shot=2))
    for item in plan.questions:
        assert {example.subject for example in plan.examples_for(item)} == {item.subject}
        assert [example.id for example in plan.examples_for(item)] == [
            example.id for example in read_examples(shown, "mmlu") if example.subject == item.subject
        ][:2]
    assert example_notes([plan]) == []
    assert list(hash_examples([plan], shown)) == ["examples/mmlu.jsonl"]
    with pytest.raises(UsageError, match=r"--few-shot 6: .*mmlu\.jsonl has 5 examples of a"):
        plan_tasks(Questions.of(data=shown, domains="mixed", protocols="letters", few_shot=6))

    own = [question_of(id=f"q{i}", question=f"Which {i}?", subject="of_mine") for i in range(5)]
    (tmp_path / "d.jsonl").write_text(format_questions(own))
    (plan,) = plan_tasks(Questions.of(data=tmp_path, domains="d", protocols="letters", few_shot=2))
    assert len(plan.questions) == 3
    assert not set(plan.examples) & set(plan.questions)
    (note,) = example_notes([plan])
    assert "no worked examples of own are prepared" in note
    assert describe_subject(own[0]) == "The following are multiple choice questions (with answers).\n\n"
    assert "about abstract algebra.\n\n" in describe_subject(question_of(source="mmlu", subject="abstract_algebra"))


def test_examples_stand_as_published(tmp_path):
    path = examples_path(tmp_path, "mmlu")
    path.parent.mkdir()
    twice = {"subject": "anatomy", "question": "Which?", "choices": ["one", "one"], "answer": 1}
    twice |= {"source": "mmlu", "licence": "MIT"}
    path.write_text(json.dumps(twice) + "\n\n" + json.dumps({**twice, "question": "Other?"}) + "\n")
    assert [item.question for item in read_examples(tmp_path, "mmlu")] == ["Which?", "Other?"]
    assert read_examples(tmp_path, "medqa") == []
    for wrong, words in [("{", "not JSON"), (json.dumps({**twice, "answer": 2}), "answer must be the 0-based index")]:
        path.write_text(json.dumps(twice) + f"\n{wrong}\n")
        with pytest.raises(RegrowthError, match=rf"mmlu\.jsonl:2: {words}"):
            read_examples(tmp_path, "mmlu")


def test_protocols_are_chosen_by_name(shown, sample_questions, tmp_path):
    asked = Settings.of(data=sample_questions, domains="math", limit=4)
    assert [plan.protocol for plan in plan_tasks(asked)] == ["choice", "generation"]  # as ever, if not told
    every = Settings.of(
        data=sample_questions, domains="math", limit=4, protocols="generation,letters,choice", thinking="fast"
    )
    names = [plan.name.removeprefix("regrowth_math_") for plan in plan_tasks(every)]
    assert names == ["choice", "choice-fast", "letters", "generation", "generation-fast"]
    choice, _, letters, *_ = plan_tasks(every)
    assert choice.questions == letters.questions
    for wrong, words in [
        ({"protocols": "letter"}, "--protocols letter is unknown; use choice, letters, generation"),
        ({"protocols": " , "}, "--protocols names nothing"),
        ({"protocols": "letters", "thinking": "fast"}, "--thinking is asked beside choice or generation"),
    ]:
        with pytest.raises(UsageError, match=words):
            Settings.of(data="q", domains="math", **wrong)
    with pytest.raises(UsageError, match="--protocols generation leaves no question in domain mixed"):
        plan_tasks(SweepSettings.of(data=shown, domains="mixed", protocols="generation"))
    with pytest.raises(UsageError, match="leave out --protocols"):
        DepthSettings.of(data=shown, domains="mixed", protocols="letters")
    many = {"choices": [f"option {i}" for i in range(27)]}
    own = [question_of(id=name, question=f"{name}?", **many) for name in ("one", "two")]
    (tmp_path / "own.jsonl").write_text(format_questions(own))
    with pytest.raises(RegrowthError, match="27 choices, and letters show them by letter, 26 at most"):
        plan_tasks(Questions.of(data=tmp_path, domains="own", protocols="letters"))
