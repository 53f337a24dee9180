"""The scan of short-transformers: its `ShortTransformer` and its default distance, by its README.

    python short_transformer.py MODEL TEXTS.json OUT.json

Runs in an environment with short-transformers, and imports nothing of Regrowth.
"""

import json
import sys

import torch
from short_transformers import ShortTransformer
from short_transformers.utils import get_best_pruning_start
from transformers import PreTrainedTokenizerFast


def main(model_folder, texts, out):
    # An older transformers has no class of the name in tokenizer_config.json, and looks for rope_theta elsewhere.
    file = f"{model_folder}/tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file, model_input_names=["input_ids", "attention_mask"])
    with open(f"{model_folder}/config.json", encoding="utf-8") as config:
        theta = json.load(config)["rope_parameters"]["rope_theta"]
    model = ShortTransformer.from_pretrained(model_folder, torch_dtype=torch.float32, rope_theta=theta)
    with open(texts, encoding="utf-8") as file:
        samples = [{"content": text} for text in json.load(file)]
    found = model.analyse_layers(dataset=samples, tokenizer=tokenizer, limit=len(samples))
    layers = len(found)
    distances = [found[n - 1, : layers - n + 1].tolist() for n in range(1, layers + 1)]
    best = {n: int(get_best_pruning_start(result=found, block_size=n)) for n in range(1, layers)}
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"distance": distances, "best": best}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
