"""Settings, their options, and what `compare` does with them: chat templates, lm-eval tasks, stored runs, verdicts."""

import json
import shutil
from dataclasses import fields, replace

import pytest

from eval.asking.tasks import plan_tasks, template
from eval.comparison import compare, same_chat
from eval.runs.run import run
from eval.settings import ComparisonSettings, RunSettings, Settings, default_cache, named_texts
from eval.sweeps.settings import SweepSettings
from heal.ranking.queries import ask
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.text.chats import wants_chat
from prune.writing.asking import Asker
from prune.writing.settings import WriteSettings
from tests.support.commands import check_refused, succeed
from tests.support.commands import run as run_command
from tests.support.texts import write_jsonl

SMALL = {"domains": "math", "limit": 4, "sets": ["mmlu"], "chat_template": "off"}


@pytest.fixture
def own_tasks(tmp_path):
    """A folder with two tasks of lm-eval and a group of them, as a user would write them."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"What is {i} + 1?", "choices": [str(i + 1), str(i + 2)], "answer": i % 2} for i in range(6)]
    write_jsonl(folder / "rows.jsonl", rows)
    for name in ("sums_a", "sums_b"):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))
    group = {"group": "sums", "task": ["sums_a", "sums_b"]}
    group["aggregate_metric_list"] = [{"metric": "acc", "weight_by_size": True}]
    (folder / "sums.yaml").write_text(json.dumps(group))
    return folder


def test_every_setting_has_its_option():
    flags = {"texts": "text", "adapters": "adapter"}
    for command, make in (("run", RunSettings), ("compare", ComparisonSettings), ("sweep", SweepSettings)):
        shown = succeed("evaluate", command, "--help").stdout.split()
        for field in fields(make):
            assert f"--{flags.get(field.name, field.name).replace('_', '-')}" in shown
        assert ("--no-cache" in shown) == (command != "sweep")


def test_settings_from_what_a_user_writes(monkeypatch, tmp_path):
    found = Settings.of(data="q", domains="math, medical,math", sets=["mmlu"], thinking="slow,fast", text="a.txt")
    assert found.domains == ("math", "medical")
    assert found.thinking == ("fast", "slow")
    assert found.texts == ("a.txt",)
    assert str(found.data) == "q"
    for wrong, words in [
        ({"limit": 1}, "--limit 1"),
        ({"few_shot": -1}, "--few-shot -1"),
        ({"seed": -1}, "--seed -1: use 0 or more"),
        ({"chat_template": "maybe"}, "--chat-template maybe"),
        ({"backend": "gpt"}, "--backend gpt"),
        ({"thinking": "medium"}, "--thinking medium is unknown; use fast, slow or fast,slow"),
        ({"slow_tokens": 3}, "--slow-tokens 3 leaves no room"),
        ({"tasks": " , "}, "--tasks"),
        ({"colour": 1}, "colour"),
    ]:
        with pytest.raises(UsageError, match=words):
            Settings.of(data="q", domains="math", **wrong)
    with pytest.raises(UsageError, match="nothing to ask"):
        plan_tasks(Settings.of())
    with pytest.raises(UsageError, match="--data"):
        plan_tasks(Settings.of(domains="math"))
    assert named_texts(["medical=a.jsonl", "b=c/d.txt"]) == {"medical": "a.jsonl", "b": "c/d.txt"}
    assert named_texts(["folder/x=1.txt"]) == {"held-out": "folder/x=1.txt"}
    with pytest.raises(UsageError, match="twice"):
        named_texts(["a.txt", "b.txt"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "regrowth" / "scores"


def test_few_shot_shows_other_questions_of_the_domain(sample_questions):
    plain = plan_tasks(Settings.of(data=sample_questions, domains="math", limit=5))
    shot = plan_tasks(Settings.of(data=sample_questions, domains="math", limit=5, few_shot=3))
    for task in shot:
        assert len(task.examples) == 3
        assert not set(task.examples) & set(task.questions)
        config = task.config()
        assert (config["num_fewshot"], config["fewshot_split"]) == (3, "examples")
    assert [t.config()["num_fewshot"] for t in plain] == [0, 0]
    assert "Mia has" in template("generation")["doc_to_text"]  # our own examples, which those of the set replace
    assert "Mia has" not in shot[1].config()["doc_to_text"]
    more = plan_tasks(Settings.of(data=sample_questions, domains="math", limit=9, few_shot=3))
    assert [t.examples for t in more] == [t.examples for t in shot]
    with pytest.raises(UsageError, match="--few-shot"):
        plan_tasks(Settings.of(data=sample_questions, domains="math", few_shot=10**6))


def test_few_shot_prompts_hold_examples_with_their_answers(sample_questions):
    from eval.asking.harness import PlannedTask

    for plan in plan_tasks(Settings.of(data=sample_questions, domains="math", limit=2, few_shot=2)):
        task = PlannedTask(plan)
        doc = task.eval_docs[0]
        prompt = task.fewshot_context(doc, 2, gen_prefix=task.doc_to_prefix(doc))
        for example in plan.examples:
            answer = example.answer if example.choices is None else example.choices[example.answer]
            assert f"{example.question}\nAnswer: {answer}\n\n" in prompt
        assert prompt.endswith(f"{plan.questions[0].question}\nAnswer:")


def test_the_full_models_tokenizer_decides_on_the_chat_template(tiny_llama):
    from transformers import AutoTokenizer

    auto = Settings.of(data="q", domains="math")
    chatty, plain, other = (AutoTokenizer.from_pretrained(tiny_llama) for _ in range(3))
    plain.chat_template = None
    other.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    assert wants_chat("auto", chatty, "m")
    assert not wants_chat("auto", plain, "m")
    assert not wants_chat("off", chatty, "m")
    for refused in (
        lambda: wants_chat("on", plain, "m"),
        lambda: same_chat(["a", "b"], [plain, plain], replace(auto, chat_template="on")),
        lambda: ask({}, plain, chat_template="on"),
        lambda: Asker(plain, WriteSettings(chat_template="on")),
    ):
        with pytest.raises(UsageError, match="the tokenizer of .* has no chat template; use auto or off"):
            refused()
    assert same_chat(["a", "b"], [chatty, chatty], auto)
    assert not same_chat(["a", "b"], [plain, chatty], auto)
    with pytest.raises(RegrowthError, match="b has no chat template, but that of a has one; --chat-template off"):
        same_chat(["a", "b"], [chatty, plain], auto)
    with pytest.raises(RegrowthError, match="b writes a chat in other words"):
        same_chat(["a", "b"], [chatty, other], auto)
    assert not same_chat(["a", "b"], [chatty, other], replace(auto, chat_template="off"))


def test_bad_input_is_refused_before_anything_is_asked(tiny_llama, sample_questions, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llama, bare, ignore=shutil.ignore_patterns("token*", "vocab*", "merges*", "special*", "chat*"))
    ask = {"data": sample_questions, "out": tmp_path / "out", **SMALL}
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        compare(tiny_llama, [bare], **ask)
    with pytest.raises(RegrowthError, match="--backend vllm: vLLM is not installed"):
        compare(tiny_llama, [tiny_llama], backend="vllm", **ask)
    with pytest.raises(UsageError, match="--include-path"):
        run(tiny_llama, tasks="a", include_path=tmp_path / "none")
    with pytest.raises(UsageError, match="--max-loss"):
        compare(tiny_llama, [tiny_llama], max_loss="much", **ask)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # lm-eval reads all its tasks to know that there is none of that name
def test_an_unknown_task_is_named(tiny_llama):
    with pytest.raises(UsageError, match="--tasks no_such_task is no task"):
        run(tiny_llama, tasks="no_such_task")


def test_tasks_of_lm_eval_and_finished_runs(tiny_llama, sample_questions, own_tasks, tmp_path):
    """Two runs stored, compared from their folders, and equal to comparing the models."""
    common = ["--tasks", "sums", "--include-path", own_tasks, "--data", sample_questions, "--domains", "math"]
    common += ["--limit", "4", "--sets", "mmlu", "--chat-template", "off", "--cache", tmp_path / "kept"]
    for name in ("one", "two"):
        answered = succeed("evaluate", "run", tiny_llama, *common, "--out", tmp_path / name, "--json")
    document = json.loads(answered.stdout)
    rows = {(row["task"], row["metric"]): row for row in document["tasks"]}
    assert set(rows) == {("sums", "acc"), ("sums_a", "acc"), ("sums_b", "acc")}
    assert rows["sums", "acc"]["group"]
    assert (rows["sums_a", "acc"]["n"], rows["sums", "acc"]["n"]) == (4, 8)
    assert document["measured"]["asked"] == 0  # the first run's answers were kept

    compare_runs = ["evaluate", "compare", tmp_path / "one", tmp_path / "two", "--no-gains"]
    stored = json.loads(succeed(*compare_runs, "--out", tmp_path / "bill", "--json").stdout)
    assert [m["label"] for m in stored["models"]] == ["one", "two"]
    labels = ["--labels", "one,two", "--no-gains", "--out", tmp_path / "b", "--json"]
    asked = json.loads(succeed("evaluate", "compare", tmp_path / "one", tiny_llama, *common, *labels).stdout)
    for key in ("rows", "tasks", "interactions"):
        assert asked[key] == stored[key]
    versus = [row for row in stored["tasks"] if row["model"] == "two"]
    assert all((row["lost"], row["gained"], row["mcnemar_p"]) == (0, 0, 1.0) for row in versus)
    assert all(row["difference"]["low"] < 0 < row["difference"]["high"] for row in versus)
    shown = (tmp_path / "bill" / "comparison.md").read_text()
    assert "| sums (group), acc | two | 8" in shown
    sample = json.loads((tmp_path / "one" / "samples_llama_regrowth_math_choice.jsonl").read_text().splitlines()[0])
    assert sample["doc"]["id"] == sample["id"]

    succeed("evaluate", "run", tiny_llama, *common, "--seed", 1, "--few-shot", 1, "--out", tmp_path / "three")
    refused = run_command("evaluate", "compare", tmp_path / "one", tmp_path / "three", "--out", tmp_path / "no")
    check_refused(refused, 1, "not paired")
    assert not (tmp_path / "no").exists()
    (tmp_path / "two" / "samples_llama_sums_a.jsonl").unlink()
    check_refused(run_command(*compare_runs, "--out", tmp_path / "no"), 1, "is not a whole run")


def test_a_verdict_ends_with_its_exit_code(tiny_llama, sample_questions, tmp_path):
    compare_models = ["evaluate", "compare", tiny_llama, tiny_llama, "--no-gains"]
    ask = ["--data", sample_questions, "--domains", "math", "--limit", 4, "--sets", "mmlu", "--chat-template", "off"]
    found = run_command(*compare_models, *ask, "--max-loss", "5%", "--out", tmp_path / "bill", "--json")
    document = json.loads(found.stdout)
    (versus,) = [row["versus"] for row in document["rows"] if row["versus"]]
    assert set(versus["answer_nll_bits_difference"].values()) == {0.0}  # a model against itself
    verdict = document["verdict"]  # a random model is above chance nowhere
    assert (verdict["decision"], found.exit_code) == ("INCONCLUSIVE", 4)
    assert json.loads((tmp_path / "bill" / "comparison.json").read_text())["verdict"] == verdict
    assert "**Verdict: INCONCLUSIVE" in (tmp_path / "bill" / "comparison.md").read_text()
    check_refused(run_command(*compare_models, *ask, "--max-loss", "5", "--out", tmp_path / "x"), 2, "--max-loss")
    assert document["noise"]["rows"][0]["n"] == 4

    policy = tmp_path / "policy.yaml"
    policy.write_text("must: {answer_bits_per_byte: 0.1, domains: [math]}")
    ask += ["--no-gains"]
    told = json.loads(
        succeed(*compare_models, *ask, "--no-noise", "--policy", policy, "--out", tmp_path / "go", "--json").stdout
    )
    assert told["verdict"]["decision"] == "GO"  # the same model: its answers cost no bit more
    assert told["verdict"]["policy"]["must"]["domains"].keys() == {"math"}
    assert (told["noise"], told["gains"]) == (None, None)
    for text, code, why in (
        ("must: {accuracy: 5, domains: [medical]}", 2, "must names domain medical, which is not asked"),
        ("must: {accuracy: 5, domains: [math]}\ntold: {domains: [math]}", 1, "domain math stands in must and in told"),
        ("must: {needle_recall: 5}", 2, "add --needles"),
        ("gains: {decode: 2x}", 2, "leave out --no-gains"),
    ):
        policy.write_text(text)
        check_refused(run_command(*compare_models, *ask, "--policy", policy, "--out", tmp_path / "x"), code, why)
    both = ["--policy", policy, "--max-loss", "5%", "--out", tmp_path / "x"]
    check_refused(run_command(*compare_models, *ask, *both), 2, "give one of the two")
    check_refused(
        run_command(*compare_models, *ask, "--noise-dtype", "int3", "--out", tmp_path / "x"), 2, "--noise-dtype"
    )
    refused = run_command(*compare_models, "--tasks", "arc_easy", "--max-loss", "5%", "--out", tmp_path / "x")
    check_refused(refused, 2, "--max-loss judges the accuracy in our domains")
