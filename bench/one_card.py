"""The chain on one card, shown without one: a model of 1.7 times the memory goes through every station under a cap.

    OMP_NUM_THREADS=1 python bench/one_card.py            # some 10 minutes on two idle CPU cores
    OMP_NUM_THREADS=1 python bench/one_card.py --tiny     # the same stations, a model of 4 MiB, told its cap

Makes a random Llama in bfloat16 with the sample's tokenizer. Each station is the command itself, in a process of its
own with a limit that the kernel keeps: RLIMIT_DATA (private memory: heap, anonymous maps, the libraries' own), set from
outside. They are told nothing of it. The distillation loads its model in 4 bits, for which safetensors maps all files
and transformers reads ahead: it runs without the limit, with the cap as its --max-memory; the table has what it took.

`reckoned` is the sum of what a station holds at its peak, libraries included; `measured` the most anonymous memory that
was resident (every 20 ms), libraries included.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / ".sample"
MIB = 1 << 20
TIMES = 1.7  # the model over the cap: 70B in bf16 on a card of 80 GB
HEAD_CHUNK = 128 * MIB  # of logits in float32 (prune.models.variants); three of them stand at once
# glibc keeps freed blocks of up to 32 MiB, in pieces that fit nothing; with this it gives every block back at once.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
LIBRARIES = "import torch, transformers, peft, bitsandbytes, heal.training.distill, heal.merging.merge"


@dataclass(frozen=True)
class Shape:
    """The random Llama: as many layers as make `TIMES` the cap; and how much text the stations read."""

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
    "default": Shape(1024, 2816, 8192, 768 * MIB, 512),
    "tiny": Shape(64, 128, 8192, 5 * MIB // 2, 512),
}


@dataclass(frozen=True)
class Station:
    """A command, and what it should hold at its peak beside the libraries, in bytes.

    free: it has no limit. may_refuse: words of a refusal that is no failure.
    """

    name: str
    words: Sequence[str]
    reckoned: int
    free: bool = False
    may_refuse: str = ""


def make(folder: Path, shape: Shape) -> int:
    """Write the model, a shard a layer; returns the bytes of its weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(4, shape.width // 64)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=heads, num_key_value_heads=heads // 4,
        max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    folder.mkdir()
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in LlamaForCausalLM(config).named_parameters()}
    torch.manual_seed(0)
    place: dict[str, str] = {}
    total = 0
    for part in [*(f".layers.{i}." for i in range(shape.layers)), ""]:
        some = {name: size for name, size in shapes.items() if name not in place and part in name}
        file = f"model-{len(set(place.values())):05d}.safetensors"
        empty = {name: torch.empty(size, dtype=torch.bfloat16) for name, size in some.items()}
        tensors = {name: t.fill_(1) if t.dim() == 1 else t.normal_(0, 0.04) for name, t in empty.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        total += sum(t.nbytes for t in tensors.values())
        place |= dict.fromkeys(some, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return total


def give_tokenizer(folder: Path, shape: Shape) -> None:
    """The sample's tokenizer; of a smaller vocabulary its first tokens."""
    from tests.support.models import save_small_tokenizer

    if shape.vocabulary < 49152:
        save_small_tokenizer(folder, SAMPLE / "model")
        return
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (SAMPLE / "model" / name).is_file():
            shutil.copy(SAMPLE / "model" / name, folder)


def stations(work: Path, shape: Shape, told: Sequence[str]) -> list[Station]:
    """The chain; `told`: options of a cap that is too small for the kernel to keep."""
    full, cut, patched, adapter, merged = (work / name for name in ("full", "cut", "patched", "adapter", "merged"))
    base = patched if patched.exists() else cut
    text, held = str(SAMPLE / "text.jsonl"), str(SAMPLE / "heldout.jsonl")
    slots, states = 2 * shape.layer, 2 * shape.width * shape.tokens
    chunk = min(HEAD_CHUNK, 4 * shape.vocabulary * shape.tokens)
    ends = shape.table + 3 * chunk + 4 * states  # the head, its logits, and the states of a few candidates
    gram, projection = 8 * shape.inner**2, 8 * shape.inner * shape.width
    fitted = 2 * shape.tokens * (shape.inner + 2 * shape.width)
    heal = ["--text", text, "--held-out", held, "--held-out-tokens", "256", "--length", "64", "--device", "cpu"]
    scanning = ["--samples", "8", "--length", "64", "--text", text]
    return [
        Station("scan", ["prune", "scan", full, *scanning, "--device", "cpu", "--out", work / "scan.json", *told],
                max(slots, shape.table) + 2 * states),
        Station("cut, with its check",
                ["prune", "cut", full, "--n", shape.dropped, "--scan", work / "scan.json", "--check", "2",
                 "--check-tokens", shape.tokens, "--text", text, "--out", cut, *told],
                max(ends, slots + 8 * states)),
        Station("patch",
                ["heal", "patch", cut, "--teacher", full, *heal, "--tokens", shape.tokens, "--out", patched, *told],
                max(fitted + 2 * gram + 5 * projection, ends), may_refuse="no patch is better than none"),
        Station("distill, 4 bits",
                ["heal", "distill", base, "--teacher", full, *heal, "--tokens", "256", "--batch-size", "1",
                 "--accumulate", "1", "--rank", "8", "--bits", "4", "--out", adapter, "--max-memory", f"{shape.cap}B"],
                distilled(full, shape), free=True),
        Station("merge, auto", ["heal", "merge", adapter, "--out", merged, "--device", "cpu", *told],
                max(ends, slots + 6 * projection)),
        Station("scan of the merged model",
                ["prune", "scan", merged, *scanning, "--device", "cpu", "--out", work / "merged.json", *told],
                max(slots, shape.table) + 2 * states),
    ]  # fmt: skip


def distilled(full: Path, shape: Shape) -> int:
    """What `heal budget` reckons for the distillation, less its own allowance for a GPU's libraries."""
    from heal.budget.plan import plan_budget
    from heal.settings import BudgetQuery, Settings

    query = BudgetQuery(n=shape.dropped, tokens=256, method="distill")
    settings = Settings(length=64, batch_size=1, rank=8, bits=4)
    return plan_budget(full, query, settings).memory.total


def run(station: Station, limit: int | None) -> dict[str, Any]:
    """Run a station under its limit: the most anonymous memory that was resident, and seconds."""
    words = [str(word) for word in station.words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | GIVE_BACK
    keep = None if limit is None else partial(resource.setrlimit, resource.RLIMIT_DATA, (limit, limit))
    began, most = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "eval" if words[0] == "evaluate" else words[0], *words[1:]],
            cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=keep,
        )  # fmt: skip
        while child.poll() is None:
            most = max(most, anonymous(child.pid))
            time.sleep(0.02)
        errors.seek(0)
        said = errors.read()
    if child.returncode and not (station.may_refuse and station.may_refuse in said):
        sys.exit(f"{station.name} failed ({child.returncode}):\n{said[-2000:]}")
    streamed = "layer by layer" in said
    return {
        "measured": most,
        "seconds": time.monotonic() - began,
        "streamed": streamed,
        "refused": child.returncode != 0,
    }


def anonymous(process: int) -> int:
    """Bytes of anonymous memory of a process that are resident; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def libraries() -> int:
    """Bytes of anonymous memory that the libraries alone take."""
    code = f"{LIBRARIES}\nfrom bench.one_card import anonymous\nimport os\nprint(anonymous(os.getpid()))"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | GIVE_BACK
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a model of 4 MiB, which is told its cap")
    parser.add_argument("--folder", help="where models are made; a temporary folder if not named")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/one_card.json"))
    asked = parser.parse_args()
    sys.path[0] = str(ROOT)  # the folder bench/ holds a heal.py that is not the package
    shape = SHAPES["tiny" if asked.tiny else "default"]
    told = ["--max-memory", f"{shape.cap}B"] if asked.tiny else []
    below = libraries()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-card-", dir=asked.folder) as folder:
        work = Path(folder)
        size = make(work / "full", shape)
        give_tokenizer(work / "full", shape)
        for number in range(len(stations(work, shape, told))):
            station = stations(work, shape, told)[number]  # anew: a patch that was refused is passed over
            found = run(station, None if asked.tiny or station.free else shape.cap)
            rows.append({"station": station.name, "reckoned": below + station.reckoned, "cap": shape.cap, **found})
            print(row(rows[-1]), flush=True)
    document = {"shape": asdict(shape), "layers": shape.layers, "weights": size, "libraries": below, "stations": rows}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nweights {size / MIB:.0f} MiB, {size / shape.cap:.2f} times the cap; libraries {below / MIB:.0f} MiB\n")
    print("| station | reckoned | measured | cap (MiB) | layer by layer | seconds |\n|---|---|---|---|---|---|")
    print("\n".join(map(row, rows)))
    above = [found["station"] for found in rows if found["measured"] > shape.cap]
    if above and not asked.tiny:
        sys.exit(f"above the cap: {', '.join(above)}")


def row(found: dict[str, Any]) -> str:
    """One line of the table, in MiB."""
    mib = [f"{found[name] / MIB:.0f}" for name in ("reckoned", "measured", "cap")]
    name = f"{found['station']}{' (refused: no gain)' if found['refused'] else ''}"
    return f"| {' | '.join([name, *mib, 'yes' if found['streamed'] else 'no', format(found['seconds'], '.0f')])} |"


if __name__ == "__main__":
    main()
