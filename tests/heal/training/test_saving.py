"""When a checkpoint is due, and how float32 products are rounded while a run trains."""

import pytest
import torch

import heal.training.loop as loop
from tests.support.healing import heal_tiny


@pytest.mark.parametrize(
    ("seconds", "run", "steps"), [(300.0, {}, []), (0.0, {}, [1, 2, 3]), (0.0, {"save_every": 2}, [2])]
)
def test_checkpoints_are_minutes_apart_where_no_steps_are_named(
    seconds, run, steps, shallow_llama, small_text, tmp_path, monkeypatch
):
    saved, rounded = [], []

    def save(state, accelerator, checkpoints):
        saved.append(state.step)
        rounded.append(torch.backends.cuda.matmul.allow_tf32)

    monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
    monkeypatch.setattr(loop, "save", save)
    dtype = "float32" if run else "bfloat16"
    heal_tiny(shallow_llama, small_text, tmp_path / "out", 4 * 64, run, batch_size=1, accumulate=1, dtype=dtype)
    assert saved == steps  # after the last step the run is done, and none is due
    assert set(rounded) <= {dtype == "bfloat16"}  # who asks for float32 gets it whole
    assert torch.backends.cuda.matmul.allow_tf32 is False
