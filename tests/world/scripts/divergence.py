"""How far a quantised model's predictions are from those of the weights as they were: what the scripts here share."""

import json
from pathlib import Path

import torch


def rows(tokenizer, text, count, length):
    """The first rows of as many tokens in a .jsonl of passages."""
    tokens = []
    for line in Path(text).read_text().splitlines():
        tokens += tokenizer(json.loads(line)["text"])["input_ids"]
        if len(tokens) >= count * length:
            return torch.tensor(tokens[: count * length]).reshape(count, length)
    raise ValueError(f"{text} has no {count * length} tokens")


def log_probabilities(model, batch):
    with torch.no_grad():
        return torch.cat([model(input_ids=row[None]).logits.float().log_softmax(-1) for row in batch])


def divergence(wanted, found):
    """Mean KL of next-token distributions in nats, wanted against found; not a number where a logit is none."""
    return (wanted.exp() * (wanted - found)).sum(-1).mean().item()
