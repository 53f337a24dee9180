"""CUT TEXT OUT: a cut in 4 bits by llm-compressor's GPTQ, calibrated on 8 rows, saved and loaded by transformers."""

import importlib.util
import json
import sys
from pathlib import Path

from datasets import Dataset
from divergence import divergence, log_probabilities, rows
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

cut, text, out = sys.argv[1:]
assert all(importlib.util.find_spec(name) is None for name in ("prune", "heal", "recipes"))
tokenizer = AutoTokenizer.from_pretrained(cut)
calibration, batch = rows(tokenizer, text, 12, 128).split([8, 4])
model = AutoModelForCausalLM.from_pretrained(cut)
wanted = log_probabilities(model, batch)

data = Dataset.from_dict(
    {"input_ids": calibration.tolist(), "attention_mask": calibration.new_ones(calibration.shape).tolist()}
)
weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64}
groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
recipe = GPTQModifier(config_groups=groups, ignore=["lm_head"])
oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=128, num_calibration_samples=8)
model.save_pretrained("quantised", save_compressed=True)
tokenizer.save_pretrained("quantised")

loaded = AutoModelForCausalLM.from_pretrained("quantised")
found = {"kl": divergence(wanted, log_probabilities(loaded, batch))}
found["share"] = sum(file.stat().st_size for file in Path("quantised").glob("*.safetensors"))
found["share"] /= sum(file.stat().st_size for file in Path(cut).glob("*.safetensors"))
Path(out).write_text(json.dumps(found))
