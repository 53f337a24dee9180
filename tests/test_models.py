"""From MODEL to a folder, a loaded model and its layers; every wrong name is one clear line."""

import pytest
import torch

from heal.quantise import compute_dtype
from prune import precision
from prune.errors import CheckpointError, RegrowthError, UsageError
from prune.models import decoder_layers, load_model, load_tokenizer, locate, pick_device
from prune.precision import multiplies_bfloat16, pick_dtype


def test_a_folder_is_located_and_loaded(tiny_llama):
    source = locate(tiny_llama)
    assert source.folder == tiny_llama
    model = load_model(source, dtype=torch.bfloat16)
    assert not model.training
    assert model.dtype == torch.bfloat16
    assert len(decoder_layers(model)) == 8
    assert decoder_layers(model) is model.model.layers
    assert load_tokenizer(source).bos_token_id == 1


def test_what_is_no_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        locate(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        locate(tmp_path / "file")
    with pytest.raises(CheckpointError, match="does not exist"):
        locate(tmp_path / "none")
    with pytest.raises(CheckpointError, match="does not exist"):
        locate("no-such-model")


def test_a_hub_id_without_a_network_is_one_line(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="the hub cannot be reached.*local model folder"):
        locate("regrowth/none")


def test_a_folder_without_tokenizer_or_weights(tiny_llama, tmp_path):
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal language model"):
        load_model(locate(tmp_path))
    with pytest.raises(CheckpointError, match=r"has no tokenizer: none of tokenizer\.json, .* is in its folder$"):
        load_tokenizer(locate(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no tokenizer that transformers can load \(.+\)$"):
        load_tokenizer(locate(tmp_path))


def test_devices_and_dtypes():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(RegrowthError, match="--device nowhere"):
        pick_device("nowhere")
    assert pick_dtype("bf16") is torch.bfloat16
    assert pick_dtype("float16") is torch.float16
    with pytest.raises(RegrowthError, match="--dtype int3"):
        pick_dtype("int3")


def test_layers_that_cannot_be_told_apart_are_refused(tiny_llama):
    model = load_model(locate(tiny_llama))
    model.config.num_hidden_layers = 3
    with pytest.raises(RegrowthError, match="cannot tell which of its modules are the 3 decoder layers"):
        decoder_layers(model)


@pytest.mark.parametrize(("fast", "auto"), [(True, "auto"), (False, torch.float32)])
def test_sixteen_bits_are_taken_where_the_device_multiplies_them(monkeypatch, fast, auto):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: fast)
    assert pick_dtype("auto") == auto
    assert pick_dtype("fast") == (torch.bfloat16 if fast else torch.float32)
    assert pick_dtype("bfloat16") == torch.bfloat16  # asked for by name
    assert compute_dtype() == pick_dtype("fast")
    with pytest.raises(UsageError, match="--dtype float16 cannot be trained in"):
        compute_dtype("float16")


def test_a_gpu_multiplies_bfloat16():
    assert multiplies_bfloat16("cuda:1")
    assert multiplies_bfloat16("cpu") in (True, False)
