"""Angular distance between what goes into a block of N layers and what comes out, at the last token of each text."""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("texts")
parser.add_argument("n", type=int)
parser.add_argument("--samples", type=int, default=128)
parser.add_argument("--length", type=int, default=128)
parser.add_argument("--batch-size", type=int, default=8)
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
tokenizer.padding_side = "right"
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
texts = [json.loads(line)["text"] for line in Path(args.texts).read_text(encoding="utf-8").splitlines()][: args.samples]

layers = model.config.num_hidden_layers
sums = torch.zeros(layers - args.n + 1)
with torch.no_grad():
    for start in range(0, len(texts), args.batch_size):
        batch = tokenizer(
            texts[start : start + args.batch_size],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=args.length,
        )
        states = model.model(**batch, output_hidden_states=True).hidden_states
        last = batch["attention_mask"].sum(dim=1) - 1
        last_states = [state[torch.arange(len(last)), last] for state in states]
        for block in range(layers - args.n + 1):
            cosine = torch.cosine_similarity(last_states[block], last_states[block + args.n])
            sums[block] += (cosine.clamp(-1, 1).arccos() / torch.pi).sum()
distances = sums / len(texts)
for block, distance in enumerate(distances.tolist()):
    print(f"layers {block} to {block + args.n - 1}: {distance:.4f}")
print("best", int(distances[:-1].argmin()))
