"""What `prune cut --fit` reckons of a model, beside what a process holds that loads it and reads a prompt, on the CPU.

    OMP_NUM_THREADS=1 python bench/fit.py

Each row is a process of its own. "held" are the bytes of the loaded parameters, of the cache's tensors, and of the peak
of torch's allocator while the prompt is read (its profiler's events); "RSS" is what the process has grown by, from
before the weights are loaded to the peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for bench.shared

SETTINGS = (  # bits, tokens, sequences, tokens read at a time
    (16, 512, 1, None), (16, 2048, 1, None), (16, 2048, 4, None), (16, 2048, 4, 256), (8, 1024, 1, None),
    (4, 1024, 1, None),
)  # fmt: skip
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / ".sample" / "model")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # settings to measure in this process
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measure(asked.model, *json.loads(asked.child))))
        return
    print("| weights | prompts | weights, MiB: reckoned, held | KV cache | KV + work | error of all | RSS, MiB |")
    print("|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        command = [sys.executable, __file__, "--model", str(asked.model), "--child", json.dumps(setting)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        print(row(setting, json.loads(done.stdout.splitlines()[-1])), flush=True)


def row(setting: tuple[Any, ...], found: dict[str, float]) -> str:
    bits, tokens, sequences, chunk = setting
    reckoned = found["cache"] + found["work"]
    error = (found["weights"] + reckoned) / (found["held_weights"] + found["held_peak"]) - 1
    pairs = [(found["weights"], found["held_weights"]), (found["cache"], found["held_cache"])]
    pairs.append((reckoned, found["held_peak"]))
    cells = [f"{first / MIB:.1f}, {second / MIB:.1f}" for first, second in pairs]
    read = "" if chunk is None else f", {chunk} at a time"
    kind = "as stored (fp32)" if bits == 16 else f"{bits} bits"
    return f"| {kind} | {sequences} x {tokens}{read} | {' | '.join(cells)} | {error:+.2%} | {found['rss'] / MIB:.0f} |"


def measure(folder: Path, bits: int, tokens: int, sequences: int, chunk: int | None) -> dict[str, float]:
    """Bytes as they are reckoned, and as they are held."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from bench.shared.allocated import allocated_peak
    from prune.checkpoint.source import Source
    from prune.families.subject import open_subject
    from prune.models.loading import cache_argument, load_model
    from prune.models.memory.held import held_cache_bytes, held_weight_bytes
    from prune.models.memory.kv_cache import cache_of
    from prune.models.memory.needs import Load
    from prune.models.memory.reckoning import read_needs
    from prune.models.nf4 import quantisation

    subject = open_subject(folder)
    reckoned = read_needs(
        subject.source, subject.checkpoint, Load(tokens, sequences, bits, chunk),
        layer_of=subject.names.layer, layers=subject.layers,
    ).of(range(subject.layers))  # fmt: skip
    before = resident()
    how: dict[str, Any] = {}
    if bits < 16:
        how = {"quantization_config": quantisation(torch.bfloat16, bits=bits), "device_map": {"": "cpu"}}
    model = load_model(Source(folder, "it"), dtype="auto" if bits == 16 else torch.bfloat16, **how)
    ids = torch.arange(tokens * sequences).reshape(sequences, tokens) % 40_000
    step, key = chunk or tokens, cache_argument(model)
    with torch.no_grad():
        model(input_ids=ids[:1, :4])
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            cache = None
            for first in range(0, tokens, step):
                part = ids[:, first : first + step]
                answer = model(input_ids=part, **{key: cache}, use_cache=True, logits_to_keep=1)
                cache = cache_of(answer)
            answer.logits[:, -1].to(dtype=torch.float32, copy=True)
    held_cache = held_cache_bytes(cache)
    return {
        "weights": reckoned.weights, "cache": reckoned.cache, "work": reckoned.work,
        "held_weights": held_weight_bytes(model), "held_cache": held_cache, "held_peak": allocated_peak(seen),
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
    }  # fmt: skip


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
