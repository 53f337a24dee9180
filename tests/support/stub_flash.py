"""A stand-in for FlashAttention on a CPU: it takes bounds and no mask, as the kernels for packed sequences do."""

from itertools import pairwise

import torch
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from transformers.modeling_utils import AttentionInterface

NAME = "stub_flash"


class StubFlash:
    """Registered under NAME; `deaf`: it does not hear of bounds, as in a family that does not hand them on."""

    def __init__(self) -> None:
        self.deaf = False
        self.calls = 0
        AttentionInterface.register(NAME, self.attend)
        AttentionMaskInterface.register(NAME, flash_attention_mask)

    def use(self, model):
        model.config._attn_implementation = NAME
        return model

    def attend(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        assert attention_mask is None
        self.calls += 1
        rows, _, length, _ = query.shape
        groups = module.num_key_value_groups
        flat = [
            states.transpose(1, 2).reshape(rows * length, -1, states.shape[-1]).transpose(0, 1)
            for states in (query, repeat_kv(key, groups), repeat_kv(value, groups))
        ]
        bounds = list(range(0, rows * length + 1, length))  # what the kernels take where they are told of none
        if not self.deaf and "cu_seq_lens_q" in kwargs:
            bounds = kwargs["cu_seq_lens_q"].tolist()
            assert max(b - a for a, b in pairwise(bounds)) <= kwargs["max_length_q"]
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(states[:, a:b] for states in flat), is_causal=True, scale=scaling
            )
            for a, b in pairwise(bounds)
        ]
        return torch.cat(parts, 1).transpose(0, 1).reshape(rows, length, -1, value.shape[-1]), None
