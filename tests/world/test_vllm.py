"""vLLM on the CPU serves the cut, the adapter and the healed model over HTTP, and says what transformers says.

All in fp32. The likeliest tokens are compared by their log-probabilities, so that no result hangs on the kind of CPU:
where two tokens are as likely, either may be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.vllm_server import ROOT, Server, serving, version, vllm

PROMPTS = ("The capital of France is", "A square is a quadrilateral with", "Once upon a time, in a small village")
WRITTEN, LIKELIEST = 16, 5
TOLERANCE = 2e-3  # nats


@pytest.fixture(scope="module")
def command() -> Path:
    return vllm()


@pytest.fixture(scope="module")
def cut_server(command, cut_model, adapter, tmp_path_factory) -> Iterator[Server]:
    """The cut, and beside it the adapter."""
    lora = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"adapter={adapter}")
    with serving(command, cut_model, tmp_path_factory.mktemp("cut"), "--served-model-name", "cut", *lora) as server:
        yield server


def _loaded(model: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def _compare(server: Server, name: str, model: torch.nn.Module, tokenizer: Callable) -> float:
    """The largest difference between log-probabilities, at the written and at the likeliest tokens."""
    worst = 0.0
    for prompt in PROMPTS:
        ids = tokenizer(prompt).input_ids
        answer = server.ask(
            "/v1/completions", model=name, prompt=ids, max_tokens=WRITTEN, temperature=0, logprobs=LIKELIEST,
            ignore_eos=True, return_tokens_as_token_ids=True,
        )["choices"][0]["logprobs"]  # fmt: skip
        written = [_number(token) for token in answer["tokens"]]
        assert len(written) == WRITTEN
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + written])).logits[0]
        ours = logits.float().log_softmax(-1)[len(ids) - 1 : -1]
        for row, token, theirs, likeliest in zip(
            ours, written, answer["token_logprobs"], answer["top_logprobs"], strict=True
        ):
            assert row.max() - row[token] < TOLERANCE  # what a greedy transformers writes too
            top = {_number(one): value for one, value in likeliest.items()} | {token: theirs}
            worst = max([worst, *(abs(float(row[one]) - value) for one, value in top.items())])
    return worst


def _number(token: str) -> int:
    return int(token.removeprefix("token_id:"))


def test_the_cut(cut_server, cut_model, checked):
    worst = _compare(cut_server, "cut", _loaded(cut_model), AutoTokenizer.from_pretrained(cut_model))
    checked(version(), "`vllm serve` of the cut on the CPU, asked over HTTP", f"log-probabilities within {worst:.1g}")
    assert worst < TOLERANCE


def test_the_adapter_on_the_cut(cut_server, cut_model, adapter, checked):
    tokenizer, base = AutoTokenizer.from_pretrained(cut_model), _loaded(cut_model)
    ids = torch.tensor([tokenizer(PROMPTS[0]).input_ids])
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, adapter).eval()
        assert (adapted(input_ids=ids).logits - plain).abs().max() > 0.01  # the adapter matters
    worst = _compare(cut_server, "adapter", adapted, tokenizer)
    checked(version(), "the adapter by `--lora-modules`, asked over HTTP", f"log-probabilities within {worst:.1g}")
    assert worst < TOLERANCE


def test_an_adapter_that_holds_its_cut_is_refused(cut_server, adapter_only, checked):
    what = "an adapter that holds its cut (`heal merge --adapter-only`)"
    checked(version(), what, "refused: vLLM has no `layer_replication`")
    with pytest.raises(AssertionError, match="layer_replication"):
        cut_server.ask("/v1/load_lora_adapter", lora_name="only", lora_path=str(adapter_only))


def test_the_healed_model(command, healed_model, tmp_path, checked):
    assert "vllm serve healed" in (ROOT / "README.md").read_text()
    with serving(command, healed_model, tmp_path, "--served-model-name", "healed") as server:
        worst = _compare(server, "healed", _loaded(healed_model), AutoTokenizer.from_pretrained(healed_model))
    assert not server.alive()
    checked(version(), "`vllm serve` of the healed model, asked over HTTP", f"log-probabilities within {worst:.1g}")
    assert worst < TOLERANCE
