"""From MODEL to a folder, a loaded model and its layers; every wrong name is one clear line."""

import re
import shutil
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from eval.asking.backends import asked_context
from heal.models.quantise import compute_dtype
from prune.checkpoint.source import locate
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.models import precision
from prune.models.loading import decoder_layers, load_model, load_tokenizer, pick_device, read_config
from prune.models.precision import multiplies_bfloat16, pick_dtype, tensor_float32
from prune.models.spread import place_layers
from prune.models.walks.layer_files import LayerFiles
from prune.models.whole import load_whole
from tests.support.checkpoints import edit_config
from tests.support.every_family import save_small_model
from tests.support.models import tiny


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
    (tmp_path / "tokenizer.model").write_text("")
    with pytest.raises(CheckpointError, match=r"has no tokenizer that transformers can load \(.+\)$"):
        load_tokenizer(locate(tmp_path))


DOWN = "model.layers.4.mlp.down_proj.weight"


@pytest.mark.parametrize("bits", [16, 4])
def test_weights_that_are_not_in_the_files_are_never_made_up(tiny_llama, tmp_path, bits):
    """transformers fills them with random numbers, and a random layer looks like the best one to drop."""
    path = shutil.copytree(tiny_llama, tmp_path / "odd") / "model.safetensors"
    weights = load_file(path)
    how = {} if bits == 16 else {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
    save_file({name: weight for name, weight in weights.items() if name != DOWN}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"odd: config.json asks for {DOWN}, which none of its files holds"):
        load_model(locate(path.parent), **how)
    save_file(weights, path, metadata={"format": "pt"})
    edit_config(path.parent, num_hidden_layers=9)
    with pytest.raises(CheckpointError, match=r"asks for model.layers.8.* \(and 8 more\), which none"):
        load_model(locate(path.parent), **how)


def test_a_weight_of_another_shape_is_named_with_both(tiny_llama, tmp_path):
    path = shutil.copytree(tiny_llama, tmp_path / "odd") / "model.safetensors"
    weights = load_file(path)
    wanted = list(weights[DOWN].shape)
    save_file({**weights, DOWN: torch.zeros(3, 5)}, path, metadata={"format": "pt"})
    words = re.escape(f"{DOWN} has the shape [3, 5], and config.json asks for {wanted}; get the files again")
    with pytest.raises(CheckpointError, match=words):
        load_model(locate(path.parent))
    files = LayerFiles(locate(path.parent), dtype=torch.float32, device="cpu")
    with pytest.raises(CheckpointError, match=words):
        list(files.each([3, 4]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", None, r"tokenizer\.json is damaged \(.*; copy it anew"),  # cut off
        ("tokenizer.json", "{}", r"tokenizer\.json is damaged, or of a newer tokenizers \(.*; copy it anew"),
        ("tokenizer.json", "null", r"tokenizer\.json is damaged, or of a newer tokenizers"),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "BPE"}}', r"tokenizer\.json is damaged, or of"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is damaged"),
    ],
)
def test_a_damaged_tokenizer_is_named_by_its_file(name, content, words, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "torn")
    path = folder / name
    path.write_text(path.read_text()[:200] if content is None else content)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_tokenizer(locate(folder))
    assert "\n" not in str(caught.value)


def test_a_config_that_its_class_refuses_is_one_line_with_the_reason(tiny_llama, tmp_path, monkeypatch):
    source = locate(shutil.copytree(tiny_llama, tmp_path / "odd"))
    monkeypatch.setattr("prune.models.spread.gpus", lambda: [("cuda:0", 1 << 30), ("cuda:1", 1 << 30)])
    for fields, reason in [({"rope_parameters": 5}, ".*with value 5 .*"), ({"dtype": "nix"}, ".*'nix'")]:
        edit_config(source.folder, **fields)
        for read in (
            lambda: read_config(source.folder, source.name),
            lambda: asked_context(source, None),
            lambda: place_layers(source, bits=16, dtype=torch.float32),
            lambda: LayerFiles(source, dtype=torch.float32, device="cpu"),
        ):
            with pytest.raises(CheckpointError, match=rf"odd: transformers cannot read its config.json \({reason}\)$"):
                read()
        edit_config(source.folder, *fields)
    edit_config(source.folder, rope_parameters=5)
    with pytest.raises(CheckpointError, match=r"odd: transformers cannot read its config.json \(.*with value 5"):
        load_model(source)


def test_devices_and_dtypes():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(RegrowthError, match="--device nowhere"):
        pick_device("nowhere")
    assert pick_dtype("bf16") is torch.bfloat16
    assert pick_dtype("float16") is torch.float16
    with pytest.raises(UsageError, match="--dtype int3"):
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
    with pytest.raises(UsageError, match="--dtype float16 cannot be trained in: small gradients vanish"):
        compute_dtype("float16")


@pytest.fixture
def card(monkeypatch):
    """Stand in for torch.cuda, with cards of the given compute capabilities (7.5: T4, 8.0: A100)."""

    def install(*capabilities):
        chosen = [0]

        @contextmanager
        def choose(device):
            chosen.append(torch.device(device).index or 0)
            yield
            chosen.pop()

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device", choose)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda index: SimpleNamespace(major=int(capabilities[index]))
        )

    return install


def test_a_gpu_is_asked_whether_it_multiplies_bfloat16(card):
    card(7.5, 8.0)
    assert not multiplies_bfloat16("cuda")
    assert not multiplies_bfloat16("cuda:0")
    assert multiplies_bfloat16("cuda:1")
    assert pick_dtype("auto", device="cuda") == pick_dtype("fast", device="cuda") == torch.float32
    assert compute_dtype(device="cuda") == torch.float32
    assert compute_dtype(device="cuda:1") == torch.bfloat16


def test_a_gpu_that_is_not_here_is_taken_for_a_newer_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert multiplies_bfloat16("cuda:1")


def test_the_checkpoints_own_dtype_is_the_one_that_transformers_takes(tmp_path):
    """Of a config that names none it is that of the files, on each way of loading."""
    save_small_model("llama", tmp_path)
    model = load_model(locate(tmp_path)).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, dtype=None)
    source = locate(tmp_path)
    assert load_model(source).dtype == torch.bfloat16
    assert LayerFiles(source, dtype="auto", device="cpu").dtype == torch.bfloat16
    assert load_whole(source, dtype="auto", device="cpu", load_in_4bit=True).dtype == torch.bfloat16


def test_weights_go_straight_to_a_gpu_and_by_way_of_memory_to_nothing_else(monkeypatch, tiny_llama):
    model = Mock()
    model.to.return_value.is_loaded_in_4bit = model.is_loaded_in_4bit = False
    load = Mock(return_value=(model, {"missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": set()}))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    load_model(locate(tiny_llama), device="cuda:1")
    model.to.assert_not_called()
    load_model(locate(tiny_llama), device="cpu")
    model.to.assert_called_once_with("cpu")
    assert [call.kwargs.get("device_map") for call in load.call_args_list] == [{"": "cuda:1"}, None]


def test_four_bit_layers_multiply_in_float32_where_it_is_asked_for(monkeypatch, tmp_path):
    """bitsandbytes believes here that any CPU has AVX512-bf16, and would repack its layers for it."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    tiny("llama").save_pretrained(tmp_path)
    model = load_model(locate(tmp_path), dtype=torch.float32, quantization_config=nf4)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(layers) == 3 * 7
    plain = load_model(locate(tmp_path), dtype=torch.float32)
    for name, layer in layers.items():
        plain.get_submodule(name).weight.data = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    ids = torch.arange(3, 67)[None]
    with torch.no_grad():
        wanted, found = (one(input_ids=ids).logits for one in (plain, model))
    assert (wanted - found).abs().max() < 1e-5 * wanted.std()


def test_the_tests_run_as_the_cpu_that_was_asked_for(pytestconfig):
    if not pytestconfig.getoption("avx2"):
        pytest.skip("only with --avx2")
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"
    assert not multiplies_bfloat16("cpu")
    assert not Linear4bit(64, 64).support_avx512bf16_for_cpu


def test_tensor_float32_lasts_as_long_as_it_is_wanted():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with tensor_float32():
        assert matmul.allow_tf32
        with tensor_float32(False):
            assert not matmul.allow_tf32
        assert matmul.allow_tf32
    with pytest.raises(ValueError, match="on the way"), tensor_float32(not before):
        raise ValueError("on the way")
    assert matmul.allow_tf32 == before
