"""A signal in the middle of a step of healing: forward and backward are done, and no weight has changed."""

import os

from accelerate import Accelerator


def signal_in_step(step, number, patch):
    """Send this process signal `number` in the `step`-th step (1-based) that it does, by pytest's `patch`."""
    clip, steps = Accelerator.clip_grad_norm_, []

    def clipped(self, *arguments, **named):
        steps.append(self)
        if len(steps) == step:
            os.kill(os.getpid(), number)
        return clip(self, *arguments, **named)

    patch.setattr(Accelerator, "clip_grad_norm_", clipped)
