"""What `heal budget` reckons beside what healing takes: peak memory in several settings, each in a process of its own.

    python bench/budget.py
    python bench/budget.py --cases 0 1 --as-is

Cuts the sample model and heals it for two steps. Resident memory is read at the peak of training, less what the
process held after a warm-up run on a tiny model (libraries); the peak of loading is read apart. glibc keeps freed
blocks of up to 32 MiB, so what is resident is more than what is alive: MALLOC_MMAP_THRESHOLD_ makes it give every
block above 256 KiB back at once, and `--as-is` leaves that away. With a GPU, peaks are those of torch's allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMON: dict[str, Any] = {"length": 256, "batch_size": 2, "rank": 32, "targets": "feed-forward", "dropout": 0.05}
CASES: list[dict[str, Any]] = [
    {"bits": 16, "checkpointing": True},
    {"bits": 16, "checkpointing": False},
    {"bits": 4, "checkpointing": True},
    {"bits": 4, "checkpointing": False},
    {"bits": 8, "checkpointing": False},
    {"bits": 16, "checkpointing": False, "length": 512},
    {"bits": 4, "checkpointing": True, "batch_size": 8},
    {"bits": 16, "checkpointing": False, "targets": "all", "dropout": 0.0},
    {"bits": 16, "checkpointing": False, "targets": "all", "method": "distill"},
    {"bits": 4, "checkpointing": True, "targets": "all", "method": "distill"},
]
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument("--held-out", default=".sample/heldout.jsonl")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--start", type=int, default=9)
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))))
    parser.add_argument("--as-is", action="store_true", help="leave glibc's allocator as it comes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/budget.json"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cut", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked, json.loads(asked.child))
        return
    found = []
    print(f"{'setting':62} {'reckoned':>9} {'measured':>9}  ratio   loading: reckoned, measured (MB)")
    with tempfile.TemporaryDirectory() as work:
        cut = Path(work) / "cut"
        place = ["--n", str(asked.n), "--start", str(asked.start), "--check", "0"]
        command = [sys.executable, "-m", "prune", "cut", asked.model, *place, "--out", str(cut)]
        subprocess.run(command, check=True, capture_output=True)
        for number in asked.cases:
            case = {"method": "qlora", **COMMON, **CASES[number]}
            command = [sys.executable, "-P", __file__, *sys.argv[1:], "--child", json.dumps(case), "--cut", str(cut)]
            env = {**os.environ, **({} if asked.as_is else GIVE_BACK)}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            one = json.loads(done.stdout.splitlines()[-1])
            found.append(one)
            print(line(one), flush=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"as_is": asked.as_is, "cases": found}, indent=1))


def line(one: dict[str, Any]) -> str:
    case, peak = one["case"], one["measured"]["training"]
    words = f"{case['method']} {case['targets']} {case['bits']} bits {case['batch_size']} x {case['length']}"
    words += f" dropout {case['dropout']:g}{' checkpointing' if case['checkpointing'] else ''}"
    numbers = f"{one['reckoned']['step'] / 1e6:9.0f} {peak / 1e6:9.0f}  {one['reckoned']['step'] / peak:5.3f}"
    return f"{words:62} {numbers}   {one['reckoned']['loading'] / 1e6:.0f}, {one['measured']['loading'] / 1e6:.0f}"


def child(asked: argparse.Namespace, case: dict[str, Any]) -> None:
    """Heal once, watch the peaks, and print them with what was reckoned."""
    import gc

    import torch

    import heal.training.loop
    from heal import BudgetQuery, DistillSettings, Settings, TextSource, distill, plan_budget, qlora
    from heal.budget.cost import memory_of
    from heal.settings import TrainingRun
    from prune.families.subject import read_shape
    from prune.models.loading import pick_device

    device = pick_device(asked.device)
    cuda = device.startswith("cuda")
    text = TextSource(asked.text, held_out=asked.held_out, held_out_tokens=128)
    options = {name: value for name, value in case.items() if name != "method"} | {"accumulate": 1}
    options["dtype"] = "bfloat16"  # what is reckoned; a CPU without bf16 products would take float32
    steps = 2 * case["length"] * case["batch_size"]
    peaks: dict[str, int] = {}
    inner = heal.training.loop.run

    def watched(*arguments: Any, **named: Any) -> Any:
        gc.collect()
        peaks["loading"] = peak(cuda)
        reset(cuda)
        try:
            return inner(*arguments, **named)
        finally:
            peaks["training"] = peak(cuda)

    with tempfile.TemporaryDirectory() as work:
        warm_up(Path(work), text, asked.model, case["bits"], device)
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        start = 0 if cuda else status("VmRSS")
        heal.training.loop.run = watched
        reset(cuda)
        out = Path(work) / "adapter"
        run = TrainingRun(tokens=steps, device=device, show_progress=False)
        if case["method"] == "distill":
            distill(asked.cut, asked.model, text, out, settings=DistillSettings(**options), run=run)
        else:
            qlora(asked.cut, text, out, settings=Settings(**options), run=run)
    budget = plan_budget(asked.cut, BudgetQuery(method=case["method"]), Settings(**options))
    shape = read_shape(asked.model if case["method"] == "distill" else asked.cut)
    reckoned = memory_of(shape, budget.settings.but(cuda=cuda)).model_dump()
    measured = {name: value - start for name, value in peaks.items()}
    print(json.dumps({"case": case, "device": device, "baseline": start, "reckoned": reckoned, "measured": measured}))


def warm_up(work: Path, text: Any, tokenizer: str, bits: int, device: str) -> None:
    """One step on a tiny model: whatever libraries load late is then loaded."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from heal import Settings, qlora
    from heal.settings import TrainingRun

    found = AutoTokenizer.from_pretrained(tokenizer)
    found.save_pretrained(work / "tiny")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(found), num_hidden_layers=2, **shape)).save_pretrained(work / "tiny")
    settings = Settings(length=32, batch_size=1, accumulate=1, rank=2, bits=bits)
    run = TrainingRun(tokens=64, device=device, show_progress=False)
    qlora(work / "tiny", text, work / "first", settings=settings, run=run)


def peak(cuda: bool) -> int:
    import torch

    return torch.cuda.max_memory_allocated() if cuda else status("VmHWM")


def reset(cuda: bool) -> None:
    """Forget the peak so far."""
    import torch

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(name + ":"))


if __name__ == "__main__":
    main()
