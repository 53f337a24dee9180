"""The whole job by soup-cli, optipfair and Regrowth, billed by one judge on questions and prose that none has seen.

    python -m bench.peers.whole [--quick]

Each drops the same number of layers of the same model, chosen as it chooses, and heals on the same number of tokens of
the same text within the same time. Healing text that shares eight words in a row with a question is left out. soup
stands twice: `soup shrink --heal` as it comes, which has no option for the rate, and `soup shrink`, `soup train` and
`soup merge` with rank, rate and loss as Regrowth has them.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from bench.peers import judging
from bench.peers.entry import asked_quick, conclude, offline
from bench.peers.materials import (
    HELD_OUT,
    MODEL,
    TEXT,
    apart,
    lines,
    load_tokenizer,
    questions_of,
    up_to,
    write_lines,
)
from bench.peers.record import ROOT, THREADS, WORK, measure
from bench.peers.row import OURS, billed, figures, layers_dropped
from bench.shared.environments import NotInstallableError, environment

JOB = "cut and heal a model; the same layers dropped, tokens and time limit; billed on questions none has seen"
RECIPE = Path(__file__).with_name("recipe.yaml")
SHARED = ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHIPPED, TUNED, FAIR = "soup shrink", "soup, tuned", "optipfair"


@dataclass(frozen=True)
class Settings:
    """What all have in common. optipfair's rate is its best of 4e-5 (its default), 2e-4 and 5e-4 on 4k tokens of other
    text; soup's is that of the recipe.
    """

    n: int = 6
    tokens: int = 12_288
    patch_tokens: int = 8_000
    calibration: int = 128
    length: int = 128
    questions: int = 40
    prose: int = 64
    domains: tuple[str, ...] = ("medical", "math", "commonsense")
    sets: tuple[str, ...] = ("mmlu", "medmcqa", "asdiv", "piqa")
    optipfair_rate: float = 5e-4
    soup_rate: float = 2e-3
    threads: int = THREADS
    limit_s: int = 600


QUICK = Settings(tokens=1_024, patch_tokens=1_000, calibration=8, questions=4, prose=4, threads=1)


@dataclass(frozen=True)
class Text:
    """Files of a comparison. chats: healing text for soup. more_chats: with the tenth that `shrink` splits off."""

    prose: Path
    calibration: Path
    healing: Path
    chats: Path
    more_chats: Path
    rows: int
    more_rows: int


def main(arguments: Sequence[str] | None = None) -> None:
    settings = QUICK if asked_quick(__doc__.splitlines()[0], arguments) else Settings()
    work = WORK / "whole"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    text = write_text(work / "text", settings)
    rows = [regrowth(work, text, settings), *soup(work, text, settings), optipfair(work, text, settings)]
    asked = {"domains": settings.domains, "sets": settings.sets, "questions": settings.questions}
    table = billed(rows, work / "bill", prose=text.prose, **asked)
    conclude("whole", JOB, table, asdict(settings), quick=settings is QUICK)


def write_text(folder: Path, settings: Settings) -> Text:
    """The text files. Healing text ends where the tokens asked for do."""
    tokenizer = load_tokenizer()

    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    def body(text: str) -> int:  # of a chat, the answer alone bears loss
        return count(as_chat(text)["messages"][1]["content"])

    prose = [row["text"] for row in lines(HELD_OUT)][: settings.prose]
    judged = (*questions_of(settings.domains, settings.sets), *prose)
    clean = list(apart((row["text"] for row in lines(TEXT)), judged))
    calibration, rest = clean[: settings.calibration], clean[settings.calibration :]
    healing = up_to(rest, settings.tokens + settings.length, count)
    chats, more = up_to(rest, settings.tokens, body), up_to(rest, int(settings.tokens / 0.9), body)
    return Text(
        write_lines(folder / "prose.jsonl", ({"text": text} for text in prose)),
        write_lines(folder / "calibration.jsonl", ({"text": text} for text in calibration)),
        write_lines(folder / "healing.jsonl", ({"text": text} for text in healing)),
        write_lines(folder / "chats.jsonl", map(as_chat, chats)),
        write_lines(folder / "more_chats.jsonl", map(as_chat, more)),
        len(chats),
        len(more),
    )


def as_chat(text: str) -> dict[str, object]:
    """A passage `Title -- body` as a chat: the title asks, the body answers; soup heals on answers alone."""
    title, _, body = text.partition(" -- ")
    turns = [("user", title), ("assistant", body)] if body else [("user", "Go on."), ("assistant", text)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def without_bill(recipe: dict) -> dict:
    """A recipe up to the healed model: the judge asks all models alike afterwards."""
    return recipe | {"stages": [stage for stage in recipe["stages"] if stage["name"] != "compare"]}


def regrowth(work: Path, text: Text, settings: Settings) -> dict[str, object]:
    out, recipe = work / "regrowth", work / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(without_bill(yaml.safe_load(RECIPE.read_text())), sort_keys=False))
    options = {"model": MODEL, "text": text.healing, "n": settings.n, "tokens": settings.tokens, "out": out}
    options |= {"patch_tokens": settings.patch_tokens}
    words = judging.regrowth("recipe", "run", recipe, *(f"--set={name}={value}" for name, value in options.items()))
    run = measure(words, **_how(settings))
    return figures(OURS, run, out, out / "healed", dropped=layers_dropped(out / "pruned"))


def soup(work: Path, text: Text, settings: Settings) -> list[dict[str, object]]:
    """soup as it comes, and tuned. It reads and writes below its working folder only."""
    folders = {SHIPPED: work / "soup", TUNED: work / "soup-tuned"}
    for folder in folders.values():
        folder.mkdir()
        for file in (text.calibration, text.chats, text.more_chats):
            shutil.copy(file, folder)
    try:
        with environment("soup", ["soup-cli[train]==0.77.0"], linked=SHARED) as made:
            version, rows = made.version("soup-cli"), []
            command = shlex.quote(str(made.command("soup")))
            shrink = (
                f"{command} shrink --model {shlex.quote(str(MODEL.resolve()))} --drop-layers {settings.n} "
                f"--calib {text.calibration.name} --device cpu -o shrunk"
            )
            heal = f" --heal {text.more_chats.name} --heal-steps {text.more_rows}"
            config = folders[TUNED] / "soup.yaml"
            config.write_text(yaml.safe_dump(soup_config(text, settings), sort_keys=False))
            tuned = (
                f"{shrink}; [ $? -eq 0 -o $? -eq 2 ] && {command} train --config {config.name} --yes && "
                f"{command} merge --adapter adapter --base shrunk/model --output healed --dtype float32"
            )
            commands = {
                SHIPPED: (f"{shrink}{heal}; [ $? -eq 0 -o $? -eq 2 ]", "shrunk/model"),
                TUNED: (tuned, "healed"),
            }
            for name, (line, model) in commands.items():
                folder = folders[name]
                run = measure(["bash", "-c", line], cwd=folder, **_how(settings, home=folder / "home"))
                report = folder / "shrunk" / "shrink_report.json"
                first, last = json.loads(report.read_text())["dropped_block"] if report.exists() else (0, -1)
                label = f"{name} ({version})"
                dropped = range(first, last + 1)
                rows.append(figures(label, run, folder, folder / model, dropped=dropped))
            return rows
    except NotInstallableError as error:
        return [{"tool": name, "not_run": str(error)} for name in folders]


def soup_config(text: Text, settings: Settings) -> dict[str, object]:
    """What `soup train` is told: rank, rate, batch and loss as the recipe has them, every projection adapted."""
    return {
        "base": "shrunk/model",
        "task": "distill",
        "output": "adapter",
        "data": {"train": text.chats.name, "format": "auto", "max_length": 512, "val_split": 0.0},
        "training": {
            "teacher_model": str(MODEL.resolve()),
            "distill_temperature": 1.0,
            "epochs": 1,
            "batch_size": 4,
            "gradient_accumulation_steps": 1,
            "lr": settings.soup_rate,
            "gradient_checkpointing": False,
            "lora": {"r": 32, "alpha": 32, "dropout": 0.0, "target_modules": list(PROJECTIONS)},
        },
    }


def optipfair(work: Path, text: Text, settings: Settings) -> dict[str, object]:
    out = work / "optipfair"
    try:
        with environment("optipfair", ["optipfair==0.4.2"], linked=SHARED) as made:
            name = f"{FAIR} ({made.version('optipfair')})"
            words = [
                made.python, ROOT / "bench" / "peers" / "optipfair_job.py", "--model", MODEL, "--n", settings.n,
                "--calibration", text.calibration, "--healing", text.healing, "--tokens", settings.tokens,
                "--length", settings.length, "--learning-rate", settings.optipfair_rate, "--out", out,
            ]  # fmt: skip
            run = measure(words, **_how(settings))
    except NotInstallableError as error:
        return {"tool": FAIR, "not_run": str(error)}
    plan = out / "dropped.json"
    dropped = json.loads(plan.read_text()) if plan.exists() else []
    note = "its distillation term has no gradient: its student's probabilities are taken without one"
    return figures(name, run, out, out, dropped=dropped) | {"note": note}


def _how(settings: Settings, *, home: Path | None = None) -> dict[str, object]:
    """No tool reaches for a network; soup keeps its own records in the work folder."""
    variables = offline(settings.threads) | ({"HOME": str(home)} if home else {})
    return {"limit_s": settings.limit_s, "variables": variables}


if __name__ == "__main__":
    main()
