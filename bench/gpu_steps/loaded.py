"""Steps on a checkpoint of random weights: loading, scan, check, sweep, generation; and the scan layer by layer."""

from __future__ import annotations

import random
from typing import Any

import torch

from bench.gpu_steps.measuring import Machine, measured
from bench.gpu_steps.random_models import checkpoint_on_disk, random_windows, random_words, write_questions
from bench.gpu_steps.shapes import CUTS, SHAPES, forward_flops, model_shape, small


def loaded(machine: Machine) -> None:
    from prune.checkpoint.source import Source
    from prune.models.loading import load_model, load_tokenizer

    folder, _ = checkpoint_on_disk(machine)
    source = Source(folder, "random")
    size = f"{model_shape(small(machine)).stored_bytes / 1e9:.1f} GB"
    with measured(machine, "load to memory, then to the device") as facts:
        model = load_model(source, dtype="auto", device="cpu").to(machine.device)
        facts["note"] = size
    del model
    with measured(machine, "load, as every command does") as facts:
        model = load_model(source, dtype="auto", device=machine.device)
        facts["note"] = size
    tokenizer = load_tokenizer(source)
    _scans(machine, model)
    _check(machine, model)
    _sweeps(machine, model, tokenizer)
    _generation(machine, model, tokenizer)


def _scans(machine: Machine, model: Any) -> None:
    from prune.models.batches import padded
    from prune.models.walks.hooks import decoder_of
    from prune.scanning import states
    from prune.scanning.scan import measure

    count, length = machine.pick((4, 64), (64, 1024))
    windows = random_windows(machine, count, length)
    few = windows[: machine.pick(2, 8)]
    token_flops = forward_flops(small(machine), length)
    decoder = decoder_of(model)

    @torch.no_grad()
    def bare() -> None:
        for first in range(0, count, 16):
            ids, mask = (part.to(machine.device) for part in padded(windows[first : first + 16]))
            decoder(input_ids=ids, attention_mask=mask, use_cache=False)

    bare()
    with measured(machine, "bare decoder pass", count * length, count * length * token_flops):
        bare()
    with measured(machine, "scan --tokens last", count * length, count * length * token_flops):
        measure(model, windows, tokens="last")
    usual = states._BLOCK_VALUES
    for values in (usual, 1 << 27):
        states._BLOCK_VALUES = values
        with measured(machine, f"scan --tokens all, blocks of {values:,} values", len(few) * length):
            measure(model, few, tokens="all")
    states._BLOCK_VALUES = usual


def _check(machine: Machine, model: Any) -> None:
    from prune.choosing.check import check_candidates
    from prune.models.walks import variants

    start, n = CUTS[small(machine)]
    candidates = [tuple(range(at, at + n)) for at in range(SHAPES[small(machine)]["num_hidden_layers"] - n)]
    windows = random_windows(machine, *machine.pick((4, 64), (32, 256)))
    usual = variants.WALK_TOKENS
    for tokens in (1024, None):
        variants.WALK_TOKENS = usual if tokens is None else dict.fromkeys(usual, tokens)
        batches = f"batches of {tokens} tokens" if tokens else "batches by device"
        with measured(machine, f"check before a cut, {batches}", sum(map(len, windows))) as facts:
            checked = check_candidates(model, windows, candidates, tuple(range(start, start + n)))
            facts["note"] = f"{checked.screened} candidates, {checked.passes:.2f} plain passes"
    variants.WALK_TOKENS = usual


def _sweeps(machine: Machine, model: Any, tokenizer: Any) -> None:
    from eval.asking.tasks import plan_tasks
    from eval.settings import Questions
    from eval.sweeps.lookup import AnswerTask, Prompting, collector
    from eval.sweeps.measure import walk_questions
    from eval.sweeps.plan import plan_sweep

    folder = machine.work / "questions"
    write_questions(folder, machine.pick(2, 100))
    asked = Questions.of(data=folder, domains="medical,math")
    tasks = [AnswerTask(task) for task in plan_tasks(asked) if task.protocol == "choice"]
    layers = SHAPES[small(machine)]["num_hidden_layers"]
    for sizes, batch in machine.pick([("0-2", 1024)], [("0-15", 1024), ("0-15", 8192), ("0", 1024)]):
        plan = plan_sweep(layers, sizes=sizes, rule="deepest", best=None)
        with measured(machine, f"sweep of sizes {sizes}, batches of {batch} tokens") as facts:
            scorer = collector(model, tokenizer, 2048)
            walked = walk_questions(scorer, plan, tasks, Prompting(), batch_tokens=batch, show_progress=False)
            facts["note"] = f"way {walked.way.name}, {walked.answers.read} tokens read"


def _generation(machine: Machine, model: Any, tokenizer: Any) -> None:
    from lm_eval.api.instance import Instance

    from eval.asking.harness import Scorer
    from prune.common.screen.terminal import Progress

    draw, new = random.Random(4), machine.pick(4, 64)
    prompts = [random_words(draw, 100, 101) for _ in range(machine.pick(2, 64))]
    how = {"until": ["\n\n"], "max_gen_toks": new, "do_sample": False}
    for batch in machine.pick((2,), (8, 64)):
        scorer = Scorer(model, tokenizer, batch_size=batch, max_length=2048, bar=Progress())
        requests = [Instance("generate_until", doc={}, arguments=(prompt, dict(how)), idx=0) for prompt in prompts]
        with measured(machine, f"generation in batches of {batch}", len(prompts) * new) as facts:
            scorer.generate_until(requests)
            facts["note"] = "new tokens a second, if no answer ended early"
    _self_written(machine, model, tokenizer, new)
    _tokenised(machine, tokenizer)


def _self_written(machine: Machine, model: Any, tokenizer: Any, new: int) -> None:
    """What `heal distill --teacher-data self` writes: 16 answers at a time, and as many as fit."""
    from prune.models.fitting import rows_at_once
    from prune.models.generation import write_answers

    for rows in dict.fromkeys((machine.pick(2, 16), rows_at_once(model, 32 + new, usual=2))):
        prompts = [tuple(window) for window in random_windows(machine, rows, 32)]
        with measured(machine, f"self-written text, {rows} answers at a time", rows * new) as facts:
            write_answers(model, tokenizer, prompts, new, 0)
            facts["note"] = "new tokens a second, if no answer ended early"


def _tokenised(machine: Machine, tokenizer: Any) -> None:
    """How long a step waits for its rows: made before it, and by a thread while another one runs."""
    import time

    from heal.text.ahead import Ahead
    from heal.text.sources import HeldOut, TextSource, row_stream

    _, text = checkpoint_on_disk(machine)
    steps, rows, length, step = machine.pick((2, 2, 64, 0.05), (8, 16, 512, 0.3))
    for ahead in (False, True):
        stream = row_stream(TextSource(str(text)), tokenizer, HeldOut((), frozenset()), length=length, seed=0)
        stream.fill()
        waited = 0.0
        with measured(
            machine, f"{rows} rows of {length} tokenised {'by a thread' if ahead else 'before the step'}"
        ) as facts:
            with Ahead(stream, steps) as taking:
                for _ in range(steps):
                    began = time.monotonic()
                    (taking if ahead else stream).take(rows)
                    waited += time.monotonic() - began
                    time.sleep(step)  # what a step takes, in which this process waits for the GPU
            facts["seconds"] = waited / steps


def streamed(machine: Machine) -> None:
    from bench.shared.layer_times import layer_times
    from prune.checkpoint.source import Source
    from prune.scanning.samples import Samples
    from prune.scanning.settings import ScanSettings
    from prune.scanning.streaming import measure_streamed

    folder, _ = checkpoint_on_disk(machine)
    count, length, size = machine.pick((4, 64, 2), (64, 1024, 16))
    windows = random_windows(machine, count, length)
    settings = ScanSettings(batch_size=size, device=machine.device)
    tokens = count * length
    with measured(machine, "scan layer by layer", tokens, tokens * forward_flops(small(machine), length)) as facts:
        with layer_times() as times:
            measure_streamed(Source(folder, "random"), Samples(windows), settings)
        facts["note"] = f"read {times.read:.1f} s, compute {times.compute:.1f} s, wall {times.wall:.1f} s"
