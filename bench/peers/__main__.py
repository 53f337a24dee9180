"""Other tools beside Regrowth: every comparison, or those that are named, and the table of them all.

    python -m bench.peers             # all, about half an hour on two quiet cores
    python -m bench.peers cut scan    # these
    python -m bench.peers --list
    python -m bench.peers --table     # measure nothing, write the table anew

A comparison is a module of this folder with a `main()` that writes bench/results/NAME.json, or NAME-PART.json for each
of its parts. It runs in a process of its own, so that one which fails stops no other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec

from bench.peers.record import RESULTS, ROOT
from bench.peers.table import write_table

COMPARISONS = {
    "scan": "find the layers: PruneMe's pattern, short-transformers",
    "cut": "drop them: mergekit",
    "ask": "ask questions, of one model and of many cuts: lm-eval's command line",
    "heal": "train back: peft and Trainer with a second teacher",
    "whole": "the whole job in the same time: soup-cli shrink, optipfair",
    "four_tools": "the whole job as a script of four tools",
}
PREFIX = "bench.peers."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Measure other tools beside Regrowth.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which comparisons; all if none is named")
    parser.add_argument("--list", action="store_true", help="name them, and stop")
    parser.add_argument("--table", action="store_true", help="write the table of what was measured, and stop")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in COMPARISONS]:
        parser.error(f"no such comparison: {', '.join(unknown)}; there are {', '.join(COMPARISONS)}")
    if asked.list:
        print("\n".join(f"{name:<12}{what}" for name, what in COMPARISONS.items()))
        return 0
    failed = [] if asked.table else [name for name in asked.names or COMPARISONS if not compare(name)]
    print(write_table(RESULTS, list(COMPARISONS)))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def compare(name: str) -> bool:
    """Run one; False where it failed."""
    module = PREFIX + name
    if find_spec(module) is None:
        print(f"== {name}: skipped, there is no {module}", flush=True)
        return True
    print(f"== {name}: {COMPARISONS.get(name, name)}", flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", f"from {module} import main; main()"], cwd=ROOT, check=False)
    ended = f"failed with exit code {done.returncode}" if done.returncode else "done"
    print(f"== {name}: {ended} after {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
