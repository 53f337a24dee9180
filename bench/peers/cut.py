"""`prune cut` beside mergekit: the same layers dropped, by turns, and the tensors compared byte by byte.

    python -m bench.peers.cut

Two checkpoints: one of random weights in TinyLlama-1.1B's shape (bfloat16, 2.2 GB in six shards), and the sample model
(one file). The page cache is warm. The start-up of each (`--help`, which imports what it needs) takes turns with the
cuts, and `seconds without the start` is what is left. `prune cut` waits until its files are on the disk, mergekit does
not: `to disk seconds` is the time until then, for both. mergekit runs with its defaults; smaller shards
(`--out-shard-size`) changed neither its time nor its memory.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.record import ROOT, THREADS, WORK, Measured, bytes_under, write
from bench.peers.turns import MIB, emptied, figures, must, ours, take_turns, warm
from bench.shared.environments import Environment, NotInstallableError, environment
from bench.shared.random_llama import write_random_llama

MERGEKIT = "mergekit==0.1.5"
SAMPLE = ROOT / ".sample" / "model"
TINY_LLAMA = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
_LIMIT = 300  # seconds that a turn may take


@dataclass(frozen=True)
class Case:
    """A model of so many layers, and its cut: layers `first` to `last` go."""

    name: str
    what: str
    source: Path
    layers: int
    first: int
    last: int
    dtype: str
    rounds: int


@dataclass
class Kept:
    """What a turn left, taken before the next one removes it. folder: the last one, for the comparison of tensors."""

    out: Path
    folder: Path
    to_disk: list[float] = field(default_factory=list)

    def take(self, run: Measured) -> None:
        began = time.monotonic()
        for path in self.out.rglob("*"):
            if path.is_file():
                handle = os.open(path, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)
        self.to_disk.append(run.seconds + time.monotonic() - began)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.out.exists():
            self.out.rename(self.folder)


def main() -> None:
    work = emptied(WORK / "cut")
    try:
        random = work / "model"
        size = write_random_llama(random, deviation=0.02, together=5, **TINY_LLAMA)
        for file in SAMPLE.glob("tokenizer*"):
            shutil.copy(file, random)
        what = f"drop 6 of 22 layers, TinyLlama's shape, bf16, {size / 1e9:.1f} GB"
        compare(Case("cut-random", what, random, 22, 14, 19, "bfloat16", 3), work)
        what = "drop 6 of 30 layers, SmolLM2-135M, fp32"
        compare(Case("cut-sample", what, SAMPLE, 30, 12, 17, "float32", 3), work)
    finally:
        shutil.rmtree(work)


def compare(case: Case, work: Path) -> None:
    """Measure one case, and write its results."""
    theirs = MERGEKIT.replace("==", " ")
    try:
        with environment("mergekit", [MERGEKIT]) as made:
            rows = measured(case, work, made, made.version("mergekit"))
    except NotInstallableError as error:
        rows = [*measured(case, work, None, theirs), {"tool": theirs, "not_run": f"not installable: {error}"}]
    common = {"layers_dropped": f"{case.first}-{case.last} of {case.layers}", "rounds": case.rounds, "threads": THREADS}
    write(case.name, case.what, rows, settings=common | {"dtype": case.dtype, "page_cache": "warm"})


def measured(case: Case, work: Path, made: Environment | None, theirs: str) -> list[dict[str, object]]:
    """The rows: ours, and mergekit's where there is an environment with it."""
    out = work / "out"
    name = ours("prune cut")
    cut = [sys.executable, "-m", "prune", "cut", case.source, "--layers", f"{case.first}-{case.last}", "--check", 0]
    ways: dict[str, list[object]] = {name: [*cut, "--out", out], _start(name): [*cut[:4], "--help"]}
    if made is not None:
        config = work / "slices.yml"
        config.write_text(slices(case))
        merge = made.command("mergekit-yaml")
        ways |= {theirs: [merge, config, out, "--quiet"], _start(theirs): [merge, "--help"]}
    kept = {way: Kept(out, work / f"kept-{number}") for number, way in enumerate(ways) if _start(way) in ways}
    runs = take_turns(
        ways, case.rounds, limit_s=_LIMIT, before=lambda: warm(case.source),
        after=lambda way, run: kept[way].take(run) if way in kept else None,
    )  # fmt: skip
    must(runs[name][-1])
    rows = []
    for way, one in kept.items():
        start = statistics.median(run.seconds for run in runs[_start(way)])
        more = {
            "disk_mib": round(bytes_under(one.folder) / MIB, 1),
            "seconds_without_the_start": round(statistics.median(run.seconds for run in runs[way]) - start, 2),
            "to_disk_seconds": round(statistics.median(one.to_disk), 2),
        }
        if way != name and not runs[way][-1].code:
            more |= equal_tensors(kept[name].folder, one.folder)
        rows.append(figures(way, runs[way], **more))
    for one in kept.values():
        shutil.rmtree(one.folder, ignore_errors=True)
    return rows


def _start(way: str) -> str:
    return f"{way}, its start"


def slices(case: Case) -> str:
    """mergekit's configuration of the cut; its ranges end before their second number."""
    parts = [(0, case.first), (case.last + 1, case.layers)]
    sources = [
        {"sources": [{"model": str(case.source), "layer_range": list(part)}]} for part in parts if part[0] < part[1]
    ]
    return json.dumps({"slices": sources, "merge_method": "passthrough", "dtype": case.dtype})


def equal_tensors(one: Path, other: Path) -> dict[str, object]:
    """How many tensors of two checkpoints have the same name, dtype, shape and bytes."""
    first, second = dict(tensors(one)), dict(tensors(other))
    same = sum(name in second and same_bytes(place, second[name]) for name, place in first.items())
    return {"tensors_byte_equal": f"{same} of {len(first | second)}"}


Place = tuple[Path, int, int, str, tuple[int, ...]]


def tensors(folder: Path) -> Iterator[tuple[str, Place]]:
    """Name, and where its bytes are: file, begin, length, dtype, shape."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                yield name, (path, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))


def same_bytes(one: Place, other: Place, piece: int = 16 << 20) -> bool:
    if one[2:] != other[2:]:
        return False
    with one[0].open("rb") as first, other[0].open("rb") as second:
        first.seek(one[1])
        second.seek(other[1])
        left = one[2]
        while left:
            part = first.read(min(piece, left))
            if not part or part != second.read(len(part)):
                return False
            left -= len(part)
    return True


if __name__ == "__main__":
    main()
