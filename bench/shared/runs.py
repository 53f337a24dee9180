"""Runs of the real commands in parts: what is finished leaves a file, and a second call runs only what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def check_same(asked, apart):
    """Refuse a --work of other settings: what is finished there would stand for what is not. --table takes them.

    `apart` names the settings that may differ in one --work: the files there tell them.
    """
    path = asked.work / "settings.json"
    now = json.loads(json.dumps({name: value for name, value in vars(asked).items() if name not in apart}, default=str))
    before = json.loads(path.read_text()) if path.exists() else now
    if asked.table:
        vars(asked).update(before)
        return
    for name, value in now.items():
        if (was := before.get(name)) != value:
            option = "--" + name.replace("_", "-")
            raise SystemExit(f"{option} was {was} in {asked.work}, and is now {value}; give another --work")
    path.write_text(json.dumps(now, indent=1) + "\n")


def keep(path, make):
    """Write what `make` gives, once."""
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text(json.dumps(make(), indent=1) + "\n")
        part.replace(path)
        print(f"{path.stem.removeprefix('result-')} is done", file=sys.stderr, flush=True)


def words(text):
    return " ".join(text.lower().split())


def lines(path):
    with Path(path).open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def command(program, *arguments):
    module = {"evaluate": "eval"}.get(program, program)
    done = subprocess.run([sys.executable, "-m", *map(str, (module, *arguments))], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program} {' '.join(map(str, arguments))}\n{done.stderr[-2000:]}")
    return done.stdout
