"""How much is computed at once: a CPU's numbers stay what they were, and a GPU's are bounded by its memory."""

from types import SimpleNamespace

import pytest
import torch

from prune.models import at_once as sizes
from prune.models.at_once import at_once
from prune.models.walks import variants
from tests.support.models import tiny


def test_a_cpu_keeps_its_numbers_and_a_gpu_takes_more():
    numbers = {name: table["cpu"] for name, table in vars(sizes).items() if name.isupper() and isinstance(table, dict)}
    assert numbers == {
        "SCAN_TOKENS": 1024, "WALK_TOKENS": 1024, "LOGITS": 1 << 24, "FLOATS": 1 << 19, "COMPARED_BYTES": 1 << 27,
        "ANSWERED_BYTES": 1 << 26,
    }  # fmt: skip
    for name in numbers:
        table = getattr(sizes, name)
        assert at_once(table, torch.device("cpu")) == at_once(table, "xla") == table["cpu"]
        assert at_once(table, "cuda:1") == at_once(table, torch.device("cuda")) > table["cpu"]


@pytest.mark.parametrize(
    ("free", "routes", "tokens"), [(1 << 40, 4, 8192), (8 * 64 * 4 * 10 * 3000, 10, 3000), (1 << 20, 10, 1024)]
)
def test_a_walk_on_a_gpu_leaves_room_for_the_states_of_all_variants(monkeypatch, free, routes, tokens):
    model = tiny("llama")  # of 64 channels, in float32
    assert variants.walk_tokens(model, routes) == 1024
    monkeypatch.setattr(variants, "available", lambda device: free)
    on_gpu = SimpleNamespace(
        get_input_embeddings=lambda: SimpleNamespace(weight=SimpleNamespace(device=torch.device("cuda"))),
        config=model.config, dtype=model.dtype,
    )  # fmt: skip
    assert variants.walk_tokens(on_gpu, routes) == tokens
