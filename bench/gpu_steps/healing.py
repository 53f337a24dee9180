"""Training steps by the project's own loop, tree, loss and adapters, on a model of random weights."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.gpu_steps.measuring import GIB, PEAK_FLOPS, Machine, failure_note, measured, row
from bench.gpu_steps.random_models import random_model
from bench.gpu_steps.shapes import CUTS, SHAPES, config_of, kept_layers, large, model_shape, small
from heal.defaults import Step
from heal.models import losses as chunks
from heal.settings import DistillSettings, Settings, TrainingRun
from prune.common.errors import UsageError
from prune.models.attention import check_attention

_WARM_UP = 2  # steps whose time and memory are not counted


@dataclass(frozen=True)
class Way:
    """One way to heal. The defaults are those of `heal` on a GPU, but for its targets.

    adapter, kernels, attention: as the options. tf32: float32 products in TF32. logits, floats: how many are made at
    once and taken through fp32, where that is not what suits the device. told: places of labels and bounds of documents
    come from the CPU, so that no device is asked for them.
    """

    what: str
    method: str = "qlora"
    rows: int = 4
    length: int = 512
    checkpointing: bool = True
    targets: str = "feed-forward"
    steps: int = 6
    adapter: str = "auto"
    kernels: str = "auto"
    attention: str = "auto"
    tf32: bool = False
    logits: int | None = None
    floats: int | None = None
    told: bool = True

    def scaled(self, machine: Machine) -> Way:
        if not machine.tiny:
            return self
        return replace(self, rows=min(self.rows, 2), length=32, steps=_WARM_UP + 2)


# As healing was before adapters computed in bf16, Liger, chunks by device and bounds from the CPU.
_BEFORE: dict[str, Any] = {
    "adapter": "float32", "kernels": "none", "logits": 1 << 24, "floats": 1 << 24, "told": False,
}  # fmt: skip
_FLASH = "flash_attention_2"


def healing_8b(machine: Machine) -> None:
    """24 of 32 layers: as it was, then one thing changed at a time, then all; 4, 16 and 8 bits."""
    plain = {"checkpointing": False}
    many: dict[str, Any] = {"rows": 16, **plain}
    heal_all(machine, small(machine), 4, [
        Way("qlora, before", **_BEFORE),
        Way("distill, before", "distill", **_BEFORE),
        Way("qlora, no checkpointing", **_BEFORE, **plain),
        Way("qlora, TF32", **_BEFORE | {"tf32": True}),
        Way("qlora, adapters in bf16", **_BEFORE | {"adapter": "bfloat16"}),
        Way("qlora, liger", **_BEFORE | {"kernels": "auto"}),
        Way("qlora, the device not asked", **_BEFORE | {"told": True}),
        Way("distill, chunks by device", "distill", **_BEFORE | {"logits": None, "floats": None}),
        Way("qlora, defaults"),
        Way("distill, defaults", "distill"),
        Way("qlora, 16 rows, no checkpointing, before", **_BEFORE, **many),
        Way("distill, 16 rows, no checkpointing, before", "distill", **_BEFORE, **many),
        Way("qlora, 16 rows, no checkpointing", **many),
        Way("distill, 16 rows, no checkpointing", "distill", **many),
        Way("distill after-cut", "distill", targets="after-cut"),
        Way("qlora, 1 x 4096", rows=1, length=4096),
        Way("qlora, 1 x 8192", rows=1, length=8192),
        Way(f"qlora, 1 x 8192, {_FLASH}", rows=1, length=8192, attention=_FLASH),
    ])  # fmt: skip
    heal_all(machine, small(machine), 16, [
        Way("qlora, 16 rows, no checkpointing", **many),
        Way("distill, 16 rows, no checkpointing", "distill", **many),
    ])  # fmt: skip
    heal_all(machine, small(machine), 8, [Way("qlora, defaults")])


def healing_70b(machine: Machine) -> None:
    """48 of 80 layers in 4 bits: does it fit, and how fast is it?"""
    heal_all(machine, large(machine), 4, [
        Way("distill, defaults", "distill", steps=5),
        Way("distill, 1 x 2048", "distill", rows=1, length=2048, steps=5),
        Way("qlora, defaults", steps=5),
        Way("distill, 16 rows", "distill", rows=16, steps=4),
    ][: machine.pick(1, None)])  # fmt: skip


def heal_all(machine: Machine, shape: str, bits: int, ways: list[Way]) -> None:
    full = None
    with measured(machine, f"random weights of {shape}, {bits} bits"):
        full = random_model(machine, shape, bits)
    if full is None:  # its row says why
        return
    for way in ways:
        try:
            check_attention(way.attention, device=machine.device, dtype="bfloat16")
        except UsageError as error:
            row(way.what, note=str(error))
            continue
        _heal(machine, full, shape, bits, way.scaled(machine))


class RandomRows:
    """Packed rows of random documents in place of `heal.text.streams.Mixed`; notes when each step begins."""

    ended: tuple[str, ...] = ()

    def __init__(self, machine: Machine, length: int, vocabulary: int) -> None:
        self.machine, self.length, self.tokens = machine, length, min(vocabulary, 30000)
        self.random = random.Random(0)
        self.begun: list[float] = []

    def take(self, count: int) -> list[Any]:
        from heal.text.packing import pack

        self.machine.wait()
        self.begun.append(time.monotonic())
        if len(self.begun) == _WARM_UP + 1 and self.machine.cuda:
            torch.cuda.reset_peak_memory_stats()
        rows: list[Any] = []
        while len(rows) < count:
            sizes = [self.random.randrange(60, 400) for _ in range(64)]
            documents = [[self.random.randrange(3, self.tokens) for _ in range(size)] for size in sizes]
            rows += pack(documents, self.length, bos=1, eos=2)
        return rows[:count]

    def state(self) -> dict[str, Any]:
        return {}

    @property
    def step_seconds(self) -> float:
        """Median of the steps after the first ones; the last has no step after it that ends its time."""
        seconds = [after - before for before, after in zip(self.begun, self.begun[1:], strict=False)]
        return statistics.median(seconds[_WARM_UP:])


def _heal(machine: Machine, full: Any, shape: str, bits: int, way: Way) -> None:
    """A few training steps of a student over the tensors of `full`, and their row."""
    from heal.budget.cost import flops_per_token

    budget = _budget(machine, shape, bits, way)
    what = f"{way.what} ({bits} bits, {way.rows} x {way.length})"
    machine.forget()
    try:
        seconds, note = _train(machine, full, shape, bits, way)
    except Exception as error:
        traceback.print_exc()
        row(what, **machine.peaks(), budget=budget, **failure_note(error))
        return
    tokens = way.rows * way.length
    flops = flops_per_token(model_shape(shape), _job(machine, shape, bits, way))
    share = f"{flops * tokens / seconds / PEAK_FLOPS:.0%}"
    row(what, seconds=seconds, rate=tokens / seconds, share=share, **machine.peaks(), budget=budget, note=note)


def _train(machine: Machine, full: Any, shape: str, bits: int, way: Way) -> tuple[float, str]:
    """Seconds of a step, and what its layers are computed by."""
    from heal.models.adapters import adapter_dtype, add_adapter, compute_in
    from heal.models.held_out import Losses
    from heal.models.kernels import fuse
    from heal.models.lm_head import attach_loss
    from heal.models.packed import check_documents
    from heal.models.student import build_student
    from heal.models.targets import find_targets
    from heal.text.sources import TextSource
    from heal.training.checkpoints import Checkpoints
    from heal.training.distill import attach_distillation, shared_prefix
    from heal.training.loop import run
    from heal.training.plan import HealPlan
    from heal.training.schedule import plan_steps
    from prune.checkpoint.source import Source
    from prune.common.screen.terminal import Progress

    kept, start = kept_layers(shape), CUTS[shape][0]
    kind = DistillSettings if way.method == "distill" else Settings
    alone = {"plain_loss": 0.0} if way.method == "distill" else {}  # as the predictions reckon
    settings = kind(
        length=way.length, batch_size=way.rows, accumulate=1, rank=_rank(machine), targets=way.targets, bits=bits,
        dtype="bfloat16", learning_rate=3e-4, checkpointing=way.checkpointing, eval_every=10**6, **alone,
    )  # fmt: skip
    usual = full.config._attn_implementation
    full.config._attn_implementation = usual if way.attention == "auto" else way.attention
    student = build_student(full, config_of(shape, len(kept)), kept, {})
    check_documents(student)
    targets = find_targets(student, way.targets, cut=start)
    kernels = fuse([full, student], way.kernels, machine.device)
    if isinstance(settings, DistillSettings):
        prefix = shared_prefix(targets, start, student, full)
        attach_distillation(student, full, kept=kept, prefix=prefix, cut=start, settings=settings)
    else:
        attach_loss(student)
    torch.manual_seed(0)
    adapted = add_adapter(student, targets, rank=settings.rank, alpha=settings.rank, dropout=0.05, base="random")
    asked = adapter_dtype(way.adapter, device=machine.device, compute=torch.bfloat16)
    compute_in(adapted, asked)
    if way.checkpointing and targets.first == 0:
        adapted.enable_input_require_grads()
    schedule = plan_steps(way.steps * way.rows * way.length, Step(way.length, way.rows, 1, 3e-4))
    rows = RandomRows(machine, way.length, SHAPES[shape]["vocab_size"])
    with ExitStack() as stack:
        stack.callback(setattr, full.config, "_attn_implementation", usual)
        stack.callback(kernels.release)
        stack.enter_context(_changed(machine, way))
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=machine.work))
        checkpoints = Checkpoints(Path(folder) / "adapter")
        with checkpoints.open():
            source, place = Source(Path(folder), "random"), Path(folder) / "adapter"
            training = TrainingRun(device=machine.device, save_every=10**6)
            plan = HealPlan(way.method, source, TextSource(""), place, settings, schedule, training)
            run(
                adapted, rows, plan, measure=lambda wrapper: Losses(1.0, {"none": 1.0}), checkpoints=checkpoints,
                start=None, bar=Progress(),
            )  # fmt: skip
    return rows.step_seconds, ", ".join(filter(None, (f"adapters in {asked}", kernels.name, kernels.note)))


@contextmanager
def _changed(machine: Machine, way: Way) -> Iterator[None]:
    """What no option of `heal` changes, changed for a block."""
    from heal.text.packing import collate
    from heal.training import loop

    usual = chunks.LOGITS, chunks.FLOATS, loop.collate_for_loss, torch.backends.cuda.matmul.allow_tf32
    if way.logits is not None:
        chunks.LOGITS = {**chunks.LOGITS, machine.device: way.logits}
    if way.floats is not None:
        chunks.FLOATS = {**chunks.FLOATS, machine.device: way.floats}
    if not way.told:
        loop.collate_for_loss = collate
    torch.backends.cuda.matmul.allow_tf32 = way.tf32
    try:
        yield
    finally:
        chunks.LOGITS, chunks.FLOATS, loop.collate_for_loss, torch.backends.cuda.matmul.allow_tf32 = usual


def _rank(machine: Machine) -> int:
    return int(machine.pick(4, 64))


def _job(machine: Machine, shape: str, bits: int, way: Way) -> Any:
    from heal.budget.cost import Job
    from heal.models.targets import parse_targets

    role, after_cut = parse_targets(way.targets)
    return Job(
        method=way.method, kept=kept_layers(shape), first=CUTS[shape][0] if after_cut else 0, bits=bits, role=role,
        rank=_rank(machine), dropout=0.05, length=way.length, batch_size=way.rows, checkpointing=way.checkpointing,
        cuda=machine.cuda,
    )  # fmt: skip


def _budget(machine: Machine, shape: str, bits: int, way: Way) -> float:
    """What `heal budget` expects of a step, in GiB. Here qlora's student stands on the whole model too."""
    from heal.budget.cost import memory_of

    job = _job(machine, shape, bits, way)
    step, held = memory_of(model_shape(shape), job), memory_of(model_shape(shape), job.but(method="distill"))
    return (step.step + held.weights + held.quantisation - step.weights - step.quantisation) / GIB
