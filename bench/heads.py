"""What it costs to score all heads beside plain generation of the same trials.

Three ways over the same trials of one loaded model, in turn, in rounds whose order alternates, batch by batch in one
process: the trials answered with all heads scored (`prune heads`), the same answers by the same code without a look at
any head, and transformers' own `generate`, which reads every prompt from its first token. The first two read what
trials have in common once. A round's times are divided by that round's plain answers, in wall time, and in processor
time, which other work on the machine hardly moves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from prune.checkpoint.source import locate
from prune.instruments.attention import find_sites
from prune.instruments.detecting import Writer, batches
from prune.instruments.needles import NEEDLES
from prune.instruments.prompts import Prompter, plan_trials, read_sentences
from prune.instruments.settings import parse_numbers, spread_depths
from prune.instruments.watching import HeadWatcher
from prune.models.loading import load_model, load_tokenizer, pick_device
from prune.models.precision import pick_dtype

SCORED, PLAIN, GENERATE = "all heads scored", "plain answers", "transformers' generate"
TARGET = 1.3  # times the plain answers


class Ways:
    """The three ways of answering a batch; each gives the answers."""

    def __init__(self, model: Any, tokenizer: Any, new_tokens: int) -> None:
        self.model, self.tokenizer, self.new_tokens = model, tokenizer, new_tokens
        self.writers = {way: Writer(model, tokenizer, new_tokens) for way in (SCORED, PLAIN)}  # each reads for itself
        self.watcher = HeadWatcher(find_sites(model))

    def answer(self, way: str, prompts: list[Any]) -> list[str]:
        if way != GENERATE:
            return self.writers[way].write(prompts, self.watcher if way == SCORED else None)
        width = max(len(prompt.ids) for prompt in prompts)
        pads = [width - len(prompt.ids) for prompt in prompts]
        ids = torch.tensor([[0] * pad + list(prompt.ids) for pad, prompt in zip(pads, prompts, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        written = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=self.new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.eos_token_id,
        )[:, width:]
        return [text.strip() for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]


def timed(ways: Ways, way: str, prompts: list[Any]) -> tuple[float, float, list[str]]:
    """Wall seconds, processor seconds, and the answers."""
    wall, cpu = time.perf_counter(), time.process_time()
    answers = ways.answer(way, prompts)
    if ways.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".sample/model")
    parser.add_argument("--text", default=".sample/heldout.jsonl")
    parser.add_argument("--lengths", default="350,700,1400")
    parser.add_argument("--depths", type=int, default=5)
    parser.add_argument("--needles", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--skip-generate", action="store_true", help="leave transformers' generate out")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/heads.json"))
    asked = parser.parse_args()
    source, device = locate(asked.model), pick_device(asked.device)
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=pick_dtype(asked.dtype, device=device), device=device)
    trials = plan_trials(
        Prompter(tokenizer),
        list(enumerate(NEEDLES))[: asked.needles],
        read_sentences([asked.text], "text", 0),
        parse_numbers(asked.lengths, "--lengths"),
        spread_depths(asked.depths),
    )
    groups = [[trials[i].prompt for i in numbers] for numbers in batches(trials, asked.batch_tokens)]
    ways = Ways(model, tokenizer, asked.new_tokens)
    order = [SCORED, PLAIN] if asked.skip_generate else [SCORED, PLAIN, GENERATE]
    for way in order:
        ways.answer(way, groups[0][:1])  # what is done once, such as finding out how attention may be packed
    wall = {way: [0.0] * asked.rounds for way in order}  # of each round
    cpu = {way: [0.0] * asked.rounds for way in order}
    unlike = dict.fromkeys(order, 0)
    for turn in range(asked.rounds):
        for number, prompts in enumerate(groups):
            answers = {}
            for way in order if (turn + number) % 2 else order[::-1]:
                seconds, processor, answers[way] = timed(ways, way, prompts)
                wall[way][turn] += seconds
                cpu[way][turn] += processor
            for way in order:
                unlike[way] += sum(a != b for a, b in zip(answers[way], answers[PLAIN], strict=True))
            print(f"round {turn + 1} of {asked.rounds}, batch {number + 1} of {len(groups)}", flush=True)
    found = {
        "trials": len(trials),
        "rounds": asked.rounds,
        "threads": torch.get_num_threads(),
        "device": device,
        "dtype": str(model.dtype),
        "wall": wall,
        "cpu": cpu,
        "answers_that_differ": unlike,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    _report(found)


def _report(found: dict[str, Any]) -> None:
    print(f"\n{found['trials']} trials, {found['rounds']} rounds, {found['threads']} threads, {found['device']}\n")
    print(
        "| way | seconds a round | times plain, wall (range) | times plain, processor (range) | answers that differ |"
    )
    print("|---|---|---|---|---|")
    for way, seconds in found["wall"].items():
        cells = [way, f"{statistics.median(seconds):.1f}"]
        cells += [_ratio(found[kind][way], found[kind][PLAIN]) for kind in ("wall", "cpu")]
        print("| " + " | ".join([*cells, str(found["answers_that_differ"][way])]) + " |")
    print(f"\nasked of all heads scored: {TARGET:g} at most")


def _ratio(times: list[float], plain: list[float]) -> str:
    each = [one / other for one, other in zip(times, plain, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


if __name__ == "__main__":
    main()
