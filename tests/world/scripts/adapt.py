"""CUT ADAPTER FULL ADAPTER_ONLY PROMPT OUT: what stock peft makes of adapters that Regrowth wrote."""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

cut, adapter, full, adapter_only, prompt, out = sys.argv[1:]
assert all(importlib.util.find_spec(name) is None for name in ("prune", "heal", "recipes"))
ids = AutoTokenizer.from_pretrained(cut)(prompt, return_tensors="pt")


def logits(model):
    with torch.no_grad():
        return model.eval()(**ids).logits[0].tolist()


found = {}
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(cut), adapter)
found["adapter"] = logits(model)
with model.disable_adapter():
    found["switched off"] = logits(model)
found["merged"] = logits(model.merge_and_unload())
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(full), adapter_only)
found["adapter only"] = logits(model)
found["layers"] = model.config.num_hidden_layers
Path(out).write_text(json.dumps(found))
