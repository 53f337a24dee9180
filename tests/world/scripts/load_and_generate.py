"""MODEL PROMPT OUT: load a model as anyone does, say what was amiss, and write on. No Regrowth is near."""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompt, out = sys.argv[1:]
assert all(importlib.util.find_spec(name) is None for name in ("prune", "heal", "recipes"))
model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
ids = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
with torch.no_grad():
    logits = model(**ids).logits[0]
tokens = model.generate(**ids, max_new_tokens=16, do_sample=False)[0]
found = {
    "amiss": {name: sorted(map(str, amiss)) for name, amiss in info.items()},
    "dtype": str(model.dtype),
    "logits": logits.tolist(),
    "tokens": tokens.tolist(),
}
Path(out).write_text(json.dumps(found))
