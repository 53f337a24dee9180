"""lm-eval's own command line on a cut, without Regrowth: the numbers that `evaluate run` gives."""

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.commands import succeed
from tests.support.other_tools import NEWEST, installed

PROTOCOLS = Path(__file__).resolve().parents[2] / "eval" / "asking" / "protocols"
COUNT = 8
CHOICE = {  # as lm-eval's own piqa and sciq put it
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
}


def rows(folder, part):
    (path,) = folder.rglob(f"samples_*{part}*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def ours(cut_model, sample_questions, tmp_path_factory):
    """Our run's answers to questions with choices, and to open ones."""
    out = tmp_path_factory.mktemp("ours") / "run"
    words = ("--data", sample_questions, "--domains", "math", "--sets", "mmlu,asdiv", "--limit", COUNT)
    succeed("evaluate", "run", cut_model, *words, "--chat-template", "off", "--no-cache", "--out", out)
    return {protocol: rows(out, f"math_{protocol}") for protocol in ("choice", "generation")}


@pytest.fixture(scope="module")
def theirs(cut_model, ours, tmp_path_factory):
    """What lm-eval's command line logs of the same questions, and its version."""
    place = tmp_path_factory.mktemp("theirs")
    generation = yaml.safe_load((PROTOCOLS / "generation.yaml").read_text())
    generation["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    for name, config in (("choice", CHOICE), ("generation", generation)):
        lines = [json.dumps({key: row["doc"][key] for key in ("question", "choices", "answer")}) for row in ours[name]]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}}
        task = {**config, **data, "task": f"local_{name}", "test_split": "test", "num_fewshot": 0}
        (place / f"{name}.yaml").write_text(yaml.safe_dump(task))
    words = ["--model", "hf", "--model_args", f"pretrained={cut_model}", "--device", "cpu", "--batch_size", "4"]
    words += ["--tasks", "local_choice,local_generation", "--include_path", ".", "--log_samples"]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bare |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(place / "data")}
    with installed("lm-eval", "lm_eval[hf]", constraints=NEWEST) as tool:
        version = tool.version("lm_eval")
        line = [tool.command("lm_eval"), *words, "--output_path", "out"]
        done = subprocess.run(line, cwd=place, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return version, {name: rows(place / "out", f"local_{name}") for name in ours}


def test_choices_have_the_log_likelihoods_of_evaluate_run(ours, theirs, checked):
    version, found = theirs
    checked(version, "`lm_eval --model hf` on the cut, questions with choices: the log-likelihoods of `evaluate run`")
    assert len(found["choice"]) == len(ours["choice"]) == COUNT
    for row, mine in zip(found["choice"], ours["choice"], strict=True):
        likelihood = float(row["resps"][int(row["target"])][0][0])
        assert -mine["answer_nll_bits"] * math.log(2) == pytest.approx(likelihood, abs=1e-4)
        assert row["acc_norm"] == mine["correct"]


def test_open_questions_are_answered_in_the_same_words(ours, theirs, checked):
    version, found = theirs
    checked(version, "`lm_eval --model hf` on the cut, open questions: the very answers of `evaluate run`")
    assert len(found["generation"]) == len(ours["generation"]) == COUNT
    for row, mine in zip(found["generation"], ours["generation"], strict=True):
        assert row["resps"][0][0].strip() == mine["response"].strip()
