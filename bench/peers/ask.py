"""`evaluate run` and `evaluate sweep` beside lm-eval's command line: the same questions, prompts and weights.

    python -m bench.peers.ask

One model first, by turns. Then the full model and six cuts of it. There lm-eval needs each cut on the disk, and a run
of its own for each; `prune cut` makes them, and its time is counted on lm-eval's side. The cuts are the best of a scan,
which neither side is charged for. All in float32, without a chat template, eight requests at a time (`evaluate sweep`:
1,024 tokens at a time, its default).
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from bench.peers.record import ROOT, THREADS, WORK, Measured, bytes_under, measure, write
from bench.peers.turns import MIB, OFFLINE, emptied, figures, must, ours, take_turns, warm
from bench.shared.environments import Environment, NotInstallableError, environment

LM_EVAL = f"lm_eval[hf]=={version('lm_eval')}"
SAMPLE = ROOT / ".sample" / "model"
QUESTIONS = ROOT / ".sample" / "questions"
ASKED = {"medical": 40, "math": 40}
TEXT = ROOT / ".sample" / "text.jsonl"
SIZES = (0, 2, 4, 6, 8, 10, 12)  # layers dropped
TASK = "peers_choice"
_ROUNDS, _LIMIT = 3, 900
_COMMON = {"model": "SmolLM2-135M-Instruct", "dtype": "float32", "batch_size": 8, "threads": THREADS}
Answers = dict[str, tuple[float, bool]]  # by question: log-likelihood of the right choice, and whether it was chosen


def main() -> None:
    work = emptied(WORK / "ask")
    try:
        data = write_questions(work)
        try:
            with environment("lm-eval", [LM_EVAL]) as made:
                one_model(work, data, made)
                many_cuts(work, data, made)
        except NotInstallableError as error:
            peer = {"tool": LM_EVAL.replace("==", " "), "not_run": f"not installable: {error}"}
            one_model(work, data, None, peer)
            many_cuts(work, data, None, peer)
    finally:
        shutil.rmtree(work)


def write_questions(work: Path) -> Path:
    """The questions as a domain of ours and as a task of lm-eval's; returns the folder of the domain."""
    data = emptied(work / "data")
    rows = []
    for domain, count in ASKED.items():
        with (QUESTIONS / f"{domain}.jsonl").open(encoding="utf-8") as lines:
            some = [row for row in map(json.loads, lines) if row["choices"]]
        step = len(some) // count
        rows += [row | {"domain": "peers"} for row in some[::step][:count]]
    (data / "peers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data / "peers.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1},
    }
    tasks = emptied(work / "tasks")
    (tasks / f"{TASK}.yaml").write_text(yaml.safe_dump(task))
    return data


def one_model(work: Path, data: Path, made: Environment | None, peer: Mapping[str, object] | None = None) -> None:
    """Time and memory of one model's answers, and how far the log-likelihoods are apart."""
    name = ours("evaluate run")
    run = [
        sys.executable,
        "-m",
        "eval",
        "run",
        SAMPLE,
        *questions(data),
        "--batch-size",
        8,
        "--no-cache",
        "--overwrite",
    ]
    ways: dict[str, list[object]] = {name: [*run, "--out", work / "run"]}
    if made is not None:
        theirs = made.version("lm_eval")
        ways[theirs] = lm_eval(made, work, SAMPLE, work / "theirs")
    runs = take_turns(
        ways, _ROUNDS, limit_s=_LIMIT, before=lambda: (warm(SAMPLE), shutil.rmtree(work / "theirs", ignore_errors=True))
    )  # fmt: skip
    must(runs[name][-1])
    mine = our_answers(work / "run")[0]
    rows = [figures(name, runs[name])]
    if made is None:
        rows.append(dict(peer or {}))
    else:
        more = {} if runs[theirs][-1].code else apart([mine], [their_answers(work / "theirs")])
        rows.append(figures(theirs, runs[theirs], **more))
    write("ask-run", "ask one model", rows, settings=_COMMON | {"questions": len(mine), "rounds": _ROUNDS})


def many_cuts(work: Path, data: Path, made: Environment | None, peer: Mapping[str, object] | None = None) -> None:
    """The same for the full model and its cuts: one sweep, against a cut and a run for each."""
    scan, out = work / "scan.json", work / "sweep"
    few = ["--text", TEXT, "--samples", 16, "--length", 128, "--out", scan]
    must(measure([sys.executable, "-m", "prune", "scan", SAMPLE, *few], limit_s=_LIMIT, variables=OFFLINE))
    warm(SAMPLE)
    words = ["sweep", SAMPLE, *questions(data), "--scan", scan, "--sizes", ",".join(map(str, SIZES)), "--out", out]
    sweep = must(measure([sys.executable, "-m", "eval", *words], limit_s=_LIMIT, variables=OFFLINE))
    cuts = [variant["dropped"] for variant in json.loads((out / "sweep.json").read_text())["variants"]]
    mine = our_answers(out)
    rows = [figures(ours("evaluate sweep"), [sweep], disk_mib=round(bytes_under(out) / MIB, 1))]
    if made is None:
        rows.append(dict(peer or {}))
    else:
        rows.append(cut_and_run(work, made, cuts, mine))
    dropped = ", ".join(f"{layers[0]}-{layers[-1]}" for layers in cuts if layers)
    common = _COMMON | {"batch_size": "8, of the sweep 1,024 tokens", "layers_dropped": dropped}
    common |= {"questions": len(mine[0]), "rounds": 1}
    write("ask-sweep", f"ask the full model and {len(SIZES) - 1} cuts", rows, settings=common)


def cut_and_run(
    work: Path, made: Environment, cuts: Sequence[Sequence[int]], mine: Sequence[Answers]
) -> dict[str, object]:
    """lm-eval's row: `prune cut` to the disk and one run, for each cut."""
    tool = f"{made.version('lm_eval')}, a run for each"
    runs, answers, disk = [], [], 0
    for layers in cuts:
        model, out = (work / f"cut-{len(layers)}" if layers else SAMPLE), work / f"theirs-{len(layers)}"
        if layers:
            cut = ["cut", SAMPLE, "--layers", ",".join(map(str, layers)), "--check", 0, "--out", model]
            runs.append(must(measure([sys.executable, "-m", "prune", *cut], limit_s=_LIMIT, variables=OFFLINE)))
        runs.append(measure(lm_eval(made, work, model, out), limit_s=_LIMIT, variables=OFFLINE))
        if runs[-1].code:
            return figures(tool, [runs[-1]])
        answers.append(their_answers(out))
        disk += bytes_under(out) + (bytes_under(model) if layers else 0)
    total = Measured(0, sum(r.seconds for r in runs), sum(r.cpu_seconds for r in runs), max(r.most for r in runs), "")
    return figures(tool, [total], disk_mib=round(disk / MIB, 1), **apart(mine, answers))


def questions(data: Path) -> list[object]:
    return [
        "--data",
        data,
        "--domains",
        "peers",
        "--protocols",
        "choice",
        "--chat-template",
        "off",
        "--dtype",
        "float32",
    ]


def lm_eval(made: Environment, work: Path, model: Path, out: Path) -> list[object]:
    """Its own command line; the data sets that it makes of our file are kept out of the user's cache."""
    return [
        "env", f"HF_DATASETS_CACHE={work / 'datasets'}", made.command("lm_eval"), "--model", "hf", "--model_args",
        f"pretrained={model},dtype=float32", "--device", "cpu", "--tasks", TASK, "--include_path", work / "tasks",
        "--batch_size", 8, "--log_samples", "--output_path", out,
    ]  # fmt: skip


def our_answers(out: Path) -> list[Answers]:
    """Of a run one, of a sweep one for each model."""
    (path,) = out.glob("samples_*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if not isinstance(rows[0]["answer_nll_bits"], list):
        rows = [row | {key: [row[key]] for key in ("answer_nll_bits", "correct")} for row in rows]
    models = range(len(rows[0]["correct"]))
    return [
        {row["id"]: (-row["answer_nll_bits"][m] * math.log(2), bool(row["correct"][m])) for row in rows} for m in models
    ]  # fmt: skip


def their_answers(out: Path) -> Answers:
    (path,) = out.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        row["doc"]["id"]: (float(row["filtered_resps"][row["doc"]["answer"]][0]), row["acc_norm"] == 1) for row in rows
    }  # fmt: skip


def apart(ours: Sequence[Answers], theirs: Sequence[Answers]) -> dict[str, object]:
    """The greatest difference of a right answer's log-likelihood in nats, and the verdicts that agree."""
    pairs = [(one[name], other[name]) for one, other in zip(ours, theirs, strict=True) for name in one]
    same = sum(one[1] == other[1] for one, other in pairs)
    return {
        "log_likelihoods_apart": max(abs(one[0] - other[0]) for one, other in pairs),
        "same_verdict": f"{same} of {len(pairs)}",
    }


if __name__ == "__main__":
    main()
