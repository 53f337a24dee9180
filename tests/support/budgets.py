"""What `heal budget` is asked, for the shapes of Llama-3."""

from bench.gpu_steps.shapes import SHAPES, llama_shape
from heal.budget.cost import Job, kept_layers
from heal.budget.stations import Chain


def chain_of(name, n, method="distill", **changes):
    shape = llama_shape(name, SHAPES[name])
    job = Job(
        method=method, kept=kept_layers(len(shape.layers), n), first=0, bits=4, role="all", rank=64, dropout=0.05,
        length=512, batch_size=4, checkpointing=True,
    )  # fmt: skip
    return Chain(shape, job, 20_000_000, 8, **changes)
