"""The steps of bench/gpu.py, in the order of what one wants to know first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Step:
    """A function of a module here, and the seconds that it is expected to take on an H200."""

    module: str
    function: str
    seconds: int

    def load(self) -> Callable[[Any], None]:
        function: Callable[[Any], None] = getattr(import_module(f"bench.gpu_steps.{self.module}"), self.function)
        return function


STEPS = {
    "machine": Step("kernels", "machine", 10),  # versions, the card, what products and copies reach: the ceilings
    "nf4": Step("kernels", "nf4", 10),  # is NF4 of the GPU and of the CPU the same bytes? a merge may be on either
    "masks": Step("kernels", "masks", 15),  # attention with the packed mask beside the causal kernel
    "healing_8b": Step("healing", "healing_8b", 60),  # steps of 24 of 32 layers: defaults, then one change at a time
    "healing_70b": Step("healing", "healing_70b", 60),  # steps of 48 of 80 layers in 4 bits: does it fit?
    "loaded": Step("loaded", "loaded", 70),  # a checkpoint on disk: loading, scan, check, sweep, generation
    "fit": Step("fitting", "fit", 30),  # the peak of a prompt beside what `prune cut --fit` reckons
    "files": Step("files", "files", 90),  # cut, patch, distill and merge, end to end on files
    "streamed": Step("loaded", "streamed", 40),  # the scan layer by layer
}
