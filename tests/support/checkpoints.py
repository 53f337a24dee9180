"""Checkpoints, a scan and heads, made by hand."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prune.checkpoint.headers import Tensor
from prune.checkpoint.identity import model_identity
from prune.checkpoint.layout import encode_header
from prune.choosing.heads import Heads
from prune.choosing.settings import CheckSettings, CutSettings
from prune.scanning.result import Scan

LAYERS = 8
UNCHECKED = CutSettings(check=CheckSettings(candidates=0))


def write_shard(path: Path, tensors: list[tuple[str, str, tuple, bytes]]) -> None:
    """A safetensors file of (name, dtype, shape, content)."""
    entries, place = [], 0
    for name, dtype, shape, content in tensors:
        entries.append(Tensor(name, dtype, shape, place, place + len(content)))
        place += len(content)
    path.write_bytes(encode_header(entries, {"format": "pt"}) + b"".join(content for *_, content in tensors))


def synthetic_checkpoint(folder: Path, *, rows: int = 64) -> Path:
    """8 layers in 4 shards, each layer two tensors: (rows, 64) and (64,) of F32; embeddings, norm and head."""
    random_bytes = random.Random(0).randbytes
    folder.mkdir(parents=True)
    big, small = ((rows, 64), 4 * rows * 64), ((64,), 256)

    def tensor(name, kind=big):
        return (name, "F32", kind[0], random_bytes(kind[1]))

    shards = [[tensor("model.embed_tokens.weight")], [], [], []]
    for layer in range(LAYERS):
        for name, kind in (("input_layernorm", small), ("mlp.up_proj", big)):
            shards[layer // 2].append(tensor(f"model.layers.{layer}.{name}.weight", kind))
    shards[3] += [tensor("model.norm.weight", small), tensor("lm_head.weight")]
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-00004.safetensors"
        write_shard(folder / name, tensors)
        weight_map |= {entry[0]: name for entry in tensors}
    size = sum(len(content) for tensors in shards for *_, content in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"model_type": "llama", "num_hidden_layers": LAYERS, "tie_word_embeddings": False, "vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def edit_config(folder: Path, *dropped: str, **fields) -> None:
    """State these fields in a model's config.json, and drop others."""
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in dropped}))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(folder: Path) -> dict:
    """Every tensor of a checkpoint by its name."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def same_weights(one: Path, other: Path) -> bool:
    """Whether two checkpoints or adapters have the same bits."""
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def hand_made_heads(folder=None, *, layers=8, **identity) -> Heads:
    """Four heads a layer. Head 1 of layer 3 has most of the copy score, head 0 of layer 5 some; all write alike."""
    copy = [[0.01] * 4 for _ in range(layers)]
    copy[3][1], copy[5][0] = 0.6, 0.2
    write = [[0.5, 0.5, 0.0, -1.0] for _ in range(layers)]
    model = {**model_identity(folder), **identity} if folder else None
    return Heads(
        model="toy",
        layers=layers,
        heads=(4,) * layers,
        answered=2,
        trials=(),
        left_out=(),
        copy_score=tuple(map(tuple, copy)),
        write_score=tuple(map(tuple, write)),
        active=tuple(map(tuple, copy)),
        retrieval_share=2 / (4 * layers),
        steady=((3, 1),),
        sometimes=((5, 0),),
        stability=None,
        agreement=0.5,
        ablations=(),
        against=None,
        provenance={"model": model},
    )


def hand_made_scan(folder=None, *, layers=8, **identity) -> Scan:
    """d(l, n) falls towards layer 2 and influence alternates, so that every criterion finds another place."""
    distance = [
        [0.1 + 0.05 * abs(start - 2) + 0.01 * n for start in range(layers - n + 1)] for n in range(1, layers + 1)
    ]
    distance[1][layers - 2] = 0.01  # the best block of two would take the last layer
    influence = [0.9 if layer % 2 else 0.1 + 0.01 * layer for layer in range(layers)]
    model = {**model_identity(folder), **identity} if folder else None
    return Scan(
        layers=layers,
        tokens="last",
        samples=3,
        length=64,
        distance=tuple(map(tuple, distance)),
        stderr=tuple(tuple(0.0 for _ in row) for row in distance),
        influence=tuple(influence),
        provenance={"model": model, "seed": 0},
    )


def with_other_weights(folder: Path, copy: Path) -> Path:
    """A model whose config and headers are those of another one, as healing leaves them."""
    shutil.copytree(folder, copy)
    shard = copy / "model.safetensors"
    doubled = {name: 2 * weight for name, weight in load_file(shard).items()}
    save_file(doubled, shard, metadata={"format": "pt"})
    assert model_identity(copy, name="same") == model_identity(folder, name="same")
    return copy
