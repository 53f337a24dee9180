"""A stand-in for the package vLLM, which needs a GPU: its face as lm-eval uses it, transformers behind it."""

import importlib.metadata
import sys
import types
from importlib.machinery import ModuleSpec

import torch


class SamplingParams:
    def __init__(self, temperature=0, prompt_logprobs=None, max_tokens=16, stop=None, detokenize=True, **_):
        self.prompt_logprobs, self.max_tokens, self.stop = prompt_logprobs, max_tokens, stop or []


class LLM:
    """Answers prompts one by one; `max_model_len` is held to as vLLM does."""

    def __init__(self, model, max_model_len, dtype, **_):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.limit = max_model_len

    @torch.inference_mode()
    def generate(self, prompts, sampling_params, **_):
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _answer(self, ids, settings):
        if len(ids) + settings.max_tokens > self.limit:
            raise ValueError("the prompt is longer than max_model_len")
        prompt = torch.tensor([ids])
        if settings.prompt_logprobs is not None:
            logprobs = self.model(prompt).logits[0].float().log_softmax(-1)
            told = [None]
            for place, token in enumerate(ids[1:]):
                best = int(logprobs[place].argmax())
                told.append({t: float(logprobs[place, t]) for t in (best, token)})
            return types.SimpleNamespace(prompt_logprobs=told)
        made = self.model.generate(prompt, max_new_tokens=settings.max_tokens, do_sample=False)[0, len(ids) :]
        text = self.tokenizer.decode(made, skip_special_tokens=False)
        for stop in settings.stop:
            text = text.split(stop)[0]
        return types.SimpleNamespace(outputs=[types.SimpleNamespace(text=text)])


def install(monkeypatch):
    """Put the stand-in where `import vllm` finds it, until the test ends."""
    from transformers import AutoTokenizer

    def module(name, **content):
        made = types.ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("vllm", LLM=LLM, SamplingParams=SamplingParams, TokensPrompt=dict)
    module("vllm.lora")
    module("vllm.lora.request", LoRARequest=object)
    module("vllm.tokenizers", get_tokenizer=lambda name, tokenizer_mode, **o: AutoTokenizer.from_pretrained(name, **o))
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.8.0" if name == "vllm" else real(name))
    for name in ("lm_eval.models.vllm_causallms", "eval.asking.vllm_scorer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
