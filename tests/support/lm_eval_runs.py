"""Folders of plain `lm_eval --log_samples` output, made by lm-eval itself on the sample model and a cut of it.

    python -m tests.support.lm_eval_runs --name current
    PYTHONPATH=OLD:. python -m tests.support.lm_eval_runs --name older

makes `tests/eval/foreign/runs/<name>/{full,cut}`. OLD is a folder of an older lm-eval with what it needs
(`pip install --no-deps --target OLD lm_eval==0.4.4 sqlitedict ...`); the committed one is of 0.4.4.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from eval.questions.schema import read_questions
from eval.runs.files import read_lines

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "eval" / "foreign" / "runs"
SAMPLE = ROOT / ".sample"
LETTERS = {  # as lm-eval's own mmlu, one example before each question
    "doc_to_text": "{{question.strip()}}\n"
    + "".join(f"{letter}. {{{{choices[{i}]}}}}\n" for i, letter in enumerate("ABCD"))
    + "Answer:",
    "doc_to_choice": ["A", "B", "C", "D"],
    "doc_to_target": "answer",
    "output_type": "multiple_choice",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "fewshot_split": "dev",
    "fewshot_config": {"sampler": "first_n"},
    "num_fewshot": 1,
}
TEXTS = {  # as lm-eval's own piqa
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "output_type": "multiple_choice",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
    "num_fewshot": 0,
}
WRITTEN = {  # as lm-eval's own gsm8k: one generation, read by two filters
    "doc_to_text": "Question: {{question}}\nAnswer: The number is",
    "doc_to_target": "{{answer.split(' ')[0]}}",
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "num_fewshot": 0,
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [{"function": "regex", "regex_pattern": "^ (\\-?[0-9]+)\\."}, {"function": "take_first"}],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": "(\\-?[0-9]+)"},
                {"function": "take_first"},
            ],
        },
    ],
}
KINDS = {
    "mmlu_local_anatomy": LETTERS,
    "mmlu_local_abstract_algebra": LETTERS,
    "piqa_local": TEXTS,
    "gsm8k_local": WRITTEN,
}
QUESTIONS = {
    "mmlu_local_anatomy": ("medical", "mmlu", "anatomy"),
    "mmlu_local_abstract_algebra": ("math", "mmlu", "abstract_algebra"),
    "piqa_local": ("commonsense", "piqa", "physical-interaction"),
    "gsm8k_local": ("math", "asdiv", "word-problems"),
}


def write_tasks(folder, count):
    """Local YAML tasks on the shortest real questions, `count` each, and a group.

    Their names are none of lm-eval's own, which an older version would take in their place.
    """
    for task, (domain, source, subject) in QUESTIONS.items():
        there = read_questions(SAMPLE / "questions" / f"{domain}.jsonl")
        rows = [item.as_row() for item in there if (item.source, item.subject) == (source, subject)]
        rows.sort(key=lambda row: (len(row["question"]) + len(str(row["choices"])), row["id"]))
        fields = ("question", "choices", "answer") if rows[0]["choices"] else ("question", "answer")
        data_files = {}
        for split, some in (("test", rows[1 : 1 + count]), ("dev", rows[:1])):
            data_files[split] = f"{task}_{split}.jsonl"
            text = "".join(json.dumps({name: row[name] for name in fields}) + "\n" for row in some)
            (folder / data_files[split]).write_text(text)
        config = {"task": task, "dataset_path": "json", "dataset_kwargs": {"data_files": data_files}}
        config |= {"test_split": "test", **KINDS[task], "metadata": {"version": 1.0}}
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(config))
    parts = [task for task in QUESTIONS if task.startswith("mmlu")]
    group = {"group": "mmlu_local", "task": parts, "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    (folder / "mmlu_local.yaml").write_text(yaml.safe_dump({**group, "metadata": {"version": 1}}))


def run_lm_eval(place, model, tasks, out):
    """lm-eval's own command line on the model folder `model`, from the folder of the tasks."""
    arguments = ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"]
    arguments += ["--tasks", tasks, "--include_path", ".", "--batch_size", "4", "--log_samples", "--output_path", out]
    quiet = {**os.environ, "HF_DATASETS_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "lm_eval", *arguments], cwd=place, env=quiet, capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())


def strip(folder):
    """Leave out what tells of the machine, and what no reader of results needs."""
    for path in folder.rglob("results_*.json"):
        document = json.loads(path.read_text())
        for name in ("pretty_env_info", "upper_git_hash", "git_hash", "start_time", "end_time", "chat_template"):
            document.pop(name, None)
        path.write_text(json.dumps(document, indent=1) + "\n")
    for path in folder.rglob("samples_*.jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in read_lines(path)))


def make(place, out, *, count=3):
    """Both models' folders below `out`; `place` is an empty folder to work in."""
    from prune import cut, plan_cut

    (place / "full").symlink_to(SAMPLE / "model")
    cut(plan_cut(place / "full", layers="21-28"), place / "cut", show_progress=False)
    write_tasks(place, count)
    for model in ("full", "cut"):
        run_lm_eval(place, model, "mmlu_local,piqa_local,gsm8k_local", f"out-{model}")
        (out / model).mkdir(parents=True)
        for path in (place / f"out-{model}").rglob("*_*.json*"):
            (out / model / path.name).write_bytes(path.read_bytes())
    strip(out)


if __name__ == "__main__":
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    name = parser.parse_args().name
    with tempfile.TemporaryDirectory() as work:
        make(Path(work), RUNS / name)
