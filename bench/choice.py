"""Which block each way of choosing takes, and what it costs on held-out text, against the best of all starts.

Scans `.sample/model` on `.sample/text.jsonl` (bfloat16), checks candidates on other documents of the same file,
and measures every block on `.sample/heldout.jsonl`, which no choice has seen. Prints the table of bench/README.md
and writes all numbers to --out. Some twenty minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from prune import scan
from prune.checkpoint.source import locate
from prune.choosing.check import check_candidates, greedy_removal
from prune.common.layers import deepest_start, starts
from prune.models.loading import load_model, load_tokenizer
from prune.models.walks.variants import FULL, score_variants
from prune.scanning.settings import ScanSettings
from prune.text.windows import draw_held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument("--heldout", default=".sample/heldout.jsonl")
    parser.add_argument("--field", default="text", help="field of --heldout")
    parser.add_argument("--tokens", type=int, default=2048, help="held-out tokens that every block is measured on")
    parser.add_argument("--samples", type=int, default=128, help="documents of each scan")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--check-tokens", type=int, default=8192)
    parser.add_argument(
        "--greedy", type=int, default=4, help="windows of that text for the greedy removal; 0 leaves it out"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 6, 8, 10, 12])
    parser.add_argument("--out", type=Path, default=Path("runs/bench/choice.json"))
    asked = parser.parse_args()
    source = locate(asked.model)
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=torch.bfloat16)
    layers = model.config.num_hidden_layers
    scans = {
        tokens: scan(
            asked.model,
            asked.text,
            settings=ScanSettings(tokens=tokens, samples=asked.samples, dtype="bfloat16"),
            show_progress=False,
        )
        for tokens in ("last", "all")
    }
    held, _ = draw_held_out(
        [asked.heldout], tokenizer, tokens=asked.tokens, length=asked.length, seed=1, field=asked.field
    )
    fresh, apart = draw_held_out(
        [asked.text], tokenizer, tokens=asked.check_tokens, length=asked.length, seed=0, skip=scans["last"].samples
    )
    assert apart
    found: dict[str, object] = {}
    rows = []
    for n in asked.sizes:
        blocks = [tuple(range(start, start + n)) for start in starts(layers, n)]
        own = scans["last"].best[n - 1].start
        began = time.monotonic()
        check = check_candidates(model, [w.ids for w in fresh], blocks, blocks[own])
        seconds = time.monotonic() - began
        scores = score_variants(model, [w.ids for w in held], [FULL, *map(frozenset, blocks)], kl=False)
        loss = (scores.loss.sum(1) / scores.tokens.sum()).tolist()
        full, of_block = loss[0], loss[1:]
        best = min(range(len(blocks)), key=lambda start: of_block[start])
        row = {
            "n": n,
            "full": full,
            "tokens": int(scores.tokens.sum()),
            "angular-last": own,
            "angular-all": scans["all"].best[n - 1].start,
            "deepest": deepest_start(layers, n),
            "verified": check.chosen[0],
            "best": best,
            "losses": of_block,
            "check": check.to_json(),
            "check_seconds": seconds,
        }
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k not in ("losses", "check")}), flush=True)
    if asked.greedy:
        began = time.monotonic()
        removal = greedy_removal(model, [w.ids for w in fresh[: asked.greedy]], max(asked.sizes))
        order = removal.order
        found["greedy"] = {**removal.to_json(), "seconds": time.monotonic() - began}
        removed = [frozenset(order[:n]) for n in asked.sizes]
        scores = score_variants(model, [w.ids for w in held], removed, kl=False)
        for row, loss in zip(rows, (scores.loss.sum(1) / scores.tokens.sum()).tolist(), strict=True):
            row["greedy"] = {"dropped": sorted(order[: row["n"]]), "loss": loss}
    found["rows"] = rows
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    ways = ("angular-last", "angular-all", "deepest", "verified", "best")
    print("\n| n | full | " + " | ".join(ways) + " | greedy loss | verified - best |\n|" + "---|" * 9)
    for row in rows:
        cells = [f"{row[way]}: {row['losses'][row[way]]:.2f}" for way in ways]
        apart_by = row["losses"][row["verified"]] - row["losses"][row["best"]]
        greedy = f"{row['greedy']['loss']:.2f}" if asked.greedy else ""
        print(f"| {row['n']} | {row['full']:.2f} | {' | '.join(cells)} | {greedy} | {apart_by:.3f} |")


if __name__ == "__main__":
    main()
