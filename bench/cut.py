"""What a cut costs beside `cp` of the bytes it keeps, and beside loading and saving tensors as merging tools do.

    python bench/cut.py [--size 6GB] [--shard 1.5GB] [--where DIR] [--repeats 3] [--xfs]

A synthetic sharded model of Llama-3-8B's widths (bf16, random bytes) is written under --where and removed again. Each
way runs in a process of its own, turn and turn about, `--repeats` times with a cold and with a warm page cache, and
every way ends with fsync of its files. What a process needs before it moves a byte (imports; for a cut its own
--dry-run) is measured alike and subtracted. The table shows medians as multiples of cp's.

--xfs does the same once more on an XFS file system with reflink, in a file mounted by loop (needs root and xfsprogs).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WIDTH, INNER, KEYS, VOCABULARY = 4096, 14336, 1024, 128256  # Llama-3-8B
_CHUNK = 4 << 20  # small, because a child's peak memory counts from its parent's

# What merging tools do: each tensor through the library's loader, each shard through its writer.
LOAD_AND_SAVE = """
import json, os, sys
import safetensors, torch
from safetensors import safe_open
from safetensors.torch import save_file
source, out, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if out == "-":
    raise SystemExit
os.mkdir(out)
def renamed(name):
    if not name.startswith("model.layers."):
        return name
    number, _, rest = name[len("model.layers."):].partition(".")
    if first <= int(number) < first + count:
        return None
    return f"model.layers.{int(number) - count * (int(number) >= first)}.{rest}"
for shard in sorted(name for name in os.listdir(source) if name.endswith(".safetensors")):
    tensors = {}
    with safe_open(os.path.join(source, shard), "pt") as file:
        for name in file.keys():
            if renamed(name):
                tensors[renamed(name)] = file.get_tensor(name)
    if tensors:
        save_file(tensors, os.path.join(out, shard), metadata={"format": "pt"})
        del tensors
        handle = os.open(os.path.join(out, shard), os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
"""


def size_of(words: str) -> int:
    """Bytes of "6GB" or "500MB"."""
    units = {"GB": 10**9, "MB": 10**6}
    return int(float(words[:-2]) * units[words[-2:].upper()])


def make_model(folder: Path, size: int, shard_limit: int) -> int:
    """Write the synthetic model; returns its number of layers. At least `size` bytes, shards of about `shard_limit`."""
    q, k = (WIDTH, WIDTH), (KEYS, WIDTH)
    layer = {
        "input_layernorm": (WIDTH,),
        "mlp.down_proj": (WIDTH, INNER),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "post_attention_layernorm": (WIDTH,),
        "self_attn.k_proj": k,
        "self_attn.o_proj": q,
        "self_attn.q_proj": q,
        "self_attn.v_proj": k,
    }
    one = 2 * sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in layer.values())
    layers = max(4, -(-(size - 4 * WIDTH * VOCABULARY) // one))
    tensors: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (VOCABULARY, WIDTH))]
    for number in range(layers):
        tensors += [(f"model.layers.{number}.{name}.weight", shape) for name, shape in layer.items()]
    tensors += [("model.norm.weight", (WIDTH,)), ("lm_head.weight", (VOCABULARY, WIDTH))]

    shards: list[list[tuple[str, tuple[int, ...], int]]] = [[]]
    for name, shape in tensors:
        count = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        if shards[-1] and sum(entry[2] for entry in shards[-1]) + count > shard_limit:
            shards.append([])
        shards[-1].append((name, shape, count))
    folder.mkdir()
    noise = memoryview(os.urandom(_CHUNK))
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        place = 0
        for name, shape, count in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, place + count]}
            place += count
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {name: file_name for name, _, _ in shard}
        with (folder / file_name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            while place:
                place -= file.write(noise[: min(_CHUNK, place)])
            os.fsync(file.fileno())
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
    config |= {"hidden_size": WIDTH, "intermediate_size": INNER, "vocab_size": VOCABULARY, "tie_word_embeddings": False}
    config |= {"num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8}
    (folder / "config.json").write_text(json.dumps(config))
    index = {"metadata": {"total_size": sum(n for shard in shards for *_, n in shard)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return layers


def warm(folder: Path) -> None:
    """Bring a folder's files into the page cache."""
    buffer = bytearray(1 << 20)
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def chill(folder: Path) -> None:
    """Drop a folder's files from the page cache (posix_fadvise; needs no rights, and leaves other programs' files)."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MB of a command."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    words = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command[0]} failed: {words.decode()[-500:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def measure(where: Path, size: int, shard: int, repeats: int, *, reflink: bool) -> None:
    """Make the model under `where`, run every way, print the table, and remove all of it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-cut-", dir=where))
    try:
        source, kept, out = folder / "model", folder / "kept", folder / "out"
        layers = make_model(source, size, shard)
        drop = max(1, layers // 4)
        first = layers - 1 - drop
        cut = [sys.executable, "-m", "prune", "cut", str(source), "--n", str(drop), "--start", str(first)]
        loads = [sys.executable, "-c", LOAD_AND_SAVE, str(source)]
        place = [str(first), str(drop)]
        copied = ["sh", "-c", 'cp -r --reflink=never "$1" "$2" && sync "$2"/* "$2"', "sh", str(kept), str(out)]
        ways = {
            "cp of the kept bytes, then fsync": (copied, ["true"]),
            "load each tensor, save_file each shard": ([*loads, str(out), *place], [*loads, "-", *place]),
            "prune cut (shares blocks)" if reflink else "prune cut": ([*cut, "--out", str(out)], [*cut, "--dry-run"]),
            "prune cut --link": ([*cut, "--link", "--out", str(out)], [*cut, "--dry-run"]),
        }
        run([*cut, "--out", str(kept)])
        if reflink:  # its blocks are the source's, and cp should read blocks of its own
            run(["cp", "-r", "--reflink=never", str(kept), str(out)])
            shutil.rmtree(kept)
            out.rename(kept)
        moved, linked = kept_bytes(source, kept)
        print(
            f"\n{folder_size(source) / 1e9:.2f} GB, {layers} layers in {len([*source.glob('*.safetensors')])} shards; "
            f"drop layers {first}-{first + drop - 1}: {moved / 1e9:.2f} GB stay, "
            f"{linked / 1e9:.2f} GB of them in shards that do not change"
        )
        for cache, prepare in (("cold", chill), ("warm", warm)):
            report(cache, alternate(ways, repeats, prepare, (source, kept), out))
    finally:
        shutil.rmtree(folder)


def alternate(
    ways: dict[str, tuple[list[str], list[str]]],
    repeats: int,
    prepare: Callable[[Path], None],
    read: tuple[Path, ...],
    out: Path,
) -> dict[str, list[tuple[float, float]]]:
    """Seconds without start-up, and peak MB, of each way, `repeats` times in turn. The start-up is measured beside each
    run; each result is removed, and the disk left to settle, before the next."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(repeats):
        order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        for name in order:
            for folder in read:
                prepare(folder)
            os.sync()
            start, _ = run(ways[name][1])
            seconds, peak = run(ways[name][0])
            found[name].append((seconds - start, peak))
            shutil.rmtree(out)
    return found


def report(cache: str, found: dict[str, list[tuple[float, float]]]) -> None:
    times = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in found.items()}
    base = times[next(iter(times))]
    print(f"\n{cache} cache\n\n| way | time / cp | spread | peak RSS |\n|---|---|---|---|")
    for name, runs in found.items():
        low, high = (pick(seconds for seconds, _ in runs) for pick in (min, max))
        memory = max(peak for _, peak in runs)
        print(f"| {name} | {times[name] / base:.2f} | {low / base:.2f}-{high / base:.2f} | {memory:.0f} MB |")
    print(f"\n(cp: {base:.2f} s)", flush=True)


def kept_bytes(source: Path, kept: Path) -> tuple[int, int]:
    """Bytes of the pruned shards, and of those among them that are files of the source unchanged."""
    headers = {header(path) for path in source.glob("*.safetensors")}
    shards = list(kept.glob("*.safetensors"))
    return sum(p.stat().st_size for p in shards), sum(p.stat().st_size for p in shards if header(p) in headers)


def header(shard: Path) -> bytes:
    with shard.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@contextmanager
def xfs(where: Path, size: int) -> Iterator[Path]:
    """An XFS file system with reflink in a file under `where`, mounted while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="bench-xfs-", dir=where))
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(5 * size)
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", mount], check=True)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default=size_of("6GB"), help="of the model, at least")
    parser.add_argument("--shard", type=size_of, default=size_of("1.5GB"), help="most bytes of a shard")
    parser.add_argument("--where", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--xfs", action="store_true", help="also on an XFS loop mount with reflink")
    chosen = parser.parse_args()
    measure(chosen.where, chosen.size, chosen.shard, chosen.repeats, reflink=False)
    if chosen.xfs:
        with xfs(chosen.where, chosen.size) as mount:
            print("\nXFS with reflink, in a loop-mounted file")
            measure(mount, chosen.size, chosen.shard, chosen.repeats, reflink=True)


if __name__ == "__main__":
    main()
