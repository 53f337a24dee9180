"""Models of random weights, in memory and as files, and what is asked of them: random words, windows, questions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from bench.gpu_steps.measuring import Machine, measured
from bench.gpu_steps.shapes import SHAPES, config_of, model_shape, small
from prune.models.nf4 import TENSOR, quantisation

_WORDS = 886  # of the tokenizer: with digits and special tokens fewer than any vocabulary has


def random_model(machine: Machine, shape: str, bits: int) -> Any:
    """A frozen model on the device, as `heal.models.quantise.load_frozen` leaves one, without any file.

    Weights are made and quantised one by one: 70B in NF4 never takes more than that and one matrix.
    """
    from transformers import AutoModelForCausalLM

    config = config_of(shape)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if bits < 16:
        model = _with_quantised_layers(model, bits)
    torch.manual_seed(0)
    for module in model.modules():
        for name, empty in module._parameters.items():
            if empty is not None:
                module._parameters[name] = _random_parameter(machine, module, empty)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(machine.device)
    return model.eval()


def _with_quantised_layers(model: Any, bits: int) -> Any:
    """The model with bitsandbytes' layers, still empty, and with the marks that loading would set."""
    from transformers.integrations import replace_with_bnb_linear
    from transformers.utils.quantization_config import QuantizationMethod

    asked = quantisation(torch.bfloat16, bits=bits)
    model = replace_with_bnb_linear(model, modules_to_not_convert=["lm_head"], quantization_config=asked)
    setattr(model, f"is_loaded_in_{bits}bit", True)
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.config.quantization_config = asked
    return model


def _random_parameter(machine: Machine, module: Any, empty: torch.nn.Parameter) -> torch.nn.Parameter:
    """Values for an empty parameter of a module: ones for a norm, small random numbers for a matrix."""
    from bitsandbytes.nn import Int8Params, Params4bit

    if empty.dim() == 1:
        return torch.nn.Parameter(torch.ones_like(empty, device=machine.device), requires_grad=False)
    quantised = isinstance(empty, Params4bit | Int8Params)
    size = (module.out_features, module.in_features) if quantised else empty.shape
    values = torch.randn(size, device=machine.device, dtype=torch.bfloat16).mul_(0.02)
    if isinstance(empty, Params4bit):
        module.support_avx512bf16_for_cpu = False  # see prune.models.loading
        return Params4bit(values, requires_grad=False, **TENSOR, module=module).to(machine.device)
    if isinstance(empty, Int8Params):
        return Int8Params(values.cpu(), requires_grad=False, has_fp16_weights=False).to(machine.device)
    return torch.nn.Parameter(values, requires_grad=False)


def checkpoint_on_disk(machine: Machine) -> tuple[Path, Path]:
    """A checkpoint with a tokenizer, in shards of four layers (2 GB at 8B), and a text to heal on; made once a call."""
    folder, text = machine.work / small(machine), machine.work / "text.jsonl"
    if text.exists():
        return folder, text
    with measured(machine, "write the checkpoint"):
        folder.mkdir(parents=True, exist_ok=True)
        config_of(small(machine)).save_pretrained(folder)
        _write_tokenizer(folder)
        _write_weights(machine, folder)
        draw = random.Random(1)
        documents = (random_words(draw, 100, 1200) for _ in range(machine.pick(300, 3000)))
        text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return folder, text


def _write_weights(machine: Machine, folder: Path) -> None:
    from safetensors.torch import save_file

    sizes, shape = SHAPES[small(machine)], model_shape(small(machine))
    d, vocabulary = sizes["hidden_size"], sizes["vocab_size"]
    shards: list[dict[str, tuple[int, ...]]] = [
        {"model.embed_tokens.weight": (vocabulary, d), "model.norm.weight": (d,), "lm_head.weight": (vocabulary, d)}
    ]
    for number, layer in enumerate(shape.layers):
        if number % 4 == 0:
            shards.append({})
        prefix = f"model.layers.{number}."
        shards[-1] |= {f"{prefix}{linear.path}.weight": (linear.outputs, linear.inputs) for linear in layer.linears}
        shards[-1] |= {f"{prefix}{norm}.weight": (d,) for norm in ("input_layernorm", "post_attention_layernorm")}
    where = {}
    for number, tensors in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        values = {
            tensor: torch.ones(size, dtype=torch.bfloat16)
            if len(size) == 1
            else torch.randn(size, device=machine.device, dtype=torch.bfloat16).mul_(0.02).cpu()
            for tensor, size in tensors.items()
        }
        save_file(values, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": shape.stored_bytes}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer of the words w0, w1, ..., of digits, BOS and EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(_WORDS)), *map(str, range(10)), "."]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.Fuse()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    ).save_pretrained(folder)


def random_words(draw: random.Random, least: int, most: int) -> str:
    return " ".join(f"w{draw.randrange(_WORDS)}" for _ in range(draw.randrange(least, most)))


def random_windows(machine: Machine, count: int, length: int) -> list[list[int]]:
    """Windows of token ids, each opened by BOS."""
    draw, vocabulary = random.Random(3), SHAPES[small(machine)]["vocab_size"]
    return [[1, *(draw.randrange(3, vocabulary) for _ in range(length - 1))] for _ in range(count)]


def write_questions(folder: Path, count: int) -> None:
    """Question files of two domains, half of them with choices."""
    draw = random.Random(2)
    folder.mkdir(parents=True, exist_ok=True)
    for domain in ("medical", "math"):
        about = {"domain": domain, "subject": "none", "source": "random", "licence": "none"}
        lines = []
        for number in range(count):
            choices = [random_words(draw, 3, 12) for _ in range(4)]
            question = random_words(draw, 20, 120)
            lines.append({"id": f"{domain}{number}", "question": question, "choices": choices, "answer": 1, **about})
            question = random_words(draw, 20, 60)
            lines.append({"id": f"{domain}{number}g", "question": question, "choices": None, "answer": "7", **about})
        (folder / f"{domain}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
