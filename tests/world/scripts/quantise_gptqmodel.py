"""CUT TEXT OUT: a cut in 4 bits by GPTQModel, calibrated on 8 rows, saved and loaded again on the CPU."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import torch
from divergence import divergence, log_probabilities, rows
from transformers import AutoModelForCausalLM, AutoTokenizer

os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # on two cores its own default is 1, which it then refuses

from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

cut, text, out = sys.argv[1:]
assert all(importlib.util.find_spec(name) is None for name in ("prune", "heal", "recipes"))
calibration, batch = rows(AutoTokenizer.from_pretrained(cut), text, 12, 128).split([8, 4])
wanted = log_probabilities(AutoModelForCausalLM.from_pretrained(cut), batch)

model = GPTQModel.load(cut, QuantizeConfig(bits=4, group_size=64), device="cpu")
data = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in calibration]
model.quantize(data, batch_size=1)
model.save("quantised")
del model

loaded = GPTQModel.load("quantised", device="cpu", backend=BACKEND.TORCH, dtype=torch.bfloat16)  # it has no fp32
found = {"kl": divergence(wanted, log_probabilities(loaded.model, batch))}
found["share"] = sum(file.stat().st_size for file in Path("quantised").glob("*.safetensors"))
found["share"] /= sum(file.stat().st_size for file in Path(cut).glob("*.safetensors"))
Path(out).write_text(json.dumps(found))
