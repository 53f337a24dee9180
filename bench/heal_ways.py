"""What each way of healing wins back, over seeds: held-out loss, and answer NLL on medical and mathematical questions.

    python bench/heal_ways.py                          # all ways, three seeds, 60k tokens; results land as they come
    python bench/heal_ways.py --tokens 200k --ways patch+distill --seeds 0

Cuts one block of the sample model and heals it with the real commands, at the same tokens, seeds and text. The text is
one source; its held-out part is one document in fifty. Every job is a process of its own, so that peaks are its own,
and leaves a file under --work: a second call runs only what is missing, and prints the table of all that is there. In
one --work all else must be the same but --seeds, --ways and --tokens. bench/heal_speed.py times the steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.shared

from bench.shared.runs import check_same, command, keep

COMMON = ("--targets", "all")
DIVERGENCE = ("--plain-loss", 0)
WAYS = {  # steps of each way: the command, the base it starts from, its own options
    "patch": (("patch",),),
    "qlora": (("qlora", *COMMON),),
    "distill": (("distill", *COMMON, *DIVERGENCE),),
    "distill, half plain": (("distill", *COMMON, "--plain-loss", 0.5),),
    "patch+qlora": (("patch",), ("qlora", *COMMON)),
    "patch+distill": (("patch",), ("distill", *COMMON, *DIVERGENCE)),
    "distill after-cut": (("distill", "--targets", "after-cut", *DIVERGENCE),),
}
QUESTIONS = {"medical": ("mmlu", "medmcqa"), "math": ("mmlu", "asdiv")}
APART = ("seeds", "ways", "tokens", "jobs", "work", "table", "score")  # what may differ in one --work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument("--data", default=".sample/questions")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--start", type=int, default=9)
    parser.add_argument("--tokens", default="60k")
    parser.add_argument("--patch-tokens", default="20k")
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--questions", type=int, default=50, help="of each domain and protocol")
    parser.add_argument("--other", help="text of another kind, to measure the loss on too (.jsonl with `text`)")
    parser.add_argument("--measured", default="8192", help="tokens of each text to measure the loss on")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/heal_ways"))
    parser.add_argument("--table", action="store_true", help="run nothing; print what is there")
    parser.add_argument("--score", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.score:
        score(asked, *asked.score)
        return
    asked.work.mkdir(parents=True, exist_ok=True)
    check_same(asked, APART)
    if not asked.table:
        cut = asked.work / "cut"
        if not cut.exists():
            command("prune", "cut", asked.model, "--n", asked.n, "--start", asked.start, "--out", cut)
        if any("patch" in way for way in asked.ways):
            job(asked, "patch", 0)  # the others start from it
        jobs = [("full", 0), ("cut", 0)] + [(way, seed) for seed in asked.seeds for way in asked.ways if way != "patch"]
        with ThreadPoolExecutor(asked.jobs) as pool:
            list(pool.map(lambda pair: job(asked, *pair), jobs))
    print(table(asked))


def job(asked, way, seed):
    """One way with one seed; writes one result file, once."""
    keep(result(asked, way, seed), lambda: measure(asked, way, seed))


def measure(asked, way, seed):
    """The commands of one way with one seed in turn, then the losses and answers of what they leave."""
    cut = asked.work / "cut"
    base, adapter, document = asked.model if way == "full" else str(cut), None, {}
    for index, (kind, *options) in enumerate(WAYS.get(way, ())):
        if kind == "patch" and (way != "patch"):
            base = str(place(asked, "patch", 0, 0))
            continue
        out = place(asked, way, seed, index)
        if not out.exists():
            command("heal", kind, base, *arguments(asked, kind, seed), *options, "--out", out)
        document = json.loads((out / "heal.json").read_text())
        base, adapter = (str(out), None) if kind == "patch" else (base, str(out))
    scored = command(Path(__file__), *sys.argv[1:], "--score", base, *([adapter] if adapter else []))
    found = {**json.loads(scored.splitlines()[-1]), "way": way, "seed": seed, "tokens": asked.tokens}
    for key in ("curve", "held_out_loss", "tokens_per_second", "peak_memory", "training_seconds"):
        found[key] = document.get(key)
    return found


def arguments(asked, kind, seed):
    teacher = () if kind == "qlora" else ("--teacher", asked.model)
    if kind == "patch":
        return (*teacher, "--text", asked.text, "--tokens", asked.patch_tokens, "--length", asked.length)
    steps = ("--length", asked.length, "--batch-size", 2, "--accumulate", 1, "--checkpointing", "off")
    curve = ("--held-out-tokens", "4k", "--eval-every", 30)
    learning = ("--rank", asked.rank, "--learning-rate", asked.rate, "--bits", asked.bits, "--seed", seed)
    return (*teacher, "--text", asked.text, "--tokens", asked.tokens, *steps, *curve, *learning)


def score(asked, base, adapter=None):
    """Held-out loss, and bits of the gold answers, of a checkpoint with or without an adapter."""
    from lm_eval.api.instance import Instance

    from eval.asking.harness import PlannedTask, Scorer, to_bits
    from eval.asking.tasks import plan_tasks
    from eval.settings import Questions
    from heal.models.held_out import mean_loss
    from heal.text.sources import TextSource, hold_out
    from prune.checkpoint.source import locate
    from prune.common.screen.terminal import progress, quiet_libraries
    from prune.common.sizes import parse_tokens
    from prune.models.loading import load_model, load_tokenizer
    from prune.models.precision import pick_dtype

    quiet_libraries()
    source = locate(base)
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=pick_dtype("fast"))
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()
    measured = parse_tokens(asked.measured)
    text = TextSource(asked.text, held_out_tokens=measured)
    found = {"held_out": mean_loss(model, hold_out(text, tokenizer, length=asked.length).rows), "answer_bits": {}}
    if asked.other:
        other = TextSource(asked.other, held_out=asked.other, held_out_tokens=measured)
        found["other"] = mean_loss(model, hold_out(other, tokenizer, length=asked.length).rows)
    with progress("scoring", None, shown=False) as bar:
        scorer = Scorer(model, tokenizer, batch_size=8, max_length=512, bar=bar)
        for domain, sets in QUESTIONS.items() if asked.questions else ():
            for plan in plan_tasks(
                Questions.of(data=asked.data, domains=[domain], limit=asked.questions, seed=0, sets=sets)
            ):
                task, asks = PlannedTask(plan), []
                for doc in task.eval_docs:
                    gold = doc["answer"] if doc["choices"] is None else doc["choices"][doc["answer"]]
                    prompt = task.fewshot_context(doc, 0, gen_prefix=task.doc_to_prefix(doc))
                    asks.append(Instance("loglikelihood", doc, (prompt, f" {gold}"), 0))
                bits = [to_bits(logprob) for logprob, _ in scorer.loglikelihood(asks)]
                found["answer_bits"][f"{domain} {plan.protocol}"] = {"mean": statistics.mean(bits), "n": len(bits)}
    print(json.dumps(found))


def table(asked):
    results = [json.loads(path.read_text()) for path in sorted(asked.work.glob(f"result-*-{asked.tokens}.json"))]
    by_way = {way: [r for r in results if r["way"] == way] for way in ("full", "cut", *WAYS)}
    if not by_way["full"] or not by_way["cut"]:
        return "nothing measured yet"
    full, cut = by_way["full"][0]["held_out"], by_way["cut"][0]["held_out"]
    kinds = list(by_way["full"][0]["answer_bits"])
    lines = [
        f"{asked.n} layers from {asked.start} on dropped; {asked.tokens} tokens, {asked.bits} bits, rank {asked.rank}, "
        f"rate {asked.rate:g}; mean (range) over seeds; answers in bits",
        "",
        f"| way | seeds | held-out loss, nats | won back | loss on other text | {' | '.join(kinds)} |",
        f"|---|---|---|---|---|{'---|' * len(kinds)}",
    ]
    for way, found in by_way.items():
        if not found:
            continue
        losses = [r["held_out"] for r in found]
        won = [(cut - loss) / (cut - full) for loss in losses]
        others = spread([r["other"] for r in found], ".3f") if all("other" in r for r in found) else ""
        bits = [statistics.mean(r["answer_bits"][kind]["mean"] for r in found) for kind in kinds]
        lines.append(
            f"| {way} | {len(found)} | {spread(losses, '.3f')} | {spread(won, '.0%')} | {others} | "
            + " | ".join(f"{value:.2f}" for value in bits)
            + " |"
        )
    return "\n".join(lines)


def spread(values, form):
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ({format(min(values), form)}-{format(max(values), form)})"


def place(asked, way, seed, index):
    name = "patch" if way == "patch" else f"{way.replace(' ', '-')}-{seed}-{asked.tokens}-{index}"
    return asked.work / name


def result(asked, way, seed):
    return asked.work / f"result-{way.replace(' ', '-')}-{seed}-{asked.tokens}.json"


if __name__ == "__main__":
    main()
