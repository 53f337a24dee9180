"""A Llama of random weights on disk, in shards of whole layers: never more of it in memory than one shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_random_llama(folder: Path, *, deviation: float, together: int = 1, **config: Any) -> int:
    """Write it in bfloat16, without a tokenizer; returns the bytes of its weights.

    Args:
        deviation: standard deviation of the matrices; norms are 1.
        together: layers in one shard; what is in no layer has one of its own.
        config: fields of its LlamaConfig.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    made = LlamaConfig(**config, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in LlamaForCausalLM(made).named_parameters()}
    torch.manual_seed(0)
    place: dict[str, str] = {}
    total = 0
    layers = [f".layers.{i}." for i in range(made.num_hidden_layers)]
    for parts in [*(layers[i : i + together] for i in range(0, len(layers), together)), [""]]:
        some = {name: size for name, size in shapes.items() if name not in place and any(p in name for p in parts)}
        file = f"model-{len(set(place.values())):05d}.safetensors"
        empty = {name: torch.empty(size, dtype=torch.bfloat16) for name, size in some.items()}
        tensors = {name: t.fill_(1) if t.dim() == 1 else t.normal_(0, deviation) for name, t in empty.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        total += sum(t.nbytes for t in tensors.values())
        place |= dict.fromkeys(some, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return total
