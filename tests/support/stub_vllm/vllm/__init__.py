"""A stand-in for the package vLLM: its face as lm-eval uses it, transformers behind it.

STUB_VLLM_CALLS in the environment lets that many calls of `generate` pass; at the next one the process dies.
"""

import os
import types

import torch

TokensPrompt = dict


class SamplingParams:
    def __init__(
        self,
        temperature=0,
        prompt_logprobs=None,
        max_tokens=16,
        stop=None,
        top_p=1,
        seed=None,
        stop_token_ids=None,
        **_,
    ):
        self.prompt_logprobs, self.max_tokens, self.stop = prompt_logprobs, max_tokens, stop or []
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
        self.how = {**(drawn if temperature else {"do_sample": False}), "eos_token_id": stop_token_ids}
        self.seed = seed


class LLM:
    """Answers prompts one by one; `max_model_len` is held to as vLLM does. On `auto` float32 becomes bfloat16."""

    def __init__(self, model, max_model_len, dtype, max_num_seqs=None, **_):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        if dtype == "auto" and self.model.dtype == torch.float32:
            self.model = self.model.to(torch.bfloat16)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.limit = max_model_len
        self.calls = int(os.environ.get("STUB_VLLM_CALLS", "1000000"))
        scheduler = types.SimpleNamespace(max_num_seqs=max_num_seqs or 256)
        self.llm_engine = types.SimpleNamespace(
            model_config=types.SimpleNamespace(dtype=self.model.dtype),
            vllm_config=types.SimpleNamespace(scheduler_config=scheduler),
        )

    @torch.inference_mode()
    def generate(self, prompts, sampling_params, **_):
        if "TQDM_DISABLE" in os.environ:
            raise ZeroDivisionError("float division by zero")  # by the time that a bar which is off took
        if not self.calls:
            os._exit(9)
        self.calls -= 1
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _answer(self, ids, settings):
        if len(ids) + settings.max_tokens > self.limit:
            raise ValueError("the prompt is longer than max_model_len")
        prompt = torch.tensor([ids])
        if settings.prompt_logprobs is not None:
            logprobs = self.model(prompt).logits[0].float().log_softmax(-1)
            told = [None]
            for place, (token, best) in enumerate(zip(ids[1:], logprobs.argmax(-1).tolist(), strict=False)):
                told.append({t: float(logprobs[place, t]) for t in (best, token)})
            return types.SimpleNamespace(prompt_logprobs=told)
        torch.manual_seed(settings.seed or 0)
        made = self.model.generate(prompt, max_new_tokens=settings.max_tokens, **settings.how)[0, len(ids) :]
        text = self.tokenizer.decode(made, skip_special_tokens=False)
        for stop in settings.stop:
            text = text.split(stop)[0]
        return types.SimpleNamespace(outputs=[types.SimpleNamespace(text=text, token_ids=made.tolist())])
