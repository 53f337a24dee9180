"""Which linear modules of a decoder layer play which role, told by their names alone."""

from __future__ import annotations

import re

ROLES = ("feed-forward", "all")
ROUTERS = {"gate", "router", "shared_expert_gate"}  # they choose experts, and are never adapted
_ATTENTION = re.compile(r"attn|attention|mixer|mamba")
_FEED_FORWARD = re.compile(r"(mlp|ffn?|feed_?forward|block_sparse_moe|moe|experts?|shared_experts?)(\.|$)")
_BARE = {"fc1", "fc2", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}  # directly under the layer, as in OPT


def is_feed_forward(path: str) -> bool:
    """Whether a module, named by its path in the layer, belongs to the feed-forward part."""
    return not _ATTENTION.search(path) and (bool(_FEED_FORWARD.match(path)) or path in _BARE)


def plays(role: str, path: str) -> bool:
    """Whether an adapter for `role` goes onto the linear module at `path` of a layer."""
    if path.rpartition(".")[2] in ROUTERS:
        return False
    return role == "all" or is_feed_forward(path)
