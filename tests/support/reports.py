"""Folders of results with planted answers, billed and written by the real functions, for the tests of the report."""

import json
import math
import random
from dataclasses import replace

import numpy as np

from eval.asking.tasks import TaskPlan
from eval.billing.judging.policy import at_most
from eval.billing.sweep import Cost, SweepRecord, TaskRecord, WalkRecord
from eval.comparison import bill_runs, write_comparison
from eval.gains.arithmetic import all_gains
from eval.gains.orders import Turn
from eval.gains.record import Gains
from eval.questions.schema import Question
from eval.runs.prose import Prose, ScoredWindow
from eval.runs.samples import RunResult, Sample
from eval.sweeps.plan import plan_sweep
from eval.sweeps.scores import TaskScores, curves, healed, maps, rows, warnings

MODELS = {"full": 0.0, "pruned": 1.0, "healed": 0.45}  # how much of the planted damage each carries
TASKS = {  # share right before the damage, and how much of it the whole damage takes
    ("medical", "choice"): (0.47, 0.06),
    ("math", "choice"): (0.42, 0.15),
    ("math", "generation"): (0.36, 0.28),
}
SETTINGS = {"backend": "hf", "chat_template": True, "few_shot": None, "batch_size": 16, "dtype": "bfloat16"}
SETTINGS |= {"device": "cpu", "limit": 500, "seed": 0, "sets": None}
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> 1 < 2 & {{ 7*7 }} \u2028"
)
_LONG = (
    "A 54-year-old man comes to the emergency department because of chest pain that began two hours ago while he was "
    "climbing stairs. He has smoked one pack a day for thirty years. His pulse is 104/min and his blood pressure is "
    "158/94 mm Hg. Which of the following is the most appropriate next step in the management of this patient?"
)
_ASKED = (_LONG, "What is the degree of Q(sqrt(2), sqrt(3)) over Q?", HOSTILE, "Which organ makes insulin?")
_CHOICES = ("Aspirin by mouth", "the pancreas", "4, for the two roots are independent of each other", HOSTILE)


def plan(domain, protocol, n, thinking=None):
    """The planted task: n questions, some of them hostile or long."""
    choice = protocol == "choice"
    subject, source = "clinical_knowledge" if domain == "medical" else "algebra", "mmlu" if choice else "asdiv"
    questions = []
    for place in range(n):
        counted = f"There are {place} baskets of 9 apples. How many?"
        asked = _ASKED[place % len(_ASKED)] if choice or place % 4 == 2 else counted
        answer = (_CHOICES, place % 4) if choice else (None, str(9 * place))
        questions.append(Question(f"{domain}{place:05d}", domain, subject, asked, *answer, source, "MIT"))
    return TaskPlan(domain, protocol, tuple(questions), thinking)


def answers(task, label, damage, gain=0.0):
    """The planted answers of one model: a question's own difficulty is the same for all models."""
    before, lost = TASKS[task.domain, task.protocol]
    right = before - damage * lost + gain
    found = []
    for place, question in enumerate(task.questions):
        own = random.Random(f"{question.id}{task.protocol}")
        noise = random.Random(f"{question.id}{task.protocol}{task.thinking}{label}")
        correct = 0.8 * own.random() + 0.2 * noise.random() < right
        if task.thinking is None and task.protocol == "choice":
            response = question.answer if correct else (question.answer + 1 + place % 3) % 4
        else:
            response = f"So the answer is {question.answer}." if correct else f"{HOSTILE} apples"
        nll = None if task.thinking else 4 + 2 * own.random() + damage * 12 * lost + noise.gauss(0, 1)
        parsed = correct or noise.random() < 0.85
        where = (question.id, task.domain, task.protocol, question.subject, question.source)
        found.append(Sample(*where, correct, correct, nll, parsed, response, f"p{question.id}", task.thinking))
    return found


def identity(label):
    return {"model": f"models/{label}", "config_sha256": "bb" * 32, "shards": {"model.safetensors": "ac" * 32}}


def run_result(label, damage, tasks):
    """One planted model."""
    samples = []
    for task in tasks:
        gain = 0.1 * (1 - damage) if task.thinking == "slow" and task.domain == "math" else 0.0
        samples += answers(task, label, damage, gain)
    noise = random.Random(label)
    windows = tuple(ScoredWindow(500 * (3.2 + 0.7 * damage) + noise.gauss(0, 20), 500, 2300) for _ in range(64))
    harness = {"results": {task.name: {"alias": task.name} for task in tasks}}
    return RunResult(
        label=label,
        identity=identity(label),
        tasks=tuple(tasks),
        samples=tuple(samples),
        harness=harness,
        prose={"wiki": Prose(windows, "77" * 32)},
        settings=SETTINGS,
        seconds=85.2,
        tokens=58108 if label == "pruned" else 0,
        asked=1200 if label == "pruned" else 0,
        known=0 if label == "pruned" else 1200,
        truncated=2 if label == "pruned" else 0,
        notes=("batch halved to 8: out of memory",) if label == "pruned" else (),
    )


def turns(label, rounds=3):
    """The planted turns of one model: what a cut of a fifth of the layers gives, on a machine that is not quiet."""
    share = 1.0 if label == "full" else 0.8
    noise = random.Random(label)
    return [
        Turn(
            parameters=int(135e6 * share),
            weight_bytes=int(538e6 * share),
            cache_bytes=int(46080 * 160 * share),
            peak_memory_bytes=int(570e6 * share * noise.uniform(1, 1.01)),
            prefill_seconds=0.3 * share * noise.uniform(0.98, 1.02),
            decode_seconds=1.2 * share * noise.uniform(0.98, 1.02),
        )
        for _ in range(rounds)
    ]


def planted_gains(models, notes=()):
    """The gains of planted turns."""
    sizes = {"context": 128, "new_tokens": 32, "sequences": 1}
    measured = all_gains({label: turns(label) for label in models}, "full", **sizes)
    peak = "resident memory of the process, less what it held before the model"
    how = {"engine": "transformers", "device": "cpu", "peak": peak, "rounds": 3, **sizes}
    return Gains(**how, models=measured, notes=tuple(notes))


def asked_again(full, share=0.5):
    """The full model on the first questions again: one verdict of 40 flips, each NLL moves by about 0.05 bits."""
    noise, tasks, samples = random.Random("again"), [], []
    for task in full.tasks:
        few = replace(task, questions=task.questions[: int(share * len(task.questions))])
        tasks.append(few)
        for place, sample in enumerate(full.of(task)[: len(few.questions)]):
            nll = None if task.thinking else sample.answer_nll_bits + noise.gauss(0, 0.05)
            correct = sample.correct if place % 40 else not sample.correct
            samples.append(replace(sample, correct=correct, correct_raw=correct, answer_nll_bits=nll))
    prose = {name: Prose(text.windows[:16], "88" * 32) for name, text in full.prose.items()}
    more = {"tasks": tuple(tasks), "samples": tuple(samples), "prose": prose}
    return replace(full, label="full again", settings={**full.settings, "batch_size": 8}, **more)


def write_bill(
    out,
    *,
    n=500,
    models=("full", "pruned", "healed"),
    limit=0.05,
    thinking=True,
    tasks=tuple(TASKS),
    noise=False,
    gains=True,
):
    """A whole comparison folder of planted models; pruned lost much of math, healed got half of it back."""
    plans = [plan(*task, n) for task in tasks]
    if thinking:
        plans += [plan(*task, n, mode) for task in tasks for mode in ("fast", "slow")]
    runs = [run_result(label, MODELS[label], plans) for label in models]
    comparison = bill_runs(
        runs,
        None if limit is None else at_most(100 * limit),
        again=asked_again(runs[0]) if noise else None,
        gains=planted_gains(models) if gains else None,
        questions={"math.jsonl": "93c4" * 16, "medical.jsonl": "8113" * 16},
        text={"source": "heldout.jsonl", "field": "text", "sha256": "991a" * 16},
    )
    write_comparison(comparison, runs, out)
    return comparison.to_json()


def cost(domain, block, layers):
    """Bits that dropping a block costs: the first layers are dear to all questions, late ones to math."""
    late = 0.5 if domain == "math" else 0.08
    return sum(
        8.0 * math.exp(-layer / 1.3) + late * math.exp(-(((layer / layers - 0.72) / 0.2) ** 2)) + 0.04
        for layer in block
    )


def sweep_document(*, layers=30, sizes="0-15", rule="all", tasks=tuple(TASKS), n=200):
    """The document of a planted sweep, made of planted scores by the sweep's own arithmetic."""
    chosen = plan_sweep(layers, sizes=sizes, rule=rule)
    scored = []
    for domain, protocol in tasks:
        task = plan(domain, protocol, n)
        noise = np.random.default_rng([len(domain), len(protocol)])
        own = noise.uniform(3, 5, n)
        costs = np.array([cost(domain, variant.dropped, layers) for variant in chosen.variants])
        nll = own + costs[:, None] + noise.normal(0, 0.3, (len(costs), n)) * (costs[:, None] > 0)
        right = noise.uniform(0, 1, n) < 0.25 + 0.3 * np.exp(-costs)[:, None]
        verdicts = (right, right, None, right.astype(int)) if protocol == "choice" else (None, None, right, None)
        scored.append(TaskScores(task, nll, *verdicts, tuple(f"p{place}" for place in range(n))))
    passes = {"layer_passes": 140, "relative_passes": 4.7}
    record = SweepRecord(
        layers=chosen.layers,
        sizes=chosen.sizes,
        starts=chosen.starts,
        variants=chosen.records,
        tasks=tuple(
            TaskRecord(domain=t.plan.domain, protocol=t.plan.protocol, n=n, chance=t.plan.chance or None)
            for t in scored
        ),
        rows=rows(chosen, scored),
        curves=curves(chosen, scored),
        healed=healed(chosen, scored),
        maps=maps(chosen, scored),
        prose=(),
        how=WalkRecord(path="tree", why=None, **passes, requests=9, tokens=10, tokens_one_by_one=20, head_positions=9),
        settings={"batch_tokens": 1024, "dtype": "bfloat16", "device": "cpu", "seed": 0, "limit": None},
        truncated=0,
        notes=tuple(warnings(scored)),
        measured=Cost(seconds={"load": 1.0, "walk": 120.0}, peak_memory={"resident_bytes": 2_000_000_000}),
        provenance={
            "model": identity("full"),
            "questions": {"math.jsonl": "93c4" * 16},
            "versions": {"torch": "2.13.0"},
            "command": "evaluate sweep models/full --starts all --out sweep",
        },
    )
    return record.to_json()


def write_sweep_folder(out, **planted):
    """A folder with the sweep.json of a planted sweep."""
    document = sweep_document(**planted)
    out.mkdir(parents=True)
    (out / "sweep.json").write_text(json.dumps(document))
    return document
