"""The chain on one card, shown without one: a model of 1.7 times the memory goes through every stage under a cap.

    OMP_NUM_THREADS=1 python bench/one_card.py            # some 30 minutes on two idle CPU cores, 10 GB of disk
    OMP_NUM_THREADS=1 python bench/one_card.py --tiny     # the same stages, a model of 4 MiB, told its cap

Makes a random Llama in bfloat16 with the sample's tokenizer. Each stage is the command itself, in a process of its
own under a cap that is set from outside and kept there (bench/shared/capped.py); it is told nothing of it. The cap
holds the libraries too. Scan and cut run a second time under a cap of a third of the model.

`reckoned` is what `heal budget --card cpu` says for the memory that the libraries leave, and the libraries; `measured`
the most that was held. A stage fails the run if it goes above its cap, or another way than was reckoned.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.shared

from bench.shared.capped import MIB, ROOT, environment, run_capped
from bench.shared.random_llama import write_random_llama

if TYPE_CHECKING:
    from heal.budget.document import StationWay

SAMPLE = ROOT / ".sample"
TIMES = 1.7  # the model over the cap: 70B in bf16 on a card of 80 GB
SMALL_TIMES = 3  # for scan and cut alone
LENGTH = 64  # tokens of a row
HELD_OUT = 256  # tokens
CHECK = 512  # the fewest that prune cut takes
ROWS, STEPS = 4, 2  # of healing: its optimiser's moments stand from the second step on
QUESTIONS = 4
PROSE = 4  # documents of it that are measured
# What each program imports by its peak.
LIBRARIES = {
    "prune": "accelerate, transformers.models.llama.modeling_llama, prune.scanning.streaming, prune.choosing.trial",
    "heal": "torch, transformers, peft, bitsandbytes, heal.training.distill, heal.merging.merge",
    "evaluate": "torch, transformers, bitsandbytes, eval.comparison, lm_eval.evaluator, eval.asking.harness",
}


@dataclass(frozen=True)
class Shape:
    """The random Llama: as many layers as make `TIMES` the cap; and how much text the stages read."""

    width: int
    inner: int
    vocabulary: int
    cap: int
    tokens: int

    @property
    def layer(self) -> int:
        """Bytes of one layer."""
        return 2 * (2 * self.width**2 + 2 * self.width * self.width // 4 + 3 * self.width * self.inner)

    @property
    def table(self) -> int:
        """Bytes of the embeddings, and as many of the head."""
        return 2 * self.vocabulary * self.width

    @property
    def layers(self) -> int:
        return math.ceil((TIMES * self.cap - 2 * self.table) / self.layer)

    @property
    def dropped(self) -> int:
        return self.layers // 4


SHAPES = {
    "default": Shape(1536, 4096, 8192, 1536 * MIB, 256),
    "tiny": Shape(64, 128, 8192, 5 * MIB // 2, 256),
}


@dataclass(frozen=True)
class Station:
    """A command, and what `heal budget` calls it.

    small: under the smaller cap. maps: it has safetensors map the model's files. may_refuse: words of a refusal that
    is no failure. leaves: what nobody reads afterwards.
    """

    name: str
    reckoned_as: str
    words: Sequence[str]
    small: bool = False
    maps: bool = False
    may_refuse: str = ""
    leaves: Path | None = field(default=None)


def make(folder: Path, shape: Shape) -> int:
    """Write the model; returns the bytes of its weights."""
    heads = max(4, shape.width // 64)
    return write_random_llama(
        folder, deviation=0.04, vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=heads, num_key_value_heads=heads // 4,
        max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def stations(work: Path, shape: Shape, told: Sequence[str]) -> list[Station]:
    """The chain; `told`: options of a cap that is too small for the kernel to keep."""
    full, cut, patched, adapter, merged = (work / name for name in ("full", "cut", "patched", "adapter", "merged"))
    base = patched if patched.exists() else cut
    text, held = SAMPLE / "text.jsonl", SAMPLE / "heldout.jsonl"
    heal = ["--text", text, "--held-out", held, "--held-out-tokens", HELD_OUT, "--length", LENGTH, "--device", "cpu"]
    samples = ["--samples", shape.tokens // LENGTH, "--length", LENGTH, "--text", text]

    def scan(out: Path) -> list[Any]:
        return ["prune", "scan", full, *samples, "--device", "cpu", "--out", out, *told]

    def cutting(out: Path) -> list[Any]:
        check = ["--scan", work / "scan.json", "--check", 2, "--check-tokens", CHECK, "--text", text]
        return ["prune", "cut", full, "--n", shape.dropped, *check, "--out", out, *told]

    return [
        Station("scan", "scan", scan(work / "scan.json")),
        Station("cut, with its check", "cut", cutting(cut)),
        Station("scan, 3 x", "scan", scan(work / "again.json"), small=True),
        Station("cut, 3 x", "cut", cutting(work / "again"), small=True, leaves=work / "again"),
        Station("patch", "patch",
                ["heal", "patch", cut, "--teacher", full, *heal, "--tokens", shape.tokens, "--out", patched, *told],
                may_refuse="no patch is better than none"),
        Station("distill, 4 bits", "heal",
                ["heal", "distill", base, "--teacher", full, *heal, "--tokens", STEPS * ROWS * LENGTH,
                 "--batch-size", ROWS, "--accumulate", 1, "--eval-every", STEPS, "--rank", 8, "--bits", 4,
                 "--out", adapter, *told], maps=True),
        Station("merge, auto", "merge",
                ["heal", "merge", adapter, "--base", "auto", "--out", merged, "--device", "cpu", *told]),
        Station("compare, 4 bits", "compare",
                ["evaluate", "compare", full, merged, "--load-in-4bit", "--data", SAMPLE / "questions",
                 "--domains", "medical", "--limit", QUESTIONS, "--text", work / "prose.jsonl", "--max-length", 512,
                 "--device", "cpu", "--no-cache", "--no-gains", "--out", work / "bill"], maps=True),
    ]  # fmt: skip


def ways(full: Path, shape: Shape, room: int) -> dict[str, StationWay]:
    """What `heal budget` says of each stage on this CPU, were so much of its memory free."""
    from heal.budget.plan import plan_budget
    from heal.budget.stations import Amounts
    from heal.settings import BudgetQuery, Settings

    amounts = Amounts(
        samples=shape.tokens // LENGTH, sample_length=LENGTH, check_tokens=CHECK, patch_tokens=shape.tokens,
        held_out_tokens=HELD_OUT, questions=QUESTIONS, answers=0, models=2, patch_length=LENGTH,
    )  # fmt: skip
    query = BudgetQuery(n=shape.dropped, tokens=STEPS * ROWS * LENGTH, method="distill", card="cpu", gpu_memory=room)
    settings = Settings(length=LENGTH, batch_size=ROWS, accumulate=1, rank=8, bits=4)
    (budget, *_) = plan_budget(full, query, settings, amounts=amounts).gpus
    return {way.name: way for way in budget.stations}


def run(station: Station, cap: int | None, mapped: int) -> dict[str, Any]:
    """Run a stage under its cap: the way it went, what it held, and seconds.

    Args:
        mapped: of a stage that maps the files, bytes that the kernel counts though nothing holds them.
    """
    program, *words = map(str, (*station.words, "--overwrite"))
    module = "eval" if program == "evaluate" else program
    done = run_capped(["-m", module, *words], cap=cap, mapped=mapped if station.maps else 0)
    refused = done.code != 0 and bool(station.may_refuse) and station.may_refuse in done.said
    if station.leaves is not None:
        shutil.rmtree(station.leaves, ignore_errors=True)
    went = "4 bits" if station.maps else "layer by layer" if "layer by layer" in done.said else "resident"
    failed = "above the cap" if done.killed else "" if done.code == 0 or refused else f"failed ({done.code})"
    if failed:
        print(f"{station.name}: {failed}\n{done.said[-2000:]}", file=sys.stderr)
    return {"measured": done.most, "seconds": done.seconds, "went": went, "refused": refused, "failed": failed}


def library_bytes(program: str) -> tuple[int, int]:
    """Bytes that a program's libraries alone take, and those that they reserve beyond."""
    code = f"import os, {LIBRARIES[program]}\nfrom bench.shared.capped import held, reserved"
    code += "\nprint(held(os.getpid()), reserved(os.getpid()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    taken, counted = map(int, done.stdout.splitlines()[-1].split())
    return taken, counted - taken


def prepare(work: Path, shape: Shape) -> int:
    """Write the model, its tokenizer and the prose that is measured; returns the bytes of the weights."""
    from prune.checkpoint.headers import read_checkpoint
    from tests.support.models import VOCABULARY, save_small_tokenizer

    assert shape.vocabulary == VOCABULARY
    if not (work / "prose.jsonl").exists():
        make(work / "full", shape)
        save_small_tokenizer(work / "full", SAMPLE / "model")
        documents = (SAMPLE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[:PROSE]
        (work / "prose.jsonl").write_text("\n".join(documents) + "\n", encoding="utf-8")
    return sum(tensor.size for tensor in read_checkpoint(work / "full").tensors())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a model of 4 MiB, which is told its cap")
    parser.add_argument("--work", type=Path, help="where models are made and left: a second call goes on there")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/one_card.json"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-card-") as folder:
        work = asked.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        document = measure(work, SHAPES["tiny" if asked.tiny else "default"], tiny=asked.tiny)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(document, indent=1) + "\n")
    rows, weights, cap = document["stations"], document["weights"], document["shape"]["cap"]
    below = ", ".join(f"{name} {size / MIB:.0f}" for name, size in document["libraries"].items())
    print(f"\nweights {weights / MIB:.0f} MiB, {weights / cap:.2f} times the cap; libraries (MiB): {below}\n")
    print("| stage | reckoned | measured | cap (MiB) | way | seconds |\n|---|---|---|---|---|---|")
    print("\n".join(map(row, rows)))
    wrong = [f"{found['station']}: {found['failed']}" for found in rows if found["failed"]]
    if not asked.tiny:
        wrong += [
            f"{found['station']}: {found['went']}, not {found['way']}"
            for found in rows
            if found["went"] != found["way"]
        ]
    if wrong:
        sys.exit("\n".join(wrong))


def measure(work: Path, shape: Shape, *, tiny: bool) -> dict[str, Any]:
    """Every stage in turn, up to the first that fails; what has passed in `work` before is taken from there."""
    told = ["--max-memory", f"{shape.cap}B"] if tiny else []
    kept = work / "stations.json"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    passed = {found["station"] for found in rows}
    size = prepare(work, shape)
    libraries = {program: library_bytes(program) for program in LIBRARIES}
    for number in range(len(stations(work, shape, told))):
        station = stations(work, shape, told)[number]  # anew: a patch that was refused is passed over
        if station.name in passed:
            continue
        below, beyond = libraries[station.words[0]]
        cap = size // SMALL_TIMES if station.small else shape.cap
        way = ways(work / "full", shape, cap if tiny else cap - below)[station.reckoned_as]
        done = run(station, None if tiny else cap, size + beyond)
        rows.append({"station": station.name, "reckoned": below + way.memory, "way": way.way, "cap": cap, **done})
        print(row(rows[-1]), flush=True)
        if done["failed"]:
            break
        kept.write_text(json.dumps(rows))
    return {
        "shape": asdict(shape),
        "layers": shape.layers,
        "weights": size,
        "libraries": {program: taken for program, (taken, _) in libraries.items()},
        "stations": rows,
    }


def row(found: dict[str, Any]) -> str:
    """One line of the table, in MiB."""
    mib = [f"{found[name] / MIB:.0f}" for name in ("reckoned", "measured", "cap")]
    name = f"{found['station']}{' (refused: no gain)' if found['refused'] else ''}"
    way = found["went"] if found["went"] == found["way"] else f"{found['went']} (reckoned: {found['way']})"
    return f"| {' | '.join([name, *mib, way, format(found['seconds'], '.0f')])} |"


if __name__ == "__main__":
    main()
