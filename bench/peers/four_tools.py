"""Four tools glued by hand beside `recipe run`: which layers, the cut, the healing, the questions; and the lines of it.

    python -m bench.peers.four_tools [--quick]

The glue lies in `four_tools/`: a script that finds layers as PruneMe does, a YAML for mergekit, a script for peft and
the Trainer, task files for lm-eval, and a shell script around them. It heals by the plain loss on the text, as such
scripts do. Both get the same model, text, questions and prose, and heal at the same tokens, rank, rate and batch.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.peers import judging
from bench.peers.entry import asked_quick, conclude, offline
from bench.peers.materials import HELD_OUT, MODEL, TEXT, apart, lines, load_tokenizer, questions_in, up_to, write_lines
from bench.peers.record import THREADS, WORK, Measured, bytes_under, measure
from bench.peers.row import OURS, billed, figures, layers_dropped
from bench.peers.whole import SHARED
from bench.shared.environments import Environment, NotInstallableError, environment

JOB = "scan, cut, heal and ask a model: four tools and their glue beside one recipe"
GLUE = Path(__file__).with_name("four_tools")
RECIPE = Path(__file__).with_name("recipe.yaml")
THEIRS = "four tools"


@dataclass(frozen=True)
class Settings:
    """What both have in common."""

    n: int = 6
    layers: int = 30
    tokens: int = 12_288
    patch_tokens: int = 8_000
    length: int = 128
    questions: int = 40
    prose: int = 64
    domains: tuple[str, ...] = ("medical", "math", "commonsense")
    sets: tuple[str, ...] = ("mmlu", "medmcqa", "piqa")
    threads: int = THREADS
    limit_s: int = 900


QUICK = Settings(tokens=1_024, patch_tokens=1_000, questions=4, prose=4, threads=1)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = QUICK if asked_quick(__doc__.splitlines()[0], arguments) else Settings()
    work = WORK / "four_tools"
    shutil.rmtree(work, ignore_errors=True)
    given = write_given(work / "given", settings)
    rows = [recipe(work / "ours", given, settings), pipeline(work / "theirs", given, settings)]
    table = billed(
        rows, work / "bill", domains=settings.domains, questions=settings.questions, protocols="choice",
        data=given / "questions", prose=given / "prose.jsonl",
    )  # fmt: skip
    conclude("four_tools", JOB, table, asdict(settings), quick=settings is QUICK)


def write_given(folder: Path, settings: Settings) -> Path:
    """What both are given: texts.jsonl, prose.jsonl and questions/, with nothing of these two in the first."""
    tokenizer = load_tokenizer()
    prose = list(lines(HELD_OUT))[: settings.prose]
    asked = {domain: questions_in(domain, settings.sets, settings.questions) for domain in settings.domains}
    judged = [row["text"] for row in prose]
    judged += [text for rows in asked.values() for row in rows for text in (row["question"], *row["choices"])]
    texts = up_to(
        apart((row["text"] for row in lines(TEXT)), judged),
        settings.tokens + settings.length,
        lambda text: len(tokenizer(text)["input_ids"]),
    )
    write_lines(folder / "texts.jsonl", ({"text": text} for text in texts))
    write_lines(folder / "prose.jsonl", prose)
    for domain, rows in asked.items():
        write_lines(folder / "questions" / f"{domain}.jsonl", rows)
    return folder


def recipe(out: Path, given: Path, settings: Settings) -> dict[str, object]:
    options = {
        "model": MODEL, "text": given / "texts.jsonl", "heldout": given / "prose.jsonl", "n": settings.n,
        "questions": given / "questions", "domains": ",".join(settings.domains), "limit": settings.questions,
        "patch_tokens": settings.patch_tokens, "tokens": settings.tokens, "out": out,
    }  # fmt: skip
    words = judging.regrowth("recipe", "run", RECIPE, *(f"--set={name}={value}" for name, value in options.items()))
    run = measure(words, limit_s=settings.limit_s, variables=offline(settings.threads))
    dropped = layers_dropped(out / "pruned")
    row = figures(OURS, run, out, out / "healed", dropped=dropped)
    record = out / "recipe.json"
    if record.exists():
        stages = json.loads(record.read_text())["stages"]
        row |= {f"{name}_seconds": round(stage["seconds"], 1) for name, stage in stages.items() if stage["seconds"]}
    note = "the lines are those of its recipe and the command; a shipped recipe takes the command alone"
    return row | {"lines": written([RECIPE]) + 1, "note": note}


def pipeline(folder: Path, given: Path, settings: Settings) -> dict[str, object]:
    """The glue, copied beside what it is given, run by its shell script."""
    shutil.copytree(GLUE, folder)
    shutil.copytree(given, folder, dirs_exist_ok=True)
    before = bytes_under(folder)
    try:
        with environment("four-tools", ["mergekit==0.1.5"], linked=(*SHARED, "lm_eval")) as made:
            began = time.time()
            run = glue(made, folder, settings)
            tool = f"{THEIRS} ({made.version('mergekit')}, {made.version('peft')}, {made.version('lm_eval')})"
    except NotInstallableError as error:
        return {"tool": THEIRS, "not_run": str(error)}
    found = folder / "similarity.txt"
    start = int(found.read_text().split()[-1]) if found.exists() and "best" in found.read_text() else 0
    dropped = range(start, start + settings.n)
    row = figures(tool, run, folder, folder / "healed", dropped=dropped)
    if "disk_mib" in row:
        row["disk_mib"] = round((bytes_under(folder) - before) / (1 << 20))
        row |= stage_seconds(began, {"scan": found, "cut": folder / "cut", "heal": folder / "healed"}, run.seconds)
    return row | {"lines": written(files_of_glue())}


def glue(made: Environment, folder: Path, settings: Settings) -> Measured:
    words = ["bash", "run.sh", MODEL.resolve(), settings.n, settings.layers, settings.tokens]
    variables = offline(settings.threads) | {"HF_HOME": str(folder / "cache")}
    variables["PATH"] = f"{made.place / 'bin'}:{os.environ['PATH']}"
    return measure(words, limit_s=settings.limit_s, variables=variables, cwd=folder)


def stage_seconds(began: float, written: Mapping[str, Path], seconds: float) -> dict[str, float]:
    """How long each stage took, by when what it wrote was last written; what comes after them is the asking."""
    ends = {name: max(_written_at(path), began) - began for name, path in written.items()} | {"compare": seconds}
    begins = (0.0, *ends.values())
    return {f"{name}_seconds": round(end - begin, 1) for begin, (name, end) in zip(begins, ends.items(), strict=False)}


def _written_at(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return max(file.stat().st_mtime for file in files if file.is_file())


def files_of_glue() -> list[Path]:
    """All that a user writes for the pipeline."""
    return sorted(path for path in GLUE.rglob("*") if path.suffix in (".py", ".sh", ".yaml"))


def written(files: Sequence[Path]) -> int:
    """Lines that are neither empty nor a comment."""
    found = (line.strip() for file in files for line in file.read_text().splitlines())
    return sum(bool(line) and not line.startswith(("#", '"""')) for line in found)


if __name__ == "__main__":
    main()
