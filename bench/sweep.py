"""What a sweep of many cuts costs beside one evaluation of one model by lm-eval's own HFLM, and whether they agree.

In one process, in alternation: HFLM on the full model, all sizes at their deepest starts, and at a scan's best starts,
on the same questions, from prompts to lm-eval's metrics. Then each way in a process of its own for its peak memory,
and HFLM on written checkpoints of some sizes, log-likelihood by log-likelihood. Prints the tables of bench/README.md
and writes all numbers to --out. Some half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from lm_eval.models.huggingface import HFLM

from eval.asking.tasks import TaskPlan, plan_tasks
from eval.asking.trees import plain_tokens
from eval.settings import Questions
from eval.sweeps.lookup import AnswerTask, Prompting, collector, read
from eval.sweeps.measure import Walked, walk_questions
from eval.sweeps.plan import SweepPlan, plan_sweep
from prune import cut, plan_cut, scan
from prune.checkpoint.source import locate
from prune.models.loading import load_model, load_tokenizer
from prune.scanning.result import Scan
from prune.scanning.settings import ScanSettings

WAYS = ("hflm", "deepest", "best")
TARGETS = {"deepest": 1.5, "best": 4.0}
CONTEXT = 4096


class Bench:
    """The full model, its questions, and the ways to ask them."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.source = locate(asked.model)
        self.tokenizer = load_tokenizer(self.source)
        self.model = load_model(self.source, dtype=torch.float32)
        self.layers = int(self.model.config.num_hidden_layers)
        every = plan_tasks(Questions.of(data=asked.data, domains=asked.domains, limit=asked.limit))
        self.tasks = [task for task in every if task.protocol in asked.protocols.split(",")]

    def plan(self, way: str) -> SweepPlan:
        """The variants of a way."""
        best = None if way != "best" else {b.n: b.start for b in Scan.read(self.asked.scan).best}
        return plan_sweep(self.layers, sizes=self.asked.sizes, rule=way, best=best)

    def ask(self, way: str, tasks: list[TaskPlan]) -> Any:
        """Everything from prompts to metrics: lm-eval's samples of one model, or what a sweep measured."""
        made = [AnswerTask(task) for task in tasks]
        if way == "hflm":
            return hflm(self.model, self.tokenizer, made, self.asked.batch_size)
        scorer = collector(self.model, self.tokenizer, CONTEXT)
        return walk_questions(scorer, self.plan(way), made, Prompting(), show_progress=False)


def hflm(model: Any, tokenizer: Any, tasks: list[AnswerTask], batch_size: int) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples by its own HFLM."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=CONTEXT)
    samples: dict[str, list[dict[str, Any]]] = read(tasks, lm, Prompting())["samples"]
    return samples


def compare(samples: dict[str, list[dict[str, Any]]], found: Walked, place: int) -> dict[str, Any]:
    """How far a variant's log-likelihoods are from HFLM's, and how many verdicts differ."""
    number = dict(zip(found.collected.pairs, found.collected.owners, strict=True))
    furthest, flags, verdicts, answers = 0.0, 0, 0, 0
    for name, entries in samples.items():
        own = {entry["id"]: entry for entry in found.logged[place][name]}
        for entry in entries:
            responses = entry["resps"]
            for pair, ((logprob, greedy),) in zip(entry["arguments"], responses, strict=True):
                at = number[tuple(pair)]
                furthest = max(furthest, abs(logprob - float(found.answers.logprob[place, at])))
                flags += bool(greedy) != bool(found.answers.greedy[place, at])
                answers += 1
            mine = own[entry["doc"]["id"]]
            verdicts += any(entry[key] != mine[key] for key in ("acc", "acc_norm", "answer_greedy") if key in entry)
    return {"answers": answers, "furthest": furthest, "greedy_differs": flags, "verdicts_differ": verdicts}


def timed(bench: Bench) -> dict[str, Any]:
    """Seconds of each way, in alternation over parts of the questions; and the full model's agreement.

    `cpu_seconds` are the process's own on all its threads: where other work runs beside it, their ratios are the ones.
    """
    seconds, processor = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0.0)
    agree: list[dict[str, Any]] = []
    how: dict[str, Any] = {}
    for part in range(bench.asked.first_part - 1, bench.asked.parts):
        tasks = [replace(task, questions=task.questions[part :: bench.asked.parts]) for task in bench.tasks]
        given: dict[str, Any] = {}
        for way in WAYS if part % 2 == 0 else WAYS[::-1]:
            began, spent = time.monotonic(), time.process_time()
            given[way] = bench.ask(way, tasks)
            took, used = time.monotonic() - began, time.process_time() - spent
            seconds[way] += took
            processor[way] += used
            print(f"part {part + 1} of {bench.asked.parts}, {way}: {took:.1f} s, {used:.1f} s of processor", flush=True)
        for way in WAYS[1:]:
            found = given[way]
            agree.append(compare(given["hflm"], found, 0))
            one = how.setdefault(way, {"tokens": 0, "tokens_one_by_one": 0, "heads": 0, "read_seconds": 0.0})
            one["passes"] = bench.plan(way).passes()
            one["path"] = found.way.name
            one["tokens"] += found.answers.read
            one["tokens_one_by_one"] += plain_tokens(found.collected.requests)
            one["heads"] += found.answers.heads
            one["read_seconds"] += found.seconds["read"]
        print(
            json.dumps({"agreement": agree[-2:], "ratios": _ratios(seconds), "cpu_ratios": _ratios(processor)}),
            flush=True,
        )
    return {
        "seconds": seconds,
        "ratios": _ratios(seconds),
        "cpu_seconds": processor,
        "cpu_ratios": _ratios(processor),
        "how": how,
        "full_model_agreement": agree,
    }


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    return {way: seconds[way] / seconds["hflm"] for way in WAYS[1:]}


def checked(bench: Bench) -> list[dict[str, Any]]:
    """HFLM on written checkpoints against the sweep, for the sizes of --check at both kinds of starts."""
    tasks = [replace(task, questions=task.questions[: bench.asked.check_questions]) for task in bench.tasks]
    sizes = [int(n) for n in bench.asked.check.split(",")]
    found = []
    for way in WAYS[1:]:
        measured = bench.ask(way, tasks)
        for place, variant in enumerate(bench.plan(way).variants):
            if variant.n not in sizes or (variant.n == 0 and way == "best"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                where = bench.source
                if variant.n:
                    cut(plan_cut(bench.asked.model, n=variant.n, start=variant.start), Path(folder) / "cut")
                    where = locate(Path(folder) / "cut")
                model = load_model(where, dtype=torch.float32)
                samples = hflm(model, bench.tokenizer, [AnswerTask(t) for t in tasks], bench.asked.batch_size)
                del model
            found.append({"starts": way, "variant": variant.label, **compare(samples, measured, place)})
            print(json.dumps(found[-1]), flush=True)
    return found


def peak(bench: Bench, way: str) -> int:
    """Peak resident bytes of this process after one way, on the longest questions: they make the largest batches."""
    few = [
        replace(task, questions=tuple(sorted(task.questions, key=_size, reverse=True)[: bench.asked.memory_questions]))
        for task in bench.tasks
    ]
    bench.ask(way, few)
    # not ru_maxrss, which a child takes over from the process that started it
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def _size(question: Any) -> int:
    return len(question.question) + max(map(len, question.choices or ("",)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--data", default=".sample/questions")
    parser.add_argument("--domains", default="medical,math")
    parser.add_argument("--protocols", default="choice", help="choice, generation or both, with a comma")
    parser.add_argument("--limit", type=int, default=200, help="questions of each domain and protocol")
    parser.add_argument("--sizes", default="0-15")
    parser.add_argument("--scan", type=Path, default=Path("runs/bench/sweep-scan.json"), help="made if not there")
    parser.add_argument("--batch-size", type=int, default=8, help="of HFLM")
    parser.add_argument("--parts", type=int, default=2, help="parts of the questions between which ways alternate")
    parser.add_argument("--first-part", type=int, default=1, help="where a run that was cut short is taken up")
    parser.add_argument("--check", default="0,4,12", help="sizes to write and to ask by HFLM; empty for none")
    parser.add_argument("--check-questions", type=int, default=20, help="of each task for that")
    parser.add_argument("--memory-questions", type=int, default=16, help="longest of each task, for the peak memory")
    parser.add_argument("--skip", default="", help="leave out: timing, memory, check")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)  # one way, for its peak memory
    parser.add_argument("--out", type=Path, default=Path("runs/bench/sweep.json"))
    asked = parser.parse_args()
    if not asked.scan.exists():
        print("scanning for the best starts ...", flush=True)
        settings = ScanSettings(samples=64, length=256)
        scan(asked.model, ".sample/text.jsonl", settings=settings, show_progress=False).write(asked.scan)
    bench = Bench(asked)
    if asked.only:
        print(json.dumps({"peak": peak(bench, asked.only)}))
        return
    found: dict[str, Any] = {
        "questions": {task.name: len(task.questions) for task in bench.tasks},
        "threads": torch.get_num_threads(),
        "batch_size": asked.batch_size,
    }
    if "timing" not in asked.skip:
        found["timing"] = timed(bench)
    if asked.check and "check" not in asked.skip:
        found["check"] = checked(bench)
    if "memory" not in asked.skip:
        found["peak_bytes"] = {way: _alone(way) for way in WAYS}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    _report(found)


def _alone(way: str) -> int:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak"])


def _report(found: dict[str, Any]) -> None:
    print(f"\n{found['questions']}, {found['threads']} threads, HFLM batch size {found['batch_size']}\n")
    print("| way | seconds | times HFLM | of CPU time | target | layer passes | tokens | peak RSS, MiB | times HFLM |")
    print("|---|---|---|---|---|---|---|---|---|")
    timing, peaks = found.get("timing"), found.get("peak_bytes")
    for way in WAYS:
        cells = [way]
        if timing:
            how = timing["how"].get(way)
            cells += [f"{timing['seconds'][way]:.0f}"]
            both = ["1.00", "1.00", ""]
            if how is not None:
                both = [f"{timing[kind][way]:.2f}" for kind in ("ratios", "cpu_ratios")] + [f"<= {TARGETS[way]:g}"]
            cells += both
            tokens = timing["how"]["deepest"]["tokens_one_by_one"] if how is None else how["tokens"]
            cells += ["" if how is None else str(how["passes"]), f"{tokens:,}"]
        else:
            cells += [""] * 6
        cells += [f"{peaks[way] / 2**20:.0f}", f"{peaks[way] / peaks['hflm']:.2f}"] if peaks else ["", ""]
        print("| " + " | ".join(cells) + " |")
    compared = [*(timing["full_model_agreement"] if timing else []), *found.get("check", [])]
    if compared:
        total = {key: sum(one[key] for one in compared) for key in ("answers", "greedy_differs", "verdicts_differ")}
        print(
            f"\nlog-likelihoods compared: {total['answers']:,}, furthest apart "
            f"{max(one['furthest'] for one in compared):.2g} nats; greedy flags that differ {total['greedy_differs']}, "
            f"verdicts that differ {total['verdicts_differ']}"
        )


if __name__ == "__main__":
    main()
