"""Speed and memory of a healing step beside the usual stack: peft, Trainer and whole logits; two copies to distil.

    python bench/heal_speed.py --bits 16
    python bench/heal_speed.py --bits 4
    python bench/heal_speed.py --project ../before --ways qlora distill     # this checkout beside another one

Each way takes the same number of steps on rows of the same size, in a process of its own (so that peaks are its own),
all ways in turn, several rounds; ratios are to the first of --ways in the same round, medians over rounds. The first
step, which loads kernels, is not counted. Run it alone on the machine. On a GPU, peaks are those of torch's allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = {
    "qlora": ("qlora", "all"),
    "qlora after-cut": ("qlora", "after-cut"),
    "distill": ("distill", "all"),
    "distill after-cut": ("distill", "after-cut"),
}
HERE = Path(__file__).resolve().parents[1]
OTHER = ", other checkout"
USUAL = {"usual: Trainer, whole logits": False, "usual: and a second copy as teacher": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/text.jsonl")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--start", type=int, default=9)
    parser.add_argument("--bits", type=int, default=16, choices=[4, 16])
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--ways", nargs="+", default=[*OURS, *USUAL])
    parser.add_argument("--project", type=Path, help="another checkout of this project, timed in turn with this one")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/heal_speed.json"))
    parser.add_argument("--usual", choices=list(USUAL), help=argparse.SUPPRESS)
    parser.add_argument("--cut", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.steps < 2:
        parser.error("--steps: use at least 2, as the first is not counted")
    if asked.usual:
        print(json.dumps(usual(asked, distil=USUAL[asked.usual])))
        return
    with tempfile.TemporaryDirectory() as work:
        cut = Path(work) / "cut"
        place = ("--n", asked.n, "--start", asked.start)
        command("-m", "prune", "cut", asked.model, *place, "--out", cut)
        compared = [way for way in asked.ways if way in OURS] if asked.project else []
        found = {name: [] for way in asked.ways for name in (way, *([f"{way}{OTHER}"] if way in compared else []))}
        for turn in range(asked.rounds):
            for name in list(found)[:: -1 if turn % 2 else 1]:  # so that neither of a pair always comes first
                way = name.removesuffix(OTHER)
                project = asked.project if name.endswith(OTHER) else None
                found[name].append(ours(asked, cut, way, work, project) if way in OURS else theirs(way, cut))
                print(turn, name, found[name][-1], file=sys.stderr, flush=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"bits": asked.bits, "rounds": found}, indent=1) + "\n")
    print(
        f"{asked.bits} bits, {asked.batch_size} x {asked.length} tokens a step, {asked.steps} steps, "
        f"{asked.rounds} rounds in turn"
    )
    first = asked.ways[0]
    print(f"| way | tokens a second | time, of {first} (median, range) | peak memory | peak, of {first} |")
    print("|---|---|---|---|---|")
    base = found[first]
    for way, turns in found.items():
        ratios = sorted(b["rate"] / t["rate"] for t, b in zip(turns, base, strict=True))
        peaks = statistics.median(t["peak"] for t in turns), statistics.median(b["peak"] for b in base)
        print(
            f"| {way} | {statistics.median(t['rate'] for t in turns):.0f} | {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f}-{ratios[-1]:.2f}) | {peaks[0] / 2**20:.0f} MiB | {peaks[0] / peaks[1]:.2f} |"
        )
    for way in compared:
        pairs = zip(found[way], found[f"{way}{OTHER}"], strict=True)
        ratios = sorted(here["seconds"] / other["seconds"] for here, other in pairs)
        print(
            f"{way}: {statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}) times the seconds of all steps "
            "in the other checkout"
        )


def ours(asked, cut, way, work, project):
    kind, targets = OURS[way]
    out = Path(work) / "adapter"
    shutil.rmtree(out, ignore_errors=True)
    tokens = asked.steps * asked.batch_size * asked.length
    size = ("--tokens", tokens, "--length", asked.length, "--batch-size", asked.batch_size, "--accumulate", 1)
    learning = ("--rank", asked.rank, "--bits", asked.bits, "--targets", targets, "--checkpointing", "off")
    teacher = ("--teacher", asked.model, "--plain-loss", 0) if kind == "distill" else ()
    held = ("--held-out-tokens", 512, "--eval-every", asked.steps)
    words = ("-m", "heal", kind, cut, *teacher, "--text", asked.text, *size, *learning, *held, "--out", out)
    command("-P", *words, env=os.environ | {"PYTHONPATH": str((project or HERE).resolve())})
    document = json.loads((out / "heal.json").read_text())
    peak = document["peak_memory"]
    return {
        "rate": document["tokens_per_second"],
        "seconds": document["training_seconds"],
        "peak": peak.get("cuda_bytes", peak["resident_bytes"]),
    }


def theirs(way, cut):
    return json.loads(command(__file__, *sys.argv[1:], "--usual", way, "--cut", cut).splitlines()[-1])


def usual(asked, *, distil):
    """The same steps with peft and Trainer as they come: logits of all tokens, and for a teacher a model of its own."""
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainerCallback

    from heal.models.quantise import compute_dtype

    cuda = torch.cuda.is_available()
    device = "cuda:0" if cuda else "cpu"
    dtype = compute_dtype(device=device)  # as our commands take
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    four = BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=dtype) if asked.bits == 4 else None
    options = {"dtype": dtype, "quantization_config": four, "device_map": {"": device}}
    student = AutoModelForCausalLM.from_pretrained(asked.cut, **options)
    adapter = {"r": asked.rank, "lora_alpha": asked.rank, "lora_dropout": 0.05, "target_modules": "all-linear"}
    adapted = get_peft_model(student, LoraConfig(**adapter, task_type="CAUSAL_LM"))
    teacher = AutoModelForCausalLM.from_pretrained(asked.model, **options).eval() if distil else None
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    texts = [json.loads(line)["text"] for line in Path(asked.text).read_text().splitlines()[:2000]]
    ids = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    rows = [ids[at : at + asked.length] for at in range(0, len(ids) - asked.length, asked.length)]
    rows = rows[: asked.steps * asked.batch_size]

    class Distilling(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            if teacher is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            logits = model(input_ids=inputs["input_ids"]).logits
            with torch.no_grad():
                wanted = teacher(input_ids=inputs["input_ids"]).logits
            return torch.nn.functional.kl_div(
                logits.float().log_softmax(-1).flatten(0, 1),
                wanted.float().log_softmax(-1).flatten(0, 1),
                log_target=True,
                reduction="batchmean",
            )

    class Clock(TrainerCallback):
        began, steps = 0.0, []

        def on_step_begin(self, *_, **__):
            if cuda:
                torch.cuda.synchronize()
            self.began = time.monotonic()

        def on_step_end(self, *_, **__):
            if cuda:
                torch.cuda.synchronize()
            self.steps.append(time.monotonic() - self.began)

    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        size = {"max_steps": asked.steps, "per_device_train_batch_size": asked.batch_size, "learning_rate": 1e-4}
        quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": not cuda}
        arguments = transformers.TrainingArguments(scratch, **size, **quiet, gradient_checkpointing=False)
        data = Dataset.from_dict({"input_ids": rows, "labels": rows})
        trainer = Distilling(model=adapted, args=arguments, train_dataset=data, callbacks=[clock])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if cuda:
        peak = torch.cuda.max_memory_allocated()
    timed = clock.steps[1:] or clock.steps  # as ours: the first step also loads kernels
    return {"rate": len(timed) * asked.batch_size * asked.length / sum(timed), "peak": peak}


def command(*words, env=None):
    done = subprocess.run([sys.executable, *(str(word) for word in words)], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(w) for w in words)}\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
