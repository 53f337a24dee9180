"""CUT HEALED ADAPTER TEXT OUT: a cut in 8 and 4 bits by stock transformers, and a QLoRA adapter on it by stock peft.

HEALED is the merge of the adapter into the weights as 4 bits left them.
"""

import importlib.util
import json
import sys
from pathlib import Path

from divergence import divergence, log_probabilities, rows
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

cut, healed, adapter, text, out = sys.argv[1:]
assert all(importlib.util.find_spec(name) is None for name in ("prune", "heal", "recipes"))
batch = rows(AutoTokenizer.from_pretrained(cut), text, 4, 128)
wanted = log_probabilities(AutoModelForCausalLM.from_pretrained(cut), batch)
ways = {
    "load_in_8bit": BitsAndBytesConfig(load_in_8bit=True),
    "load_in_4bit": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
}
found = {}
for name, config in ways.items():
    model = AutoModelForCausalLM.from_pretrained(cut, quantization_config=config, device_map="cpu")
    found[name] = divergence(wanted, log_probabilities(model, batch))
trained = log_probabilities(AutoModelForCausalLM.from_pretrained(healed), batch)
found["healed"] = divergence(trained, wanted)
found["adapter"] = divergence(trained, log_probabilities(PeftModel.from_pretrained(model, adapter).eval(), batch))
Path(out).write_text(json.dumps(found))
