"""`heal distill` beside peft and transformers' Trainer with a second teacher: the same rows, rank, rate and loss.

    python -m bench.peers.heal [--quick]

Both train a LoRA adapter on the same cut by forward KL to the full model, in float32, and one judge measures both
adapters on text that neither saw. The Trainer's script is `second_teacher.py`: it gets the rows packed, and measures
nothing on the way, while `heal distill` packs them itself and measures twice.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from bench.peers.entry import asked_quick, conclude
from bench.peers.judging import held_out, regrowth
from bench.peers.materials import HELD_OUT, MODEL, TEXT, write_rows
from bench.peers.record import ROOT, THREADS, WORK, Measured, bytes_under, measure

JOB = "heal a cut by what the full model predicts: LoRA, forward KL, the same rows"
OURS, THEIRS = "heal distill", "peft and Trainer with a second teacher"


@dataclass(frozen=True)
class Settings:
    """What both have in common."""

    dropped: str = "12-17"
    tokens: int = 20_480
    length: int = 128
    batch: int = 4
    rank: int = 32
    rate: float = 2e-3
    warmup: int = 2
    measured: int = 8_000
    threads: int = THREADS
    limit_s: int = 900

    @property
    def steps(self) -> int:
        return self.tokens // (self.length * self.batch)


QUICK = Settings(tokens=1_024, measured=500, warmup=1, threads=1)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = QUICK if asked_quick(__doc__.splitlines()[0], arguments) else Settings()
    work = WORK / "heal"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    cut, rows = work / "cut", work / "rows.npz"
    words = regrowth("prune", "cut", MODEL, "--layers", settings.dropped, "--out", cut)
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True, capture_output=True)
    predicted = write_rows(rows, tokens=settings.tokens, length=settings.length)
    how = {"limit_s": settings.limit_s, "variables": {"OMP_NUM_THREADS": str(settings.threads)}}
    runs = {
        OURS: measure(distill(cut, work / "ours", settings), **how),
        THEIRS: measure(trainer(cut, rows, work / "theirs", settings), **how),
    }
    adapters = {OURS: work / "ours", THEIRS: work / "theirs"}
    whole = [name for name, run in runs.items() if run.code == 0]
    before, *after = held_out(cut, [adapters[name] for name in whole], length=settings.length, tokens=settings.measured)
    (full,) = held_out(MODEL, [], length=settings.length, tokens=settings.measured)
    losses = dict(zip(whole, after, strict=True))
    names = {
        OURS: "Regrowth: heal distill",
        THEIRS: f"{THEIRS} (transformers {version('transformers')}, peft {version('peft')})",
    }
    table = [
        row(names[name], runs[name], adapters[name], settings, losses.get(name), before=before, full=full)
        for name in (OURS, THEIRS)
    ]
    common = asdict(settings) | {"steps": settings.steps, "predicted": predicted}
    common |= {"held_out_full": round(full, 4), "held_out_cut": round(before, 4)}
    conclude("heal", JOB, table, common, quick=settings is QUICK)


def distill(cut: Path, out: Path, settings: Settings) -> list[object]:
    return regrowth(
        "heal", "distill", cut, "--teacher", MODEL, "--text", TEXT, "--held-out", HELD_OUT,
        "--held-out-tokens", 1000, "--eval-every", settings.steps, "--tokens", settings.tokens,
        "--length", settings.length, "--batch-size", settings.batch, "--accumulate", 1, "--rank", settings.rank,
        "--dropout", 0, "--targets", "all", "--bits", 16, "--dtype", "float32", "--checkpointing", "off",
        "--learning-rate", settings.rate, "--warmup", settings.warmup, "--plain-loss", 0, "--out", out,
    )  # fmt: skip


def trainer(cut: Path, rows: Path, out: Path, settings: Settings) -> list[object]:
    script = ROOT / "bench" / "peers" / "second_teacher.py"
    return [
        regrowth("x")[0], script, "--student", cut, "--teacher", MODEL, "--rows", rows, "--out", out,
        "--batch-size", settings.batch, "--rank", settings.rank, "--learning-rate", settings.rate,
        "--warmup", settings.warmup,
    ]  # fmt: skip


def row(
    name: str, run: Measured, adapter: Path, settings: Settings, loss: float | None, *, before: float, full: float
) -> dict[str, object]:
    """One tool's figures. `tokens_per_second` is of the training steps alone, `seconds` of the whole command."""
    if loss is None:
        return {"tool": name, "not_run": run.why}
    trained = _training_seconds(adapter)
    return {
        "tool": name,
        "seconds": round(run.seconds, 1),
        "training_seconds": round(trained, 1),
        "tokens_per_second": round(settings.tokens / trained, 1),
        "peak_mib": round(run.most / (1 << 20)),
        "disk_mib": round(bytes_under(adapter) / (1 << 20), 1),
        "held_out_nats": round(loss, 4),
        "won_back": round((before - loss) / (before - full), 3),
    }


def _training_seconds(adapter: Path) -> float:
    file = next(path for path in (adapter / "heal.json", adapter / "run.json") if path.exists())
    return json.loads(file.read_text())["training_seconds"]


if __name__ == "__main__":
    main()
