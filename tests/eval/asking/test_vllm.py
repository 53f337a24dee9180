"""vLLM itself, on the CPU: cut and healed models answer as they do in transformers. `make test-vllm` runs this.

All in float32, so that no tolerance hangs on the kind of CPU.
"""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.comparison import compare
from eval.runs.run import run
from heal import TextSource
from prune import WriteSettings, cut, plan_cut, write
from prune.checkpoint.companions import ADAPTER_CONFIG
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError
from prune.models.generation import VllmWriter, write_answers
from prune.models.precision import multiplies_bfloat16
from tests.support.healing import heal_small, merge_quietly, ship
from tests.support.models import save_tiny
from tests.support.texts import write_jsonl

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; see `make test-vllm`")

ENGINE = {"enforce_eager": True, "max_num_seqs": 8, "max_num_batched_tokens": 1024}
ASKED = {"domains": "math", "sets": ["mmlu", "asdiv"], "limit": 4, "chat_template": "off", "show_progress": False}
# Small models' families: what their configs need beside the sizes.
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 32},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 32, "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2},
}


@pytest.fixture(autouse=True)
def small_engine(monkeypatch, tmp_path):
    """An engine with 1 GiB for its cache and one thread, which shares the machine."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # logs of engines that failed stay


@pytest.fixture(scope="module")
def prose(sample_heldout, tmp_path_factory):
    """A few passages of the held-out text."""
    rows = map(json.loads, sample_heldout.read_text().splitlines()[:6])
    return write_jsonl(tmp_path_factory.mktemp("prose") / "few.jsonl", rows)


@pytest.fixture(scope="module")
def sample_models(sample_model, sample_text, sample_heldout, tmp_path_factory):
    """The sample model, cut to 22 layers, and healed: an adapter trained for a few steps and merged."""
    folder = tmp_path_factory.mktemp("sample")
    pruned = cut(plan_cut(sample_model, layers="9-16"), folder / "pruned", show_progress=False)
    adapter = _adapter(pruned, folder / "adapter", sample_text, sample_heldout, tokens=512, learning_rate=1e-3)
    merge_quietly(adapter, folder / "healed", base="original", compare_logits=False)
    return {"full": sample_model, "pruned": pruned, "healed": folder / "healed"}


def _adapter(pruned, out, text, held_out, *, tokens, **settings):
    source = TextSource(str(text), held_out=str(held_out), held_out_tokens=128)
    return heal_small(pruned, source, out, tokens=tokens, rank=8, bits=16, **settings).out


def _answers_alike(model, questions, prose):
    ask = {**ASKED, "data": questions, "text": str(prose), "max_length": 512, "dtype": "float32"}
    there = run(model, **ask)
    found = run(model, backend="vllm", backend_args=ENGINE, **ask)
    assert found.settings == {**there.settings, "backend": "vllm", "backend_args": dict(sorted(ENGINE.items()))}
    assert len(found.samples) == len(there.samples) == 2 * ASKED["limit"]
    for one, other in zip(found.samples, there.samples, strict=True):
        assert one.answer_nll_bits == pytest.approx(other.answer_nll_bits, abs=2e-3)
        assert replace(one, answer_nll_bits=0) == replace(other, answer_nll_bits=0)
    ours, theirs = found.prose["held-out"], there.prose["held-out"]
    assert ours.sha256 == theirs.sha256
    for one, other in zip(ours.windows, theirs.windows, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-4)


@pytest.mark.parametrize("name", ["full", "pruned", "healed"])
def test_the_sample_models_answer_as_in_transformers(name, sample_models, sample_questions, prose):
    _answers_alike(sample_models[name], sample_questions, prose)


def _small(family, folder, tokenizer_of):
    """A random model of six layers with the sample model's tokenizer; every layer matters. Whole, and cut by two."""
    shape = {"layers": 6, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "pad_token_id": None}
    shape |= {"max_position_embeddings": 1024, "tie_word_embeddings": True, "initializer_range": 0.15}
    full = save_tiny(folder / "full", tokenizer_of, family, **shape, **FAMILIES[family])
    return full, cut(plan_cut(full, layers="1-2"), folder / "pruned", show_progress=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_families_answer_as_in_transformers(family, sample_model, sample_questions, prose, tmp_path):
    _, pruned = _small(family, tmp_path, sample_model)
    _answers_alike(pruned, sample_questions, prose)


def test_one_model_after_the_other_and_their_precision(sample_model, sample_questions, tmp_path):
    """`auto` on a float32 checkpoint is 16 bits in vLLM where the CPU has them, and the record says so."""
    full, pruned = _small("llama", tmp_path, sample_model)
    ask = {**ASKED, "data": sample_questions, "sets": ["mmlu"], "backend": "vllm", "backend_args": ENGINE}
    document = compare(full, [pruned], out=tmp_path / "bill", **ask).to_json()
    dtype = "bfloat16" if multiplies_bfloat16() else "float32"
    assert [model["settings"]["dtype"] for model in document["models"]] == [dtype, dtype]
    assert document["provenance"]["versions"]["vllm"].startswith("0.")


def test_what_vllm_refuses_comes_as_one_line(sample_model, sample_questions, tmp_path):
    full, _ = _small("llama", tmp_path, sample_model)
    with pytest.raises(CheckpointError) as refused:
        run(full, **ASKED, data=sample_questions, backend="vllm", backend_args={"quantization": "none-such"})
    assert "cannot be loaded by vLLM" in str(refused.value)
    assert "none-such" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_adapter_is_served_and_an_adapter_with_its_cut_is_refused(
    sample_model, sample_text, sample_heldout, monkeypatch, tmp_path
):
    from peft import PeftModel
    from vllm import LLM, SamplingParams
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.request import LoRARequest

    _, pruned = _small("llama", tmp_path, sample_model)
    adapter = _adapter(pruned, tmp_path / "adapter", sample_text, sample_heldout, tokens=512, learning_rate=3e-2)
    ship(adapter, tmp_path / "only", compare_logits=False)

    ids = list(range(300, 340))
    base = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32)
    plain = _logprobs(base, ids)
    adapted = _logprobs(PeftModel.from_pretrained(base, adapter), ids)
    assert (plain - adapted).abs().max() > 0.01  # the adapter matters

    engine = LLM(model=str(pruned), dtype="float32", max_model_len=128, enable_lora=True, max_lora_rank=8, **ENGINE)
    scoring = SamplingParams(temperature=0, prompt_logprobs=0, max_tokens=1)

    def served(request):
        (output,) = engine.generate([{"prompt_token_ids": ids}], scoring, use_tqdm=False, lora_request=request)
        told = output.prompt_logprobs[1:]
        return torch.tensor([one[token].logprob for one, token in zip(told, ids[1:], strict=True)])

    assert (served(None) - plain).abs().max() < 2e-3
    assert (served(LoRARequest("adapter", 1, str(adapter))) - adapted).abs().max() < 2e-3
    with pytest.raises(ValueError, match="layer_replication"):
        served(LoRARequest("only", 2, str(tmp_path / "only")))

    config = json.loads((tmp_path / "only" / ADAPTER_CONFIG).read_text())
    del config["layer_replication"]  # as older vLLM, which reads past it
    with pytest.raises(ValueError, match="bias"):
        PEFTHelper.from_dict(config).validate_legal(LoRAConfig(max_lora_rank=8))
    PEFTHelper.from_dict({**config, "bias": "none"}).validate_legal(LoRAConfig(max_lora_rank=8))


def _logprobs(model, ids):
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids])).logits[0].float()
    return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_a_model_writes_as_in_transformers(sample_model):
    model = AutoModelForCausalLM.from_pretrained(sample_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(sample_model)
    texts = ("The capital of France is", "Two and two are", "Once upon a time")
    prompts = [tuple(tokenizer(text).input_ids) for text in texts]
    writer = VllmWriter(Source(sample_model, "sample"), tokenizer, max_length=64, dtype="float32", engine=ENGINE)
    try:
        assert writer.write(prompts, 8, None) == write_answers(model, tokenizer, prompts, 8, None)
        drawn = writer.write(prompts, 8, 3)
        assert drawn == writer.write(prompts, 8, 3) != writer.write(prompts, 8, 4)
    finally:
        writer.close()


def test_the_same_text_is_written_as_by_transformers(sample_model, tmp_path):
    """By `prune write`, greedily; drawn text follows from the seed."""
    prompts = write_jsonl(tmp_path / "asked.jsonl", ({"question": f"What is {i} plus {i}?"} for i in range(8)))
    how = {"tokens": 300, "answer_tokens": 8, "max_length": 128, "batch_size": 4, "dtype": "float32"}
    engine = {
        "backend": "vllm",
        "backend_args": ",".join(f"{name}={str(value).lower()}" for name, value in ENGINE.items()),
    }
    written = {}
    for name, settings in (
        ("hf", {"temperature": 0}),
        ("vllm", {"temperature": 0, **engine}),
        ("drawn", engine),
        ("again", engine),
    ):
        out = tmp_path / f"{name}.jsonl"
        write(sample_model, str(prompts), out, settings=WriteSettings(**how, **settings), show_progress=False)
        written[name] = out.read_text()
    assert written["vllm"] == written["hf"]
    assert written["drawn"] == written["again"] != written["vllm"]
