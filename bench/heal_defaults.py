"""Which steps, rate and projections heal best at a token budget, and whether the defaults do: measured cell by cell.

    python bench/heal_defaults.py                                    # the grid at 50k tokens
    python bench/heal_defaults.py --tokens 200k --cells defaults     # the defaults alone, at another budget
    python bench/heal_defaults.py --cells distill-2x256-1e-3-all     # one cell
    python bench/heal_defaults.py --other wiki.jsonl --questions 50  # judged on text of another source, and on answers

Cuts 8 layers of the sample model and heals the cut in 4 bits with the real commands. Every healed model is merged with
the default base. A cell is WAY-ROWSxLENGTH-RATE-TARGETS. WAY is qlora, distill or patch+distill. WAY-default gives no
option but --tokens. A finished cell leaves a file under --work, so a second call runs only what is missing, and prints
the table of all that is there. In one --work all else must be the same but --tokens and --cells. On two new cores a
cell of 50k tokens takes about ten minutes; --tokens 1M takes hours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.shared

from bench.shared.runs import check_same, command, keep

WAYS = ("qlora", "distill", "patch+distill")
DEFAULTS = tuple(f"{way}-default" for way in WAYS)
GRID = (  # steps, then rate, then projections are varied around the middle; the last is what was the default
    "patch+distill-1x256-1e-3-all",
    "patch+distill-2x256-1e-3-all",
    "patch+distill-4x256-1e-3-all",
    "patch+distill-1x256-3e-4-all",
    "patch+distill-1x256-2e-3-all",
    "patch+distill-1x512-1e-3-all",
    "patch+distill-1x256-1e-3-feed-forward",
    "patch+distill-16x512-3e-4-feed-forward",
    "qlora-1x256-1e-3-all",
    "distill-1x256-1e-3-all",
)
CELLS = {"grid": GRID, "defaults": DEFAULTS}
APART = ("tokens", "cells", "work", "table")  # what may differ in one --work: its files tell it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument("--other", default=".sample/heldout.jsonl", help="text of another source, to judge on")
    parser.add_argument("--data", default=".sample/questions")
    parser.add_argument("--questions", type=int, default=25, help="of each domain and protocol; 0: none")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--start", type=int, default=9)
    parser.add_argument("--tokens", default="50k")
    parser.add_argument("--measured", default="4k", help="tokens of each text to judge on")
    parser.add_argument("--patch-options", default="--tokens 8k --objective capped --kind matrix", help="of heal patch")
    parser.add_argument("--cells", nargs="+", default=["grid"], help="names of cells, grid, or defaults")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/heal_defaults"))
    parser.add_argument("--table", action="store_true", help="run nothing; print what is there")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    cells = [cell for name in asked.cells for cell in CELLS.get(name, (name,))]
    for cell in cells:
        options_of(cell)
    check_same(asked, APART)
    if not asked.table:
        for name in ("full", "cut", "patch"):
            reference(asked, name)
        for cell in cells:
            heal(asked, cell)
    print(table(asked))


def options_of(cell: str) -> tuple[str, list[str]]:
    """A cell's way, and the options that its name stands for."""
    way, _, rest = cell.partition("-")
    if way not in WAYS:
        raise SystemExit(f"--cells {cell}: use {', '.join(CELLS)}, or a name that begins with {', '.join(WAYS)}")
    if rest == "default":
        return way, []
    try:
        shape, *rate, targets = rest.replace("feed-forward", "feed_forward").replace("e-", "e_").split("-")
        rows, length = map(int, shape.split("x"))
        peak = float(rate[0].replace("e_", "e-"))
    except (ValueError, IndexError):
        raise SystemExit(f"--cells {cell} is not WAY-ROWSxLENGTH-RATE-TARGETS, such as {GRID[0]}") from None
    batch = max(1, min(rows, 1024 // length))
    options = ["--length", length, "--batch-size", batch, "--accumulate", rows // batch, "--learning-rate", peak]
    return way, [str(one) for one in (*options, "--targets", targets.replace("_", "-"))]


def reference(asked, name):
    """The full model, the cut, and the patched cut: what the cells are compared with."""
    place = Path(asked.model) if name == "full" else asked.work / name
    if name == "cut" and not place.exists():
        command("prune", "cut", asked.model, "--n", asked.n, "--start", asked.start, "--out", place)
    if name == "patch" and not place.exists():
        options = ("--teacher", asked.model, "--text", asked.text, *asked.patch_options.split())
        command("heal", "patch", asked.work / "cut", *options, "--out", place)
    keep(asked.work / f"{name}.json", lambda: score(asked, place))


def heal(asked, cell):
    """Train, merge with the default base, and judge one cell."""
    way, options = options_of(cell)
    kind, base = way.rpartition("+")[2], asked.work / ("patch" if "+" in way else "cut")
    adapter = asked.work / f"{cell}-{asked.tokens}"

    def run():
        if not adapter.exists():
            teacher = () if kind == "qlora" else ("--teacher", asked.model)
            # neither changes what is learnt: memory there is enough, and the curve is not asked for
            cheap = ("--checkpointing", "off", "--held-out-tokens", asked.measured, "--eval-every", 10**6)
            reading = ("--text", asked.text, "--tokens", asked.tokens, "--resume")
            command("heal", kind, base, *teacher, *reading, *cheap, *options, "--out", adapter)
        healed = asked.work / f"{cell}-{asked.tokens}-healed"
        if not healed.exists():
            command("heal", "merge", adapter, "--no-compare-logits", "--out", healed)
        document = json.loads((healed / "heal.json").read_text())
        steps = {name: document["settings"][name] for name in ("steps", "tokens_per_step", "learning_rate", "targets")}
        facts = {"steps": steps, "merge": document["merge"], "unquantised": document.get("unquantised")}
        return {**score(asked, healed), **facts, "tokens_per_second": document["tokens_per_second"]}

    keep(asked.work / f"{cell}-{asked.tokens}.json", run)


def score(asked, model):
    """Losses on the source's held-out text and on other text, and bits of the gold answers, by bench/heal_ways.py."""
    texts = ("--text", asked.text, "--other", asked.other, "--measured", asked.measured, "--length", 256)
    script = Path(__file__).with_name("heal_ways.py")
    asking = ("--data", asked.data, "--questions", asked.questions)
    return json.loads(command(script, *texts, *asking, "--score", model).splitlines()[-1])


def table(asked):
    references = {name: asked.work / f"{name}.json" for name in ("full", "cut", "patch")}
    if not all(path.exists() for path in references.values()):
        return "nothing measured yet"
    found = {name: json.loads(path.read_text()) for name, path in references.items()}
    for path in sorted(asked.work.glob(f"*-{asked.tokens}.json")):
        found[path.stem.removesuffix(f"-{asked.tokens}")] = json.loads(path.read_text())
    full, cut = found["full"], found["cut"]
    kinds = list(full["answer_bits"])
    lines = [
        f"{asked.n} layers from {asked.start} on dropped; {asked.tokens} tokens; {asked.measured} tokens of each text; "
        "losses in nats per token, answers in bits",
        "",
        "| cell | steps x tokens, rate | base | held-out loss | other text | won back there |"
        + "".join(f" {kind} |" for kind in kinds),
        "|---" * (6 + len(kinds)) + "|",
    ]
    for name, one in found.items():
        steps = one.get("steps")
        how = f"{steps['steps']} x {steps['tokens_per_step']}, {steps['learning_rate']:g}" if steps else ""
        won = (cut["other"] - one["other"]) / (cut["other"] - full["other"])
        bits = [f" {one['answer_bits'][kind]['mean']:.1f} |" for kind in kinds]
        base = one["merge"]["base"] if "merge" in one else ""
        lines.append(
            f"| {name} | {how} | {base} | {one['held_out']:.3f} | {one['other']:.3f} | {won:.0%} |{''.join(bits)}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
