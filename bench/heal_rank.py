"""Whether text chosen by `heal rank` heals a domain better than other text does, at the same number of tokens.

    python bench/heal_rank.py --data DIR --only-pool            # build the pool and the questions, and stop
    python bench/heal_rank.py --data DIR                        # 20k tokens, one seed
    python bench/heal_rank.py --data DIR --seeds 0 1 2          # more seeds, beside the one that is there
    python bench/heal_rank.py --data DIR --ways random gradient # some of the ways
    python bench/heal_rank.py --data DIR --table                # run nothing; print what is there

DIR holds originals: gsm8k/{train,test}.jsonl, medmcqa/dev.json, pubmedqa/ori_pqal.json, text/c4_demo.jsonl and
text/wiki_vital_leads_en.jsonl.

The pool has equal shares of tokens of five sources: leads of Wikipedia, pages of C4, GSM8K's worked solutions (train),
MedMCQA's explanations and PubMedQA's abstracts. Of each document the first --length tokens are there. Questions are
parted by their words' hash into those that are judged, those that rank the documents, and those whose explanations and
abstracts are in the pool.

Cuts 8 layers of the sample model and heals the cut with `heal qlora`, for each domain on as many tokens of the pool:
drawn at random; the highest by gradient, by EK-FAC (where dattri-llm is installed) or by BM25, as `heal rank` gives
them for the questions of the domain that rank; and drawn at random from the sources of the domain (topic).

Judged is the answer NLL of questions that ranked nothing: by default of the right answer alone, as `heal rank` asks it,
which for mathematics is the worked solution; with --judge evaluate as `evaluate run` asks it, which takes some four
times as long. A finished part leaves a file under --work, so a second call runs only what is missing. In one --work all
else must be the same but --seeds, --ways and --tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.shared

from bench.shared.rank_pool import ORIGINALS, PARTS, build, cutter
from bench.shared.runs import check_same, command, keep, lines, mean, paired, write_lines
from prune.common.errors import UsageError
from prune.common.sizes import parse_tokens

DOMAINS = {"medical": ("medmcqa", "pubmedqa"), "math": ("gsm8k",)}  # and the sources that are about them
WAYS = ("random", "gradient", "ek-fac", "bm25", "topic")
SCORED = ("gradient", "ek-fac", "bm25")
APART = ("seeds", "ways", "tokens", "work", "table", "only_pool")  # what may differ in one --work: its files tell it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of originals")
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--other", default=".sample/heldout.jsonl", help="prose to measure the loss on")
    parser.add_argument("--pool-tokens", default="200k", help="of all sources together, as 200k")
    parser.add_argument("--questions", type=int, default=100, help="judged, of each domain")
    parser.add_argument("--ranking", type=int, default=40, help="questions of each domain that rank the documents")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--start", type=int, default=9)
    parser.add_argument("--tokens", default="20k", help="to heal on, as 20k")
    parser.add_argument("--length", type=int, default=320)
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--warm-up", default="16k", help="tokens of the pool that the adapter is trained on first")
    parser.add_argument("--measured", default="4k", help="tokens of --other to measure the loss on")
    parser.add_argument("--chat-template", default="off", choices=("on", "off"), help="how questions are asked")
    parser.add_argument("--dtype", default="float32", help="in which questions are judged: float32, auto or fast")
    parser.add_argument("--judge", default="nll", choices=("nll", "evaluate"))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench/heal_rank"))
    parser.add_argument("--only-pool", action="store_true", help="stop when the pool and the questions are there")
    parser.add_argument("--table", action="store_true", help="run nothing; print what is there")
    asked = parser.parse_args()
    try:
        asked.tokens = parse_tokens(asked.tokens)
        asked.pool_tokens = parse_tokens(asked.pool_tokens, option="--pool-tokens")
    except UsageError as error:
        parser.error(str(error))
    asked.work.mkdir(parents=True, exist_ok=True)
    check_same(asked, APART)
    if not asked.table:
        if not (asked.work / "pool.jsonl").exists():
            build(asked, cutter(asked.model, asked.length))
        if asked.only_pool:
            print(pool_table(asked))
            return
        for part in ("judged", "ranking"):
            if not (asked.work / part).exists():
                prepare(asked, part)
        measure(asked)
    print(table(asked))


def measure(asked):
    """Cut, then choose, heal and judge in every way and with every seed, as far as it is not there."""
    cut = asked.work / "cut"
    if not cut.exists():
        command("prune", "cut", asked.model, "--n", asked.n, "--start", asked.start, "--out", cut)
    for name, model in (("full", asked.model), ("cut", cut)):
        keep(result(asked, name), lambda name=name, model=model: judge(asked, name, model))
    if "ek-fac" in asked.ways and find_spec("dattri_llm") is None:
        print("ek-fac is left out: dattri-llm is not installed", file=sys.stderr)
        asked.ways = [way for way in asked.ways if way != "ek-fac"]
    if missing := [way for way in asked.ways if way in SCORED and not scores_path(asked, way).exists()]:
        rank(asked, missing)
    for seed in asked.seeds:
        for way in asked.ways:
            for domain in domains_of(way):
                name = cell(asked, way, domain, seed)
                keep(
                    result(asked, name),
                    lambda name=name, way=way, domain=domain, seed=seed: heal(asked, name, way, domain, seed),
                )


def prepare(asked, part):
    """Question files from the originals of a part."""
    froms = [word for name in PARTS for word in ("--from", asked.work / f"originals-{part}" / ORIGINALS[name])]
    command("eval", "prepare", "--data", asked.work / part, *froms, "--domains", ",".join(DOMAINS))


def rank(asked, ways):
    """Let `heal rank` score the pool by these ways: {domain: [D]} of each in a file."""
    pool, out = asked.work / "pool.jsonl", asked.work / f"rank-{'-'.join(ways)}.json"
    texts = [row["text"] for row in lines(pool)]
    if not out.exists():
        what = ("--text", pool, "--documents", len(texts), "--length", asked.length, "--methods", ",".join(ways))
        by = ("--data", asked.work / "ranking", "--domains", ",".join(DOMAINS), "--questions", asked.ranking)
        how = ("--chat-template", asked.chat_template, "--warm-up", asked.warm_up, "--bits", asked.bits)
        command("heal", "rank", asked.work / "cut", *what, *by, *how, "--resume", "--out", out)
    ranking = json.loads(out.read_text())
    places = {row["sha256"]: number for number, row in enumerate(ranking["documents"])}
    order = [places.get(hashlib.sha256(text.encode()).hexdigest()) for text in texts]
    for method in ranking["methods"]:
        found = {
            one["domain"]: [None if place is None else one["scores"][place] for place in order]
            for one in method["domains"]
        }
        scores_path(asked, method["method"]).write_text(json.dumps(found))


def choose(asked, way, domain, seed):
    """The documents to heal on, in the order of the pool: as many as hold --tokens."""
    pool = list(lines(asked.work / "pool.jsonl"))
    draw = random.Random(f"{way} {domain} {seed}")
    if way in SCORED:
        of = json.loads(scores_path(asked, way).read_text())[domain]
        order = sorted((i for i in range(len(pool)) if of[i] is not None), key=lambda number: -of[number])
    else:
        order = [i for i, row in enumerate(pool) if way == "random" or row["source"] in DOMAINS[domain]]
        draw.shuffle(order)
    chosen, filled = [], 0
    for number in order:
        if filled < asked.tokens:
            chosen.append(number)
            filled += pool[number]["tokens"]
    if filled < asked.tokens:
        raise SystemExit(f"{way} finds {filled} tokens for {domain}; give fewer --tokens or more --pool-tokens")
    return [pool[number] for number in sorted(chosen)]


def heal(asked, name, way, domain, seed):
    """Train on what was chosen, merge and judge one model."""
    adapter, healed, text = asked.work / name, asked.work / f"{name}-healed", asked.work / f"{name}.jsonl"
    chosen = choose(asked, way, domain, seed)
    if not adapter.exists():
        write_lines(text, chosen)
        reading = ("--text", text, "--held-out", asked.other, "--held-out-tokens", asked.measured)
        how = ("--tokens", asked.tokens, "--length", asked.length, "--bits", asked.bits, "--seed", seed)
        cheap = ("--checkpointing", "off", "--eval-every", 10**6, "--resume", "--out", adapter)
        command("heal", "qlora", asked.work / "cut", *reading, *how, *cheap)
    if not healed.exists():
        command("heal", "merge", adapter, "--no-compare-logits", "--out", healed)
    record = json.loads((adapter / "heal.json").read_text())
    counts = {}
    for row in chosen:
        counts[row["source"]] = counts.get(row["source"], 0) + row["tokens"]
    facts = {"tokens": record["tokens"], "loss": record["curve"][-1]["held_out_loss"], "sources": counts}
    found = {**judge(asked, name, healed), **facts, "cut_loss": record["curve"][0]["held_out_loss"]}
    shutil.rmtree(healed)  # some hundred MB each; the adapter stays
    return found


def judge(asked, name, model):
    """The bits of the gold answer to each judged question, by domain and id."""
    answers = {}
    if asked.judge == "nll":
        return {"answers": nll(asked, model)}
    out = asked.work / f"asked-{name}"
    if not out.exists():
        which = ("--data", asked.work / "judged", "--domains", ",".join(DOMAINS), "--limit", asked.questions)
        command("eval", "run", model, *which, "--chat-template", asked.chat_template, "--out", out)
    for path in sorted(out.glob("samples_*.jsonl")):
        for row in lines(path):
            answers.setdefault(row["domain"], {})[row["id"]] = row["answer_nll_bits"]
    return {"answers": answers}


def nll(asked, model):
    """The same of the right answers alone, in the words of `heal rank`."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars
    from eval.questions.schema import draw, read_questions
    from heal.models.held_out import summed_loss
    from heal.ranking.queries import ask, encode_query
    from prune.checkpoint.source import locate
    from prune.common.screen.terminal import quiet_libraries
    from prune.models.loading import load_model, load_tokenizer, pick_device
    from prune.models.precision import pick_dtype

    quiet_libraries()
    source, device = locate(model), pick_device("auto")
    tokenizer = load_tokenizer(source)
    loaded = load_model(source, dtype=pick_dtype(asked.dtype, device=device), device=device)
    drawn = {
        domain: draw(read_questions(asked.work / "judged" / f"{domain}.jsonl"), limit=asked.questions, seed="judged")
        for domain in DOMAINS
    }
    answers = {}
    for each in ask(drawn, tokenizer, chat_template=asked.chat_template):
        bits = summed_loss(loaded, [encode_query(tokenizer, each.query)]) / math.log(2)
        answers.setdefault(each.query.domain, {})[each.question.id] = bits
    return answers


def table(asked):
    """One row of each way and domain that text was chosen for, in Markdown."""
    found = {
        path.stem.removeprefix("result-"): json.loads(path.read_text()) for path in asked.work.glob("result-*.json")
    }
    if asked.table:
        asked.seeds = sorted({int(name.rpartition("seed")[2]) for name in found if f"-{asked.tokens}-seed" in name})
    if not {"full", "cut"} <= found.keys():
        return "nothing measured yet"
    counts = ", ".join(f"{domain}: {len(found['full']['answers'][domain])}" for domain in DOMAINS)
    heads = [head for domain in DOMAINS for head in (domain, "less random")]
    out = [
        f"{asked.n} layers from {asked.start} on dropped; healed on {asked.tokens} tokens of a pool of "
        f"{asked.pool_tokens}; bits of the gold answer ({counts}), and the difference to text drawn at random, paired "
        "by question and seed, with its 95 % interval; loss on other prose in nats",
        "",
        "| healed on | chosen for | seeds | loss on prose | " + " | ".join(heads) + " |",
        "|---" * (4 + len(heads)) + "|",
    ]
    healed = [each for each in found.values() if "loss" in each]
    base = {seed: found.get(cell(asked, "random", None, seed)) for seed in asked.seeds}
    rows = [("full", None, {0: found["full"]}), ("cut", None, {0: found["cut"]})]
    rows += [
        (way, domain, {seed: found.get(cell(asked, way, domain, seed)) for seed in asked.seeds})
        for way in WAYS
        for domain in domains_of(way)
    ]
    for way, target, runs in rows:
        runs = {seed: run for seed, run in runs.items() if run}
        if not runs:
            continue
        losses = [run["loss"] for run in runs.values() if "loss" in run]
        losses = losses or [run["cut_loss"] for run in healed if way == "cut"][:1]
        cells = [way, target or "", str(len(runs)), f"{mean(losses):.3f}" if losses else ""]
        for domain in DOMAINS:
            cells.append(f"{mean(mean(run['answers'][domain].values()) for run in runs.values()):.2f}")
            pairs = [(run, base[seed]) for seed, run in runs.items() if way in WAYS[1:] and base[seed]]
            cells.append(difference(pairs, domain) if pairs else "")
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def difference(pairs, domain):
    """In bits: the mean over seeds and questions, with its interval."""
    found = paired(pairs, domain, float)
    return f"{found.estimate:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def pool_table(asked):
    rows = {}
    for row in lines(asked.work / "pool.jsonl"):
        counts = rows.setdefault(row["source"], [0, 0])
        counts[0] += 1
        counts[1] += row["tokens"]
    head = ["| source | documents | tokens |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {name} | {number} | {tokens} |" for name, (number, tokens) in rows.items())])


def domains_of(way):
    """What text is chosen for in a way: for each domain, or once for all."""
    return (None,) if way == "random" else tuple(DOMAINS)


def cell(asked, way, domain, seed):
    return "-".join([way, *([domain] if domain else []), str(asked.tokens), f"seed{seed}"])


def result(asked, name):
    return asked.work / f"result-{name}.json"


def scores_path(asked, way):
    return asked.work / f"scores-{way}.json"


if __name__ == "__main__":
    main()
