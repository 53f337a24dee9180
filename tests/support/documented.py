"""What the commands of the documents find when they are run: a folder where the names that the pages use stand.

Models are links to one model. What an earlier page would have made (a cut, a sweep, a bill) is made once, small.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from typer.testing import CliRunner

from prune.common.programs import PROGRAMS
from recipes.commands import options_of
from tests.support.hollow import hollow_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "bench" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(?:sh|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}|\t).*\n)+", re.MULTILINE)

# As much as shows that a command runs. Where it is given otherwise on the page, this stands in its place.
SMALL = {
    "prune scan": {"samples": 4, "length": 64},
    "prune heads": {"lengths": 250, "depths": 1, "needles": 2, "draws": 2, "top": 3},
    "prune concepts": {"tokens": 1500, "clusters": 20, "ward": 200, "layers": "0,10,20", "reseeds": 2, "shuffles": 2},
    "prune write": {"tokens": 300, "answer-tokens": 12},
    "prune time": {"context": 64, "new-tokens": 2, "rounds": 1},
    "prune cut": {"check-tokens": 512, "length": 64, "fit": "400MiB", "speed": "1.05x", "context": 64,
                  "text": "prose.jsonl"},
    "heal patch": {"tokens": 512, "length": 64, "held-out-tokens": 128, "objective": "capped"},
    "heal distill": {"tokens": 512, "length": 128, "batch-size": 2, "rank": 2, "bits": 16, "held-out": "both.jsonl",
                     "held-out-tokens": 128},
    "heal qlora": {"tokens": 512, "length": 128, "batch-size": 2, "rank": 2, "bits": 16, "held-out": "both.jsonl",
                     "held-out-tokens": 128},
    "heal finalists": {"tokens": 256, "length": 64, "batch-size": 2, "rank": 2, "bits": 16, "held-out-tokens": 128},
    "heal rank": {"documents": 8, "questions": 2, "warm-up": 256, "rank": 2, "length": 64, "bits": 16},
    "evaluate run": {"limit": 2, "slow-tokens": 16},
    "evaluate compare": {"limit": 4, "max-length": 256, "needle-lengths": 250, "needle-depths": 1, "needle-count": 2,
                         "gains-context": 32, "gains-new-tokens": 2, "gains-rounds": 3},
    "evaluate sweep": {"limit": 2},
    "evaluate depth": {"limit": 2, "sizes": 4, "starts": 2},
}  # fmt: skip
# They ask for something else, and are not sizes of the work.
_ONLY_WHERE_GIVEN = {f"prune cut {option}" for option in ("fit", "speed", "context")}
_ONLY_WITH = {"needle-lengths": "needles", "needle-depths": "needles", "needle-count": "needles",
              "slow-tokens": "thinking", "needle-text": "needles"}  # fmt: skip
MODELS = ("full", "model", "MODEL", "owner/model", "owner/model-70B", "Qwen/Qwen3-8B")
_OUT = ("--out", "--plot", "--select-out")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of ours that a page shows in a block."""
    text = page.read_text("utf-8")
    blocks = FENCED.findall(text) + INDENTED.findall(ANY_FENCED.sub("", text))
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.strip().split(" ")[0] in PROGRAMS:
                yield shlex.split(line, comments=True)


def documented_folder(place: Path, model: Path, sample: Path) -> Path:
    """Make the folder that the pages' commands stand in."""
    for name in (*MODELS, "models/full"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(model)
    hollow_checkpoint(place / "owner" / "llama-70b", "meta-llama/Llama-3.3-70B-Instruct")
    (place / "questions").symlink_to(sample / "questions")
    rows = (sample / "text.jsonl").read_text("utf-8").splitlines(keepends=True)[:400]
    for name in ("prose", "notes", "own-prose"):
        (place / f"{name}.jsonl").write_text("".join(rows), "utf-8")
    texts = [json.loads(row)["text"] for row in rows]
    long = [{"text": "\n\n".join(texts[at : at + 8])} for at in range(0, len(texts), 8)]  # one fills a step
    (place / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long), "utf-8")
    (place / "wiki.jsonl").write_text("".join(rows[:8]), "utf-8")  # models are judged on all of it
    both = [{"text": text, "messages": _chat("Tell me something.", text)} for text in texts[:12]]  # as --field has it
    (place / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both), "utf-8")
    chats = [{"messages": _chat(f"What is {n} plus {n}?", str(2 * n))} for n in range(200)]
    (place / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), "utf-8")
    asked = [{"prompt": f"Say something about the number {n}."} for n in range(40)]
    (place / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")
    return place


def _chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def small(words: list[str]) -> list[str]:
    """A command with its sizes as in `SMALL`."""
    if words[0] == "recipe":
        return [*words, "--dry-run", "--set", "out=runs/dry"] if words[1] == "run" else words
    name = " ".join(words[:2])
    known, given = options_of(name), {word[2:] for word in words if word.startswith("--")}
    for option, value in SMALL.get(name, {}).items():
        if f"--{option}" in words:
            words[words.index(f"--{option}") + 1] = str(value)
        elif f"{name} {option}" in _ONLY_WHERE_GIVEN or option not in known:
            continue
        elif _ONLY_WITH.get(option, "") in {"", *given}:
            words = [*words, f"--{option}", str(value)]
    return words


def outputs(words: list[str]) -> list[Path]:
    return [Path(words[at + 1]) for at, word in enumerate(words[:-1]) if word in _OUT]


def run_here(words: list[str]) -> str:
    """Run a command in the current folder; what it said, where it failed."""
    words = small(list(words))
    there = [out for out in outputs(words) if out.exists()]
    if "--resume" in words:  # what the page has interrupted is whole here; without it, --resume begins
        for out in there:
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    elif there:
        words.append("--overwrite")
    app = import_module(f"{PROGRAMS[words[0]]}.cli").app
    done = CliRunner().invoke(app, words[1:])
    if done.exit_code in (0, 3, 4):  # a verdict of so few questions is no failure
        return ""
    return f"{' '.join(words)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
