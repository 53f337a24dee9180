"""A scan of a model several times larger than the memory it is given, the limit enforced by the kernel.

Makes a random Llama in bfloat16 under --folder, then scans it in a child process under RLIMIT_DATA (private memory:
heap, anonymous maps, and the libraries' own), which the child cannot raise. Reports read, compute and wall time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.shared

from bench.shared.random_llama import write_random_llama


def make(folder: Path, layers: int, width: int) -> int:
    return write_random_llama(
        folder, deviation=0.02, vocab_size=512, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=layers, num_attention_heads=width // 64, num_key_value_heads=width // 256,
        tie_word_embeddings=True,
    )  # fmt: skip


def child(folder: str, cap: int, tokens: int) -> None:
    import torch

    from bench.shared.layer_times import layer_times
    from prune.checkpoint.source import Source
    from prune.models.walks.layer_files import fits
    from prune.scanning.samples import Samples
    from prune.scanning.settings import ScanSettings
    from prune.scanning.streaming import measure_streamed

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    assert soft == hard == cap
    generator = torch.Generator().manual_seed(0)
    windows = [torch.randint(3, 512, (128,), generator=generator).tolist() for _ in range(tokens // 128)]
    source = Source(Path(folder), "synthetic")
    assert not fits(source, "auto", "cpu", None)  # it finds out by itself
    with layer_times() as times:
        measured = measure_streamed(source, Samples(windows), ScanSettings(device="cpu"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**vars(times), "peak_rss_mib": peak, "token_count": measured.token_count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--cap-mib", type=int, default=1536)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--folder", help="where the model is made; a temporary folder if not named")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/scan_out_of_core.json"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cap = asked.cap_mib << 20
    if asked.child:
        child(asked.child, cap, asked.tokens)
        return
    with tempfile.TemporaryDirectory(prefix="bench-scan-", dir=asked.folder) as folder:
        size = make(Path(folder), asked.layers, asked.width)
        sizes = ["--cap-mib", str(asked.cap_mib), "--tokens", str(asked.tokens)]
        command = [sys.executable, __file__, "--child", folder, *sizes]
        limit = partial(resource.setrlimit, resource.RLIMIT_DATA, (cap, cap))
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    if done.returncode:
        sys.exit(done.stderr)
    found = {"weights_mib": size / 2**20, "cap_mib": asked.cap_mib, **json.loads(done.stdout.splitlines()[-1])}
    found["wall_over_larger"] = found["wall"] / max(found["read"], found["compute"])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
