"""Windows of tokens for tiny models, and the inputs of their layers taken without hooks."""

import numpy as np
import torch

from prune.models.walks.hooks import decoder_of
from tests.support.models import FAMILIES

SCANNED = [*FAMILIES, "mistral", "qwen3", "gemma3_text"]
LENGTHS = (9, 23, 14, 23, 31)


def windows(lengths=LENGTHS):
    generator = np.random.default_rng(0)
    return [[1, *generator.integers(3, 64, size=n - 1).tolist()] for n in lengths]


def norm_of(model):
    base = decoder_of(model)
    for name in ("norm", "final_layer_norm", "final_layernorm", "ln_f"):
        if hasattr(base, name):
            return base, name
    raise AssertionError("no final norm")


def plain_states(model, window):
    """x[0] .. x[L] of one unpadded window, (L+1, T, D), in float64."""
    return padded_states(model, torch.tensor([window]), torch.ones(1, len(window), dtype=torch.int64))[0]


def padded_states(model, ids, mask):
    """The same of each row's real tokens: hidden_states of the model without its final norm, and no hook of ours."""
    owner, name = norm_of(model)
    norm = getattr(owner, name)
    setattr(owner, name, torch.nn.Identity())
    try:
        with torch.no_grad():
            out = decoder_of(model)(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    finally:
        setattr(owner, name, norm)
    whole = np.stack([state.double().numpy() for state in out.hidden_states])  # (L+1, B, T, D)
    return [whole[:, row, mask[row].bool().numpy()] for row in range(len(ids))]


def plain_distances(states, tokens):
    """Rows of d(l, n), the mean angle of every pair, by loops in float64 over `plain_states` of each window."""
    layers, part = len(states[0]) - 1, slice(None) if tokens == "all" else slice(-1, None)

    def mean(lower, upper):
        cosines = [cosine(x[lower][part], x[upper][part]) for x in states]
        return np.arccos(np.concatenate(cosines)).mean() / np.pi

    return [[mean(start, start + n) for start in range(layers - n + 1)] for n in range(1, layers + 1)]


def plain_influence(states):
    """1 - mean cos(x[l], x[l+1]) of each layer, over all tokens of `plain_states` of each window."""
    layers = range(len(states[0]) - 1)
    return [1 - np.concatenate([cosine(x[layer], x[layer + 1]) for x in states]).mean() for layer in layers]


def apart(rows, others):
    """The greatest difference of a number in rows of the same lengths."""
    return max(np.abs(np.array(row) - np.array(other)).max() for row, other in zip(rows, others, strict=True))


def cosine(u, v):
    """Of every two rows."""
    return np.clip((u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1), -1, 1)


def silence(layer):
    torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    torch.nn.init.zeros_(layer.mlp.down_proj.weight)
