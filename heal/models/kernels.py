"""Fused norms, rotary positions and gated feed-forwards of liger-kernel (extra `gpu`), checked against the plain model.

Liger (arXiv 2410.10989) replaces the forward passes of a loaded model's modules by Triton kernels, which run on a GPU
alone. Its rotary kernel takes the place of a function in transformers' module of the family, so it reaches every model
of that family until it is taken back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from prune.common.errors import RegrowthError, UsageError, first_line
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.models.loading import text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIGER = "liger"
_FUSED = dict.fromkeys(("rope", "rms_norm", "layer_norm", "swiglu", "geglu"), True)
_OURS = {"cross_entropy": False, "fused_linear_cross_entropy": False}  # the loss is `heal.models.losses`
_TRIED = 64  # tokens of the row that both ways compute
_DOCUMENT = 40  # of which so many are the first document, so that positions restart
# KL of the predictions in nats a token, and |difference| / |gradient| at the embeddings. Two kinds of attention, SDPA
# and eager, differ by 0.004 and 0.16 in bf16 on SmolLM2-135M, and by less than 1e-5 in fp32; deeper models by more.
# What a kernel gets wrong is far beyond.
_BOUNDS = {torch.float32: (1e-4, 1e-2), torch.bfloat16: (5e-2, 0.6)}
_ABSENT = object()


@dataclass(frozen=True)
class Kernels:
    """What was taken.

    Attributes:
        name: `liger`, or None for the plain model.
        note: why Liger was left out, in one line; empty where there is nothing to say.
        release: put everything back that Liger replaced.
    """

    name: str | None = None
    note: str = ""
    release: Callable[[], None] = lambda: None


def liger_runs(device: str) -> bool:
    """Whether it is installed, and the device is one that it has kernels for."""
    return device.startswith("cuda") and find_spec("liger_kernel") is not None


def check_kernels(asked: str, device: str) -> None:
    """Refuse kernels that cannot run.

    Raises:
        UsageError: Liger by name, where it is not installed or the device is no GPU.
    """
    if asked == LIGER and not liger_runs(device):
        lacks = (
            f"has no kernels for {device}"
            if find_spec("liger_kernel")
            else 'is not installed: pip install "regrowth[gpu]"'
        )
        raise UsageError(f"--kernels liger: liger-kernel {lacks}; or use --kernels auto")


def fuse(models: Sequence[PreTrainedModel], asked: str, device: str) -> Kernels:
    """Let Liger replace what it can in loaded models, if each then computes what it computed before.

    Called before adapters and losses are attached; each of several trees over the same weights is named, since what is
    replaced are modules.

    Args:
        asked: auto (Liger where it runs), liger or none.

    Raises:
        RegrowthError: Liger by name does not know the family, or computes something else.
    """
    if asked == "none" or (asked == "auto" and not liger_runs(device)):
        return Kernels()
    undo: list[Callable[[], None]] = []

    def release() -> None:
        while undo:
            undo.pop()()

    try:
        wanted = [_answers(model) for model in models]
        replaced = [_apply(model, undo) for model in models]
        why = "" if all(replaced) else f"it has no kernels for {models[0].config.model_type}"
        why = why or next(filter(None, map(_apart, models, wanted)), "")
    except Exception as error:  # Triton compiles now, and fails in many ways
        release()
        if is_out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {first_line(error)}"
    if not why:
        return Kernels(LIGER, release=release)
    release()
    if asked == LIGER:
        raise RegrowthError(f"--kernels liger: {why}; use --kernels none")
    return Kernels(note=f"liger-kernel is left out: {why}")


def _apply(model: PreTrainedModel, undo: list[Callable[[], None]]) -> bool:
    """Let Liger replace forward passes, and add what takes that back to `undo`; whether it replaced any."""
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    namespaces = {type(module).__module__ for module in model.modules()}
    holders = [vars(module) for module in model.modules()]
    replaced = len(undo)
    holders += [vars(sys.modules[name]) for name in sorted(namespaces) if name.startswith("transformers.models.")]
    before = [dict(holder) for holder in holders]
    try:
        _apply_liger_kernel_to_instance(model=model, **_FUSED, **_OURS)
    finally:
        for holder, was in zip(holders, before, strict=True):
            changed = {name: was.get(name, _ABSENT) for name in holder if holder[name] is not was.get(name, _ABSENT)}
            if changed:
                undo.append(partial(_put_back, holder, changed))
    return len(undo) > replaced


def _put_back(holder: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is _ABSENT:
            holder.pop(name, None)
        else:
            holder[name] = value


@torch.enable_grad()
def _answers(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a row of two documents: log chances (T, V) in fp32, and the loss's gradient by the embeddings (1, T, d)."""
    device, vocabulary = model.get_input_embeddings().weight.device, text_config(model.config).vocab_size
    number = torch.arange(_TRIED, device=device)
    ids, positions = (number * 7919 + 11) % vocabulary, number % _DOCUMENT
    states = model.get_input_embeddings()(ids[None]).detach().requires_grad_()
    logits = model(inputs_embeds=states, position_ids=positions[None], use_cache=False).logits[0].float()
    chances = logits.log_softmax(-1)
    (gradient,) = torch.autograd.grad(-chances[:-1].gather(-1, ids[1:, None]).mean(), states)
    return chances.detach(), gradient.float()


def _apart(model: PreTrainedModel, wanted: tuple[torch.Tensor, torch.Tensor]) -> str:
    """How a model's answers differ from those wanted, in words; empty where rounding explains it."""
    (plain, slope), (chances, gradient) = wanted, _answers(model)
    kl = float((plain.exp() * (plain - chances)).sum(-1).mean())
    steep = float((gradient - slope).norm() / slope.norm())
    most, steepest = _BOUNDS[torch.float32 if model.dtype == torch.float32 else torch.bfloat16]
    if abs(kl) <= most and steep <= steepest:  # not so where one is no number
        return ""
    return f"its predictions are {kl:.2g} nats from the plain model's, and its gradient {steep:.0%} off"
