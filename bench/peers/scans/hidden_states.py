"""The scan as PruneMe does it: all hidden states of a loaded model, one sample at a time, the last token's angles.

    python hidden_states.py MODEL TEXTS.json OUT.json

Kinder than PruneMe where it costs time: all block sizes come of one pass (there each size is a run), and the weights
are as stored (there in 4 bits). As there, the last hidden state is the one after the final norm, and no block that
begins at layer 0 is chosen. Imports nothing of Regrowth.
"""

import json
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def angular(one, other):
    return torch.acos(torch.nn.functional.cosine_similarity(one, other, dim=-1).clamp(-1, 1)) / math.pi


def main(model_folder, texts, out):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    layers = model.config.num_hidden_layers
    total = torch.zeros(layers + 1, layers + 1)
    with open(texts, encoding="utf-8") as file:
        samples = json.load(file)
    for text in samples:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states
        last = torch.stack([state[0, -1] for state in states])
        for n in range(1, layers + 1):
            total[n, : layers + 1 - n] += angular(last[:-n], last[n:])
    mean = (total / len(samples)).tolist()
    distances = [mean[n][: layers + 1 - n] for n in range(1, layers + 1)]
    best = {n: 1 + min(range(len(row) - 1), key=row[1:].__getitem__) for n, row in enumerate(distances[:-1], start=1)}
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"distance": distances, "best": best}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
