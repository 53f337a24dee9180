"""MODEL PROMPT OFFLOAD OUT: a model spread by accelerate over memory and disk, by two ways."""

import json
import sys
from pathlib import Path

import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

folder, prompt, offload, out = sys.argv[1:]
ids = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
some = {"cpu": "250MB"}  # less than the model takes: the rest stays on the disk


def told(model):
    with torch.no_grad():
        logits = model(**ids).logits[0].tolist()
    return {"logits": logits, "places": sorted(set(map(str, model.hf_device_map.values())))}


auto = AutoModelForCausalLM.from_pretrained(
    folder, device_map="auto", max_memory=some, offload_folder=f"{offload}/auto"
)
with init_empty_weights():
    empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
empty.tie_weights()
dispatched = load_checkpoint_and_dispatch(
    empty, folder, device_map="auto", max_memory=some, offload_folder=f"{offload}/dispatched",
    no_split_module_classes=empty._no_split_modules,
)  # fmt: skip
Path(out).write_text(json.dumps({"auto": told(auto), "dispatched": told(dispatched)}))
