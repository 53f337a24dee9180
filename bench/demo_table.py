"""README's first table, of the comparison that `make demo` writes: what the cut gives above, what it costs below.

python bench/demo_table.py
python bench/demo_table.py runs/other/comparison/comparison.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prune.models.memory.footprint import GIB

NAMES = {"math": "mathematics", "commonsense": "common sense (PIQA)"}
HEADINGS = {"patched": "patched, no training"}
UNREAD = 0.1  # share of answers; where more cannot be read, the table has a row of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", nargs="?", type=Path, default=Path("runs/demo/comparison/comparison.json"))
    print("\n".join(table(json.loads(parser.parse_args().comparison.read_text()))))


def table(comparison):
    """Lines of Markdown."""
    labels = [model["label"] for model in comparison["models"]]
    head = ["change against the full model", *(HEADINGS.get(label, label) for label in labels[1:])]
    rows = [*gain_rows(comparison, labels), *prose_rows(comparison, labels), *task_rows(comparison, labels)]
    return [line(head), "|---" * len(head) + "|", *map(line, rows)]


def line(cells):
    return f"| {' | '.join(cells)} |"


def gain_rows(comparison, labels):
    """Bytes and memory as a share less, speeds as multiples with their range; nothing where none was measured."""
    gains = {row["model"]: row for row in (comparison["gains"] or {"models": []})["models"]}
    full = gains.get(labels[0])
    if full is None:
        return
    peak = full["peak_memory_bytes"]
    bytes_of = {
        "weight_bytes": f"weights (full {size(full['weight_bytes'])})",
        "kv_bytes_per_token": f"KV cache, bytes a token (full {full['kv_bytes_per_token']:,.0f})",
        "peak_memory_bytes": f"peak memory (full {size(peak['median'])})" if peak else "peak memory",
    }
    speeds = {
        "prefill_tokens_per_second": "reading a prompt, tokens a second",
        "decode_tokens_per_second": "writing, tokens a second",
    }
    for key, words in bytes_of.items():
        yield [words, *(less(gains[label]["ratio"][key]) if label in gains else "" for label in labels[1:])]
    for key, words in speeds.items():
        rate = full[key]["median"]
        words = f"{words} (full {rate:.0f})"
        yield [words, *(times(gains[label]["ratio"][key]) if label in gains else "" for label in labels[1:])]


def size(value):
    return f"{value / GIB:.2f} GiB" if value >= GIB else f"{value / 2**20:.0f} MiB"


def less(ratio):
    """`-16 %` of a ratio of 0.84."""
    ratio = ratio["median"] if isinstance(ratio, dict) else ratio
    return "" if ratio is None else f"{100 * (ratio - 1):+.0f} %"


def times(spread):
    return f"{spread['median']:.2f}x [{spread['low']:.2f}, {spread['high']:.2f}]"


def prose_rows(comparison, labels):
    for text in dict.fromkeys(row["text"] for row in comparison["prose"]):
        rows = {row["model"]: row for row in comparison["prose"] if row["text"] == text}
        words = f"{text} prose, nats per token (full {rows[labels[0]]['nats_per_token']:.2f})"
        yield [words, *(change(rows[label]["difference"], 1, 2) for label in labels[1:])]


def task_rows(comparison, labels):
    """The answer NLL of each task; what could not be read, and accuracy, where there is something to tell."""
    for domain, protocol in dict.fromkeys((row["domain"], row["protocol"]) for row in comparison["rows"]):
        rows = {r["model"]: r for r in comparison["rows"] if (r["domain"], r["protocol"]) == (domain, protocol)}
        full, others = rows[labels[0]], [rows[label] for label in labels[1:]]
        name = NAMES.get(domain, domain) + ("" if "(" in NAMES.get(domain, "") else f", {protocol}")
        yield [
            f"{name}: answer NLL in bits (full {full['answer_nll_bits']:.1f})",
            *(change(row["versus"]["answer_nll_bits_difference"], 1, 1) for row in others),
        ]
        if max(row["unparseable"] for row in others) > UNREAD:
            words = f"{name}: answers that give no number, or two (full {100 * full['unparseable']:.0f} %)"
            yield [words, *(f"{100 * row['unparseable']:.0f} %" for row in others)]
        if full["accuracy"]["low"] > full["chance"] + UNREAD:  # else it has hardly any to lose
            words = f"{name}: accuracy in points (full {100 * full['accuracy']['estimate']:.0f} %)"
            yield [words, *(change(row["versus"]["accuracy_difference"], 100, 0) for row in others)]


def change(interval, scale, digits):
    """`+0.73 [+0.68, +0.78]`; nothing that rounds to zero has a sign."""
    estimate, low, high = (round(scale * interval[end], digits) + 0.0 for end in ("estimate", "low", "high"))
    shown = [f"{value:+.{digits}f}" if value else f"{value:.{digits}f}" for value in (estimate, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


if __name__ == "__main__":
    main()
