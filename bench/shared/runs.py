"""Runs of the real commands in parts: what is finished leaves a file, and a second call runs only what is missing."""

from __future__ import annotations

import hashlib
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


def digest(question):
    """By the words alone, so that no question is judged in one form and answered in another."""
    return int(hashlib.sha256(words(question).encode()).hexdigest(), 16)


def lines(path):
    with Path(path).open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def command(program, *arguments):
    """What a command of ours, or a script (a Path), writes to its output."""
    where = (program,) if isinstance(program, Path) else ("-m", {"evaluate": "eval"}.get(program, program))
    done = subprocess.run([sys.executable, *map(str, (*where, *arguments))], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program} {' '.join(map(str, arguments))}\n{done.stderr[-2000:]}")
    return done.stdout


def answers_in(out, by="source"):
    """Of a run of `evaluate`, by source (or domain) and protocol, by question: bits of the gold answer, and right."""
    answers = {}
    for path in sorted(out.glob("samples_*.jsonl")):
        for row in lines(path):
            task = answers.setdefault(f"{row[by]}, {row['protocol']}", {})
            task[row["id"]] = [row["answer_nll_bits"], row["correct"]]
    return answers


def difference(pairs, task):
    """In bits of the gold answer and in the share right: the mean over seeds and questions, with its interval."""
    bits, right = (paired(pairs, task, lambda answer, at=at: answer[at]) for at in (0, 1))
    return ", ".join(
        f"{scale * found.estimate:+.2f} {unit} ({scale * found.low:+.2f} to {scale * found.high:+.2f})"
        for found, scale, unit in ((bits, 1, "bits"), (right, 100, "points"))
    )


def paired(pairs, task, value):
    """The first run of each pair less the second, in the `value` of an answer: the mean, with its interval."""
    from prune.common.intervals import bootstrap_mean

    ids = list(pairs[0][0]["answers"][task])
    return bootstrap_mean(
        [[value(one["answers"][task][i]) - value(two["answers"][task][i]) for i in ids] for one, two in pairs], ids
    )
