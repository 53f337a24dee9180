"""What a scan costs beside a bare forward pass of the decoder, and beside the pattern that keeps all hidden states.

Four ways over the same windows of one loaded model, in turn, several rounds in one process; each round's times are
divided by that round's bare forward pass, and medians are printed. Peak memory is measured in a process of its own
for each way: resident, or on a GPU that of torch's allocator. Run it alone on the machine.

`--shape llama-3-8b` takes random layers of that model's shape instead: all 32 of them, whose weights repeat every
four layers, so that 2 GiB hold what would be 14; a pass computes and reads as much as with weights of their own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from prune.checkpoint.source import locate
from prune.models.batches import padded, plan_batches
from prune.models.loading import load_model, load_tokenizer, pick_device
from prune.models.precision import pick_dtype
from prune.models.walks.hooks import decoder_of
from prune.scanning.scan import measure
from prune.text.windows import draw_samples

BUDGET = 1024


def padded_on(device, windows, batch):
    return (part.to(device) for part in padded([windows[i] for i in batch]))


def timed(way, model, windows):
    """Seconds until the device has done all of it."""
    began = time.perf_counter()
    way(model, windows)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_bytes(device):
    """The most that was held so far: of a GPU by torch's allocator, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bare(model, windows):
    decoder = decoder_of(model)
    with torch.no_grad():
        for batch in plan_batches([len(w) for w in windows], batch_size="auto", budget=BUDGET):
            ids, mask = padded_on(model.device, windows, batch)
            decoder(input_ids=ids, attention_mask=mask, use_cache=False)


def all_states(model, windows):
    """The usual pattern: every layer's states and the logits of a batch, then a cosine for every (l, n)."""
    sums = None
    with torch.no_grad():
        for batch in plan_batches([len(w) for w in windows], batch_size="auto", budget=BUDGET):
            ids, mask = padded_on(model.device, windows, batch)
            out = model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
            last = mask.sum(1) - 1
            rows = torch.arange(len(ids), device=model.device)
            states = [h[rows, last].float() for h in out.hidden_states]
            found = [
                torch.arccos(torch.cosine_similarity(states[start], states[start + n]).clamp(-1, 1)).sum()
                for n in range(1, len(states))
                for start in range(len(states) - n)
            ]
            sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]


WAYS: dict[str, Callable] = {
    "bare decoder forward": bare,
    "prune scan --tokens last": lambda model, windows: measure(model, windows, tokens="last"),
    "prune scan --tokens all": lambda model, windows: measure(model, windows, tokens="all"),
    "output_hidden_states, all sizes": all_states,
}


def llama_3_8b(dtype):
    """Llama-3-8B's 32 layers with random weights, each shared by eight layers; a small vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 1024}
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    config = LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=8, rope_parameters=rope)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    layers = model.model.layers
    torch.manual_seed(0)
    for index, layer in enumerate(layers):
        if index < 4:
            layer.to_empty(device="cpu").to(dtype)
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else torch.nn.init.ones_(parameter)
            continue
        for path, module in layer.named_modules():
            for name, _ in list(module.named_parameters(recurse=False)):
                setattr(module, name, layers[index % 4].get_submodule(path).get_parameter(name))
    for module in (model.model.embed_tokens, model.model.norm, model.lm_head):
        module.to_empty(device="cpu").to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter) if parameter.dim() > 1 else torch.nn.init.ones_(parameter)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--shape", choices=["llama-3-8b"], help="random weights of this shape instead of --model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/scan.json"))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    device = pick_device(asked.device)
    source = locate(asked.model)
    drawn = draw_samples([asked.text], load_tokenizer(source), samples=asked.samples, length=asked.length, seed=0)
    windows = [sample.ids for sample in drawn]
    if asked.shape:
        windows = [[token % 1024 for token in window] for window in windows]
        model = llama_3_8b(pick_dtype(asked.dtype, device=device)).to(device)
    else:
        model = load_model(source, dtype=pick_dtype(asked.dtype, device=device), device=device)
    if asked.only:
        before = peak_bytes(model.device)
        WAYS[asked.only](model, windows)
        print(json.dumps([before, peak_bytes(model.device)]))
        return
    for way in WAYS.values():
        way(model, windows[:4])
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(asked.rounds):
        for name, way in WAYS.items():
            times[name].append(timed(way, model, windows))
    base = times["bare decoder forward"]
    rows = []
    for name, seconds in times.items():
        command = [sys.executable, *sys.argv, "--only", name]
        memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        ratios = sorted(s / b for s, b in zip(seconds, base, strict=True))
        rows.append(
            {
                "way": name,
                "seconds": seconds,
                "median": statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "ratio_range": [ratios[0], ratios[-1]],
                "peak_mib": memory[1] / 2**20,
                "over_loaded_mib": (memory[1] - memory[0]) / 2**20,
            }
        )
    found = {"tokens": sum(map(len, windows)), "threads": torch.get_num_threads(), "dtype": asked.dtype, "rows": rows}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['tokens']} tokens, {asked.dtype}, {found['threads']} threads, {asked.rounds} rounds in turn")
    print("| way | seconds (median) | ratio to bare (median, range) | peak memory |\n|---|---|---|---|")
    for row in rows:
        low, high = row["ratio_range"]
        print(
            f"| {row['way']} | {row['median']:.2f} | {row['ratio']:.3f} ({low:.3f}-{high:.3f}) "
            f"| {row['peak_mib']:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
