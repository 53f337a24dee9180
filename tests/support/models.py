"""Small random models of any family whose config uses the usual names, alone or with a tokenizer."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

FAMILIES = ["llama", "qwen2", "gemma2", "gpt_neox", "phi", "gpt2"]  # families whose feed-forward parts differ

VOCABULARY = 8192  # tokens of the tiny models that have a tokenizer
NARROW = {
    "hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "max_position_embeddings": 512,
    "initializer_range": 0.02, "tie_word_embeddings": True,
}  # fmt: skip

_SIZES = {"vocab_size": 300, "max_position_embeddings": 128, "hidden_size": 64, "intermediate_size": 128}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
_OF_FAMILY = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma3_text"), _GROUPED),
    "gemma2": {**_GROUPED, "final_logit_softcapping": 0.5, "sliding_window": 64},
}


def build(config: Any) -> PreTrainedModel:
    """A random model in fp32 and eval mode, the same one for the same config."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def tiny(family: str = "llama", *, layers: int = 3, attention: str | None = None, **changes: Any) -> PreTrainedModel:
    """A random model of a family, with weights large enough that attention matters, and biases that are not zero.

    Args:
        attention: None picks what transformers picks: SDPA, and eager for Gemma 2.
        changes: fields of the config, by the names that most families use.
    """
    fields = {**_SIZES, "num_hidden_layers": layers, "num_attention_heads": 4, "initializer_range": 0.08}
    fields |= {"bos_token_id": 1, "eos_token_id": 2, **_OF_FAMILY.get(family, {}), **changes}
    model = build(AutoConfig.for_model(family, **fields, attn_implementation=attention))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def save_tiny(folder: Path, tokenizer_of: Path, family: str = "llama", *, dtype=None, shards="1GB", **changes) -> Path:
    """Save a tiny model with the small tokenizer of another model; `shards`: how large each file may be."""
    save_small_tokenizer(folder, tokenizer_of)
    model = tiny(family, vocab_size=VOCABULARY, **changes)
    model.to(dtype or model.dtype).save_pretrained(folder, max_shard_size=shards)
    return folder


def save_small_tokenizer(folder: Path, tokenizer_of: Path) -> None:
    """The first tokens of a byte-level BPE: as strict as the whole, and read in a tenth of the time."""
    document = json.loads((tokenizer_of / "tokenizer.json").read_text("utf-8"))
    bpe = document["model"]
    bpe["vocab"] = {token: number for token, number in bpe["vocab"].items() if number < VOCABULARY}
    bpe["merges"] = [pair for pair in bpe["merges"] if "".join(pair) in bpe["vocab"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_of / name, folder)


@contextmanager
def changed(folder: Path) -> Iterator[PreTrainedModel]:
    """The model of a folder, whose weights the block changes there."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        yield model
    model.save_pretrained(folder)
