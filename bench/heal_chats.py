"""What healing on prose costs a chat model, and what chats that it wrote itself give: questions asked in chat form.

    python bench/heal_chats.py                                  # 50k tokens, one seed
    python bench/heal_chats.py --seeds 0 1 2                    # more seeds, beside the one that is there
    python bench/heal_chats.py --questions 400 --work runs/400  # more questions
    python bench/heal_chats.py --pool gsm8k-train.jsonl --work runs/gsm8k   # other questions for the chats it writes
    python bench/heal_chats.py --table                          # run nothing; print what is there

Cuts 8 layers of the sample model and heals the cut by distillation, with the real commands, at the same tokens seen: on
prose, on chats that the full model wrote, and on both in equal shares. All are judged on ASDiv and PIQA, asked through
the chat template, and on the losses on prose and on chats that were not trained on.

The questions of both sets are parted by their words' hash: one half is judged, the other half is what the full model
answers. --pool names other question files (JSON lines with `question`) for it to answer; a question whose words are
judged is left out. A finished part leaves a file under --work, so a second call runs only what is missing. In one
--work all else must be the same but --seeds, --ways, --tokens and --loss-on. Expected on two cores with nothing
beside it: some 15 minutes to write the chats (90 tokens a second on one core, of which two thirds are kept), then
some 15 minutes a healed model (healing, merging, asking), so an hour and a half for one seed. The first was timed on
one batch; the rest is an estimate.
"""

from __future__ import annotations

import argparse
import json
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

FEWEST = 5  # words of a question that the full model answers: some of PIQA's are one word
SETS = {"math": "asdiv", "commonsense": "piqa"}
WAYS = {"prose": ("prose",), "chats": ("chats",), "both": ("prose", "chats")}
APART = ("seeds", "ways", "tokens", "loss_on", "work", "table")  # what may differ in one --work: its files tell it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument(
        "--other", default=".sample/heldout.jsonl", help="prose of other articles, to measure the loss on"
    )
    parser.add_argument("--data", type=Path, default=Path(".sample/questions"))
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="question files that the full model answers")
    parser.add_argument("--questions", type=int, default=200, help="judged, of each set")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--start", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--length", type=int, default=320)
    parser.add_argument("--response-tokens", type=int, default=224, help="longer answers are left out")
    parser.add_argument("--apart", type=int, default=6, help="one chat in so many is measured, and not trained on")
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--measured", default="4k", help="tokens of each text to measure the loss on")
    parser.add_argument("--loss-on", default="answers", choices=("answers", "all"))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench/heal_chats"))
    parser.add_argument("--table", action="store_true", help="run nothing; print what is there")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    check_same(asked, APART)
    if not asked.table:
        split(asked)
        if not written(asked, "chats").exists():
            write_chats(asked)
        if not (asked.work / "cut").exists():
            cut = ("--n", asked.n, "--start", asked.start, "--out", asked.work / "cut")
            command("prune", "cut", asked.model, *cut)
        for name, model in (("full", asked.model), ("cut", asked.work / "cut")):
            keep(asked.work / f"result-{name}.json", lambda name=name, model=model: judge(asked, name, model))
        for seed in asked.seeds:
            for way in asked.ways:
                name = cell(asked, way, seed)
                keep(asked.work / f"result-{name}.json", lambda way=way, seed=seed: heal(asked, way, seed))
    print(table(asked))


def split(asked):
    """Part the questions: one half of each set is judged, what the full model answers is in asked.jsonl."""
    judged, prompts, known = asked.work / "judged", asked.work / "asked.jsonl", set()
    pool = []
    judged.mkdir(exist_ok=True)
    for domain, name in SETS.items():
        rows = [row for row in lines(asked.data / f"{domain}.jsonl") if row["source"] == name]
        ours = [row for row in rows if digest(row["question"]) % 2]
        known |= {words(row["question"]) for row in ours}
        pool += [row for row in rows if not digest(row["question"]) % 2]
        write_lines(judged / f"{domain}.jsonl", ours)
    if asked.pool:
        pool = [row for path in asked.pool for row in lines(path)]
    pool = [row for row in pool if words(row["question"]) not in known and len(row["question"].split()) >= FEWEST]
    questions = dict.fromkeys(row["question"].strip() for row in pool)
    write_lines(prompts, ({"messages": [{"role": "user", "content": question}]} for question in questions))


def write_chats(asked):
    """Let the full model answer, as `heal distill --teacher-data self` does; some of the chats are kept apart."""
    from heal.models.quantise import load_frozen
    from heal.text.responses import read_prompts, write_responses
    from heal.text.sources import HeldOut, TextSource
    from prune.checkpoint.source import locate
    from prune.common.screen.terminal import progress, quiet_libraries
    from prune.models.loading import load_tokenizer
    from prune.writing.writers import transformers_writer

    quiet_libraries()
    source = locate(asked.model)
    tokenizer, path, nothing = load_tokenizer(source), written(asked, "written"), HeldOut((), frozenset())
    text = TextSource(asked.text)
    prompts = read_prompts(tokenizer, text, str(asked.work / "asked.jsonl"), nothing, seed=0, longest=asked.length)
    wanted = asked.tokens * asked.apart // (asked.apart - 1) + 4 * asked.length
    if not path.exists():
        with progress("Writing chats (tokens)", wanted) as bar:
            model = load_frozen(source, bits=16, device="cpu")
            how = {"tokens": wanted, "response_tokens": asked.response_tokens, "seed": 0, "advance": bar.advance}
            write_responses(transformers_writer(model, tokenizer), tokenizer, prompts, path, **how)
    rows = list(lines(path))
    write_lines(written(asked, "apart"), rows[:: asked.apart])
    write_lines(written(asked, "chats"), (row for index, row in enumerate(rows) if index % asked.apart))


def heal(asked, way, seed):
    """Train, merge and judge one model."""
    name = cell(asked, way, seed)
    adapter, healed = asked.work / name, asked.work / f"{name}-healed"
    if not adapter.exists():
        sources = {"prose": asked.text, "chats": written(asked, "chats")}
        texts = [part for kind in WAYS[way] for part in ("--text", sources[kind])]
        mix = ("--mix", "0.5,0.5") if len(WAYS[way]) > 1 else ()
        held = ("--held-out", asked.other, "--domain-text", f"chats={written(asked, 'apart')}")
        reading = (*texts, *mix, *held, "--held-out-tokens", asked.measured, "--loss-on", asked.loss_on)
        how = ("--tokens", asked.tokens, "--length", asked.length, "--bits", asked.bits, "--seed", seed)
        cheap = ("--checkpointing", "off", "--eval-every", 10**6, "--resume", "--out", adapter)
        command("heal", "distill", asked.work / "cut", "--teacher", asked.model, *reading, *how, *cheap)
    if not healed.exists():
        command("heal", "merge", adapter, "--no-compare-logits", "--out", healed)
    record = json.loads((adapter / "heal.json").read_text())
    last = record["curve"][-1]
    facts = {"tokens": record["tokens"], "loss_tokens": record["loss_tokens"], "ended": record["ended"]["by"]}
    losses = {"prose": last["held_out_loss"], "chats": last["texts"]["chats"]}
    first = record["curve"][0]
    before = {"prose": first["held_out_loss"], "chats": first["texts"]["chats"]}
    return {**judge(asked, name, healed), **facts, "losses": losses, "cut_losses": before}


def judge(asked, name, model):
    """The answers to the judged questions, each by its id: bits of the gold answer, and whether it was right."""
    out = asked.work / f"asked-{name}"
    if not out.exists():
        which = ("--data", asked.work / "judged", "--domains", ",".join(SETS), "--limit", asked.questions)
        command("evaluate", "run", model, *which, "--chat-template", "on", "--out", out)
    return {"answers": answers_in(out)}


def table(asked):
    found = {
        path.stem.removeprefix("result-"): json.loads(path.read_text()) for path in asked.work.glob("result-*.json")
    }
    if not {"full", "cut"} <= found.keys():
        return "nothing measured yet"
    tasks = list(found["full"]["answers"])
    rows = [("full", [found["full"]]), ("cut", [found["cut"]])]
    seeds = {way: [found.get(cell(asked, way, seed)) for seed in asked.seeds] for way in WAYS}
    rows += [(way, [each for each in runs if each]) for way, runs in seeds.items()]
    counts = ", ".join(f"{task}: {len(found['full']['answers'][task])}" for task in tasks)
    out = [
        f"{asked.n} layers from {asked.start} on dropped; {asked.tokens} tokens seen, loss on {asked.loss_on}; "
        f"questions in chat form ({counts}): bits of the gold answer, in brackets the share right; losses in nats",
        "",
        "| healed on | seeds | tokens that bore loss | loss on prose | loss on chats | " + " | ".join(tasks) + " |",
        "|---" * (5 + len(tasks)) + "|",
    ]
    healed = [each for each in found.values() if "losses" in each]
    for name, runs in rows:
        if not runs:
            continue
        trained = [each for each in runs if "losses" in each]
        losses = [each["losses"] for each in trained] or [each["cut_losses"] for each in healed if name == "cut"][:1]
        cells = [name, str(len(runs))]
        cells.append(f"{mean(each['loss_tokens'] for each in trained):,.0f}" if trained else "")
        cells += [f"{mean(each[kind] for each in losses):.3f}" if losses else "" for kind in ("prose", "chats")]
        for task in tasks:
            bits, right = (
                [mean(pair[which] for pair in each["answers"][task].values()) for each in runs] for which in (0, 1)
            )
            cells.append(f"{mean(bits):.2f} ({mean(right):.1%})")
        out.append("| " + " | ".join(cells) + " |")
    for other, base in (("chats", "prose"), ("both", "prose"), ("both", "chats")):
        pairs = [(one, two) for one, two in zip(seeds[other], seeds[base], strict=True) if one and two]
        if pairs:
            out += ["", f"{other} less {base}, paired by question, 95 % interval:"]
            out += [f"- {task}: {difference(pairs, task)}" for task in tasks]
    return "\n".join(out)


def cell(asked, way, seed):
    on = "" if asked.loss_on == "answers" else f"-{asked.loss_on}"
    return f"{way}-{asked.tokens}{on}-seed{seed}"


def written(asked, kind):
    """Chats of this budget: all that were `written`, those `apart` that are measured, and the `chats` to train on."""
    return asked.work / f"{kind}-{asked.tokens}-{asked.length}-{asked.response_tokens}.jsonl"


if __name__ == "__main__":
    main()
