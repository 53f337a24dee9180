"""What text that a model wrote itself gives, against prose: the block that is chosen, and the cut that is healed.

    python bench/write.py                     # one seed
    python bench/write.py --seeds 0 1         # another seed, beside the one that is there
    python bench/write.py --table             # run nothing; print what is there

For each seed the sample model answers questions of mathematics and medicine, half of them by a chain of thought, and as
many tokens of prose are drawn. On each of the two texts, with the real commands: a scan, the choice of a block of 4, 6
and 8 layers, checked on the same text; then the block of --n is cut, patched and distilled. All are judged on the
same questions and on the loss of other prose. Where the two texts choose other blocks, both cuts are judged unhealed.

The questions are parted by their words' hash: one half is judged, of the other half the prompts are taken. A finished
part leaves a file under --work, so a second call runs only what is missing. In one --work all else must be the same but
--seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.shared

from bench.shared.runs import (
    answers_in,
    check_same,
    command,
    difference,
    digest,
    keep,
    lines,
    mean,
    words,
    write_lines,
)

DOMAINS = {"math": ("mmlu", "asdiv"), "medical": ("mmlu", "medmcqa")}
TEXTS = ("prose", "own")
APART = ("seeds", "work", "table")
MOST = 60  # words of a question that is a prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument("--other", default=".sample/heldout.jsonl", help="prose to measure the loss on")
    parser.add_argument("--data", type=Path, default=Path(".sample/questions"))
    parser.add_argument("--questions", type=int, default=150, help="judged, of each domain and protocol")
    parser.add_argument("--own", type=int, default=26_000, help="tokens of each text")
    parser.add_argument("--answer-tokens", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=64, help="prompts that are answered at a time")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--check-tokens", type=int, default=4096)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--n", type=int, default=6, help="the size that is healed")
    parser.add_argument("--patch-tokens", type=int, default=8000)
    parser.add_argument("--tokens", type=int, default=22_000, help="to distil on")
    parser.add_argument("--measured", type=int, default=4000, help="tokens of prose to measure the loss on")
    parser.add_argument("--dtype", default="fast")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench/write"))
    parser.add_argument("--table", action="store_true", help="run nothing; print what is there")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    check_same(asked, APART)
    if not asked.table:
        split(asked)
        for seed in asked.seeds:
            write(asked, seed)
            prose(asked, seed)
            for text in TEXTS:
                keep(result(asked, "chosen", text, seed), lambda text=text, seed=seed: choose(asked, text, seed))
        for seed in asked.seeds:
            for text in TEXTS:
                keep(result(asked, "healed", text, seed), lambda text=text, seed=seed: heal(asked, text, seed))
        keep(asked.work / "result-full.json", lambda: judge(asked, "full", asked.model))
        for size, start in sorted({block for seed in asked.seeds for block in apart(asked, seed)}):
            name = f"bare-{size}-{start}"
            keep(asked.work / f"result-{name}.json", lambda name=name, at=(size, start): bare(asked, name, *at))
    print(table(asked))


def split(asked):
    """Part the questions by their words: those judged, and those that the model answers."""
    judged, prompts = asked.work / "judged", asked.work / "asked"
    known: set[str] = set()
    pools = {}
    for folder in (judged, prompts):
        folder.mkdir(exist_ok=True)
    for domain, sets in DOMAINS.items():
        rows = [row for row in lines(asked.data / f"{domain}.jsonl") if row["source"] in sets]
        ours = [row for row in rows if digest(row["question"]) % 2]
        known |= {words(row["question"]) for row in ours}
        write_lines(judged / f"{domain}.jsonl", ours)
        pools[domain] = [row for row in rows if not digest(row["question"]) % 2]
    for domain, pool in pools.items():
        fit = [row for row in pool if words(row["question"]) not in known and len(row["question"].split()) <= MOST]
        write_lines(prompts / f"{domain}.jsonl", fit)


def write(asked, seed):
    out = text_file(asked, "own", seed)
    if not out.exists():
        prompts = [part for domain in DOMAINS for part in ("--prompts", asked.work / "asked" / f"{domain}.jsonl")]
        how = ("--tokens", asked.own, "--answer-tokens", asked.answer_tokens, "--seed", seed, "--dtype", asked.dtype)
        how = (*how, "--batch-size", asked.batch_size, "--resume", "--json", "--out", out)
        (asked.work / f"written-{seed}.json").write_text(command("prune", "write", asked.model, *prompts, *how))


def prose(asked, seed):
    """As many tokens of the prose as the model wrote, whole documents in an order that follows from the seed."""
    out = text_file(asked, "prose", seed)
    if out.exists():
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked.model)

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    wanted = sum(count(row["text"]) for row in lines(text_file(asked, "own", seed)))
    rows = list(lines(asked.text))
    random.Random(seed).shuffle(rows)
    taken, total = [], 0
    for row in rows:
        if total >= wanted:
            break
        taken.append(row)
        total += count(row["text"])
    write_lines(out, taken)


def choose(asked, text, seed):
    """The block of each size: by the scan alone, and after the check, each with its KL to the full model."""
    scan, source = asked.work / f"scan-{text}-{seed}.json", text_file(asked, text, seed)
    if not scan.exists():
        how = ("--samples", asked.samples, "--length", asked.length, "--dtype", asked.dtype, "--seed", seed)
        command("prune", "scan", asked.model, "--text", source, *how, "--out", scan)
    blocks = {}
    for size in asked.sizes:
        check = ("--check", 4, "--check-tokens", asked.check_tokens, "--dry-run", "--json")
        plan = json.loads(command("prune", "cut", asked.model, "--n", size, "--scan", scan, "--text", source, *check))
        found = plan["evidence"]["check"]
        finalists = {str(each["dropped"][0]): each["kl"] for each in found["finalists"]}
        blocks[str(size)] = {"scan": found["own"][0], "check": found["chosen"][0], "kl": finalists}
    return blocks


def apart(asked, seed):
    """The blocks (size, start) of the sizes for which the two texts choose differently; the prose's first."""
    chosen = [json.loads(result(asked, "chosen", text, seed).read_text()) for text in TEXTS]
    pairs = [(size, *(blocks[str(size)]["check"] for blocks in chosen)) for size in asked.sizes]
    return [(size, start) for size, *starts in pairs if len(set(starts)) > 1 for start in starts]


def bare(asked, name, size, start):
    """A cut as it is, judged."""
    if not (cut := asked.work / name).exists():
        command("prune", "cut", asked.model, "--n", size, "--start", start, "--out", cut)
    return judge(asked, name, cut)


def heal(asked, text, seed):
    """Cut the block that this text chose, patch and distil on it, and judge."""
    start = json.loads(result(asked, "chosen", text, seed).read_text())[str(asked.n)]["check"]
    name, source = f"{text}-{seed}", text_file(asked, text, seed)
    cut, patched, adapter, healed = (asked.work / f"{kind}-{name}" for kind in ("cut", "patched", "adapter", "healed"))
    held = ("--held-out", asked.other, "--held-out-tokens", asked.measured)
    if not cut.exists():
        command("prune", "cut", asked.model, "--n", asked.n, "--start", start, "--out", cut)
    if not patched.exists():
        how = ("--tokens", asked.patch_tokens, "--objective", "capped", "--kind", "matrix", "--length", asked.length)
        how = (*how, "--batch-size", 8, "--dtype", asked.dtype, "--seed", seed, "--out", patched)
        command("heal", "patch", cut, "--teacher", asked.model, "--text", source, *held, *how)
    if not adapter.exists():
        how = ("--tokens", asked.tokens, "--bits", 16, "--rank", 32, "--learning-rate", 2e-3, "--length", asked.length)
        how = (*how, "--batch-size", 4, "--accumulate", 1, "--dropout", 0, "--checkpointing", "off", "--seed", seed)
        how = (*how, "--eval-every", 10**6, "--resume", "--out", adapter)
        command("heal", "distill", patched, "--teacher", asked.model, "--text", source, *held, *how)
    if not healed.exists():
        command("heal", "merge", adapter, "--model", patched, "--no-compare-logits", "--out", healed)
    curve = json.loads((adapter / "heal.json").read_text())["curve"]
    losses = {"patched": curve[0]["held_out_loss"], "healed": curve[-1]["held_out_loss"]}
    return {"start": start, "prose": losses, **judge(asked, name, healed)}


def judge(asked, name, model):
    out = asked.work / f"asked-{name}"
    if not out.exists():
        which = ("--data", asked.work / "judged", "--domains", ",".join(DOMAINS), "--limit", asked.questions)
        how = ("--chat-template", "off", "--dtype", asked.dtype, "--batch-size", 16, "--out", out)
        command("evaluate", "run", model, *which, *how)
    return {"answers": answers_in(out, "domain")}


def table(asked):
    found = {path.stem.removeprefix("result-"): json.loads(path.read_text()) for path in asked.work.glob("result-*")}
    out = ["| seed | text | " + " | ".join(f"n = {size}: scan, check (KL)" for size in asked.sizes) + " |"]
    out.append("|---" * (2 + len(asked.sizes)) + "|")
    for seed in asked.seeds:
        for text in TEXTS:
            if blocks := found.get(f"chosen-{text}-{seed}"):
                cells = [str(seed), text]
                for size in map(str, asked.sizes):
                    block = blocks[size]
                    cells.append(f"{block['scan']}, {block['check']} ({block['kl'][str(block['check'])]:.3f})")
                out.append("| " + " | ".join(cells) + " |")
    healed = {text: [found.get(f"healed-{text}-{seed}") for seed in asked.seeds] for text in TEXTS}
    done = [each for text in TEXTS for each in healed[text] if each]
    if not done:
        return "\n".join(out)
    tasks = list(done[0]["answers"])
    out += ["", "| healed on | seeds | loss on prose: patched, healed | " + " | ".join(tasks) + " |"]
    out.append("|---" * (3 + len(tasks)) + "|")
    rows = [(text, [each for each in healed[text] if each]) for text in TEXTS]
    for name, runs in (("full", [found[name] for name in ("full",) if name in found]), *rows):
        if runs:
            losses = [each["prose"] for each in runs if "prose" in each]
            cells = [name, str(len(runs))]
            both = [f"{mean(loss[kind] for loss in losses):.3f}" for kind in ("patched", "healed") if losses]
            cells.append(", ".join(both))
            for task in tasks:
                bits, right = (
                    [mean(pair[which] for pair in each["answers"][task].values()) for each in runs] for which in (0, 1)
                )
                cells.append(f"{mean(bits):.2f} ({mean(right):.1%})")
            out.append("| " + " | ".join(cells) + " |")
    pairs = [(own, prose) for own, prose in zip(healed["own"], healed["prose"], strict=True) if own and prose]
    if pairs:
        out += ["", "own less prose, healed, paired by question, 95 % interval:"]
        out += [f"- {task}: {difference(pairs, task)}" for task in tasks]
    for seed in asked.seeds:
        blocks = apart(asked, seed) if all(result(asked, "chosen", text, seed).exists() for text in TEXTS) else []
        for (size, prose_start), (_, own_start) in zip(blocks[::2], blocks[1::2], strict=True):
            two = [found.get(f"bare-{size}-{start}") for start in (own_start, prose_start)]
            if all(two):
                out += [
                    "",
                    f"own's block less prose's, n = {size} at {own_start} and {prose_start}, seed {seed}, unhealed:",
                ]
                out += [f"- {task}: {difference([tuple(two)], task)}" for task in tasks]
    return "\n".join(out)


def text_file(asked, text, seed):
    return asked.work / f"{text}-{seed}.jsonl"


def result(asked, kind, text, seed):
    return asked.work / f"result-{kind}-{text}-{seed}.json"


if __name__ == "__main__":
    main()
