"""A stand-in for liger-kernel, which runs on a GPU alone: it replaces what Liger replaces, by the same numbers."""

import sys
from importlib.machinery import ModuleSpec
from types import MethodType, ModuleType

import torch

from heal.models import kernels


class StubLiger:
    """What was asked of it. `wrong`: what it computes otherwise: "norm", "backward" or nothing."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong
        self.fused = []  # models, as they were given
        self.norms = 0  # times that one of its norms ran
        self.rotations = 0
        self.options = {}

    def apply(self, model, **options):
        self.fused.append(model)
        self.options = options
        if model.config.model_type != "llama":
            return
        from transformers.models.llama import modeling_llama

        rotate = getattr(modeling_llama.apply_rotary_pos_emb, "plain", modeling_llama.apply_rotary_pos_emb)

        def rotated(*args, **kwargs):
            self.rotations += 1
            return rotate(*args, **kwargs)

        rotated.plain = rotate
        modeling_llama.apply_rotary_pos_emb = rotated
        modeling_llama.LlamaRMSNorm = type("LigerRMSNorm", (torch.nn.Module,), {})
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.offset = 0.0
                norm.forward = MethodType(self._norm, norm)

    def _norm(self, norm, states):
        self.norms += 1
        scaled = states.float() * torch.rsqrt(states.float().square().mean(-1, keepdim=True) + norm.variance_epsilon)
        if self.wrong == "norm":
            scaled = scaled.square()
        if self.wrong == "backward":
            scaled = scaled + scaled.detach() - scaled.detach() * 0.5 - scaled * 0.5
        return norm.weight * scaled.to(states.dtype)


def put_in(monkeypatch, wrong="", device="cpu"):
    """Install it for a test, as if `device` were a GPU."""
    stub = StubLiger(wrong)
    package, module = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    package.__spec__ = ModuleSpec("liger_kernel", None, is_package=True)
    package.__path__ = []
    module._apply_liger_kernel_to_instance = stub.apply
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)
    monkeypatch.setattr(kernels, "liger_runs", lambda asked: asked == device)
    return stub
