"""Checkpoints of published sizes without weights: real configs and headers, and files that are one hole.

What a command reads from config and headers it reads here as from the real model. No byte of weights is stored: the
file system keeps a hole of the right length.
"""

from pathlib import Path

import torch
import transformers

from prune.checkpoint.headers import Tensor
from prune.checkpoint.layout import encode_header

NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


def _llama(d, f, layers, heads, keys, vocabulary, *, tied=False, width=None):
    return "LlamaConfig", {
        "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "vocab_size": vocabulary, "tie_word_embeddings": tied,
        "head_dim": width or d // heads, "max_position_embeddings": 131072,
    }  # fmt: skip


def _as(name, like, **more):
    return name, like[1] | more


def _gemma(d, f, layers, heads, keys, width, vision=True):
    text = _as("Gemma3TextConfig", _llama(d, f, layers, heads, keys, 262208, tied=True, width=width))
    if not vision:
        return text[0], text[1] | {"vocab_size": 262144}
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
             "image_size": 896, "patch_size": 14}  # fmt: skip
    return "Gemma3Config", {"text_config": text[1], "vision_config": tower}


# As their config.json has them on the hub.
PUBLISHED = {
    "meta-llama/Llama-3.2-1B-Instruct": _llama(2048, 8192, 16, 32, 8, 128256, tied=True),
    "meta-llama/Llama-3.2-3B-Instruct": _llama(3072, 8192, 28, 24, 8, 128256, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": _llama(4096, 14336, 32, 32, 8, 128256),
    "meta-llama/Llama-3.3-70B-Instruct": _llama(8192, 28672, 80, 64, 8, 128256),
    "Qwen/Qwen2.5-1.5B-Instruct": _as("Qwen2Config", _llama(1536, 8960, 28, 12, 2, 151936, tied=True)),
    "Qwen/Qwen2.5-7B-Instruct": _as("Qwen2Config", _llama(3584, 18944, 28, 28, 4, 152064)),
    "Qwen/Qwen2.5-14B-Instruct": _as("Qwen2Config", _llama(5120, 13824, 48, 40, 8, 152064)),
    "Qwen/Qwen2.5-32B-Instruct": _as("Qwen2Config", _llama(5120, 27648, 64, 40, 8, 152064)),
    "Qwen/Qwen3-1.7B": _as("Qwen3Config", _llama(2048, 6144, 28, 16, 8, 151936, tied=True, width=128)),
    "Qwen/Qwen3-4B": _as("Qwen3Config", _llama(2560, 9728, 36, 32, 8, 151936, tied=True, width=128)),
    "Qwen/Qwen3-8B": _as("Qwen3Config", _llama(4096, 12288, 36, 32, 8, 151936, width=128)),
    "Qwen/Qwen3-14B": _as("Qwen3Config", _llama(5120, 17408, 40, 40, 8, 151936, width=128)),
    "Qwen/Qwen3-32B": _as("Qwen3Config", _llama(5120, 25600, 64, 64, 8, 151936, width=128)),
    "google/gemma-3-1b-it": _gemma(1152, 6912, 26, 4, 1, 256, vision=False),
    "google/gemma-3-4b-it": _gemma(2560, 10240, 34, 8, 4, 256),
    "google/gemma-3-12b-it": _gemma(3840, 15360, 48, 16, 8, 256),
    "google/gemma-3-27b-it": _gemma(5376, 21504, 62, 32, 16, 128),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _llama(960, 2560, 32, 15, 5, 49152, tied=True),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": _llama(2048, 8192, 24, 32, 32, 49152, tied=True),
    "HuggingFaceTB/SmolLM3-3B": _as("SmolLM3Config", _llama(2048, 11008, 36, 16, 4, 128256, tied=True)),
    "allenai/OLMo-2-1124-7B-Instruct": _as("Olmo2Config", _llama(4096, 11008, 32, 32, 32, 100352)),
    "allenai/OLMo-2-1124-13B-Instruct": _as("Olmo2Config", _llama(5120, 13824, 40, 40, 40, 100352)),
    "allenai/Olmo-3-7B-Instruct": _as("Olmo3Config", _llama(4096, 11008, 32, 32, 32, 100278)),
    "microsoft/Phi-4-mini-instruct": _as("Phi3Config", _llama(3072, 8192, 32, 24, 8, 200064, tied=True),
                                         pad_token_id=0),
    "microsoft/phi-4": _as("Phi3Config", _llama(5120, 17920, 40, 40, 10, 100352), pad_token_id=0),
    "mistralai/Mistral-Small-24B-Instruct-2501": _as(
        "MistralConfig", _llama(5120, 32768, 40, 32, 8, 131072, width=128)
    ),
    "meta-llama/Llama-2-7b-hf": _llama(4096, 11008, 32, 32, 32, 32000),
    "meta-llama/Llama-2-13b-hf": _llama(5120, 13824, 40, 40, 40, 32000),
    "meta-llama/Llama-2-70b-hf": _llama(8192, 28672, 80, 64, 8, 32000),
    "mistralai/Mistral-7B-v0.1": _as("MistralConfig", _llama(4096, 14336, 32, 32, 8, 32000)),
    "microsoft/phi-2": ("PhiConfig", {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 51200, "partial_rotary_factor": 0.4,
    }),
}  # fmt: skip


def hollow_checkpoint(folder: Path, name: str) -> Path:
    """The published model of that name in a folder, without its weights."""
    kind, fields = PUBLISHED[name]
    config = getattr(transformers, kind)(**fields, dtype=torch.bfloat16)
    with torch.device("meta"):
        wrapped = hasattr(config, "vision_config")
        made = transformers.AutoModelForImageTextToText if wrapped else transformers.AutoModelForCausalLM
        model = made.from_config(config, dtype=torch.bfloat16)
    config.architectures = [type(model).__name__]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    entries, place = [], 0
    for key, tensor in model.state_dict().items():
        if key in tied:
            continue
        size = tensor.numel() * tensor.element_size()
        entries.append(Tensor(key, NAMES[tensor.dtype], tuple(tensor.shape), place, place + size))
        place += size
    header = encode_header(entries, {"format": "pt"})
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header)
        file.truncate(len(header) + place)
    return folder
