"""Small random models of the families whose feed-forward parts differ, for the tests of healing."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

_WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
_COMMON = {"vocab_size": 300, "max_position_embeddings": 128}
_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {**_WIDTHS, "num_key_value_heads": 2}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {**_WIDTHS, "num_key_value_heads": 2}),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {**_WIDTHS, "num_key_value_heads": 2, "head_dim": 16, "final_logit_softcapping": 0.5, "sliding_window": 64},
    ),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, _WIDTHS),
    "phi": (PhiConfig, PhiForCausalLM, _WIDTHS),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}),
}
FAMILIES = list(_CLASSES)


def tiny(family, attention=None):
    """A random model of three layers in fp32, in eval mode; weights large enough that attention matters.

    Without `attention`, the kind that transformers picks: SDPA, and eager for Gemma2.
    """
    config_class, model_class, options = _CLASSES[family]
    torch.manual_seed(0)
    config = config_class(**_COMMON, **options, bos_token_id=1, eos_token_id=2, attn_implementation=attention)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model
