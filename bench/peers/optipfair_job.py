"""optipfair's whole job as its documents have it: score layers, drop the least important, distil on text.

    python optipfair_job.py --model FULL --n 6 --calibration texts.jsonl --healing texts.jsonl --out OUT

Takes nothing of Regrowth's: `bench/peers/whole.py` runs it in an environment of its own.
"""

import argparse
import json
from pathlib import Path

import torch
from optipfair import analyze_layer_importance, distill_model, prune_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def texts(path):
    return [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def padded(tokenizer, some, length, batch_size):
    """Batches of texts, each cut at `length`, with a mask for the padding."""
    for start in range(0, len(some), batch_size):
        yield dict(
            tokenizer(
                some[start : start + batch_size], return_tensors="pt", padding=True, truncation=True, max_length=length
            )
        )


def packed(tokenizer, some, length):
    """Rows of one length from all texts joined, so that none is padding."""
    ids = [token for text in some for token in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    return [{"input_ids": torch.tensor(ids[at : at + length])} for at in range(0, len(ids) - length + 1, length)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--healing", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=4e-5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    batches = list(padded(tokenizer, texts(asked.calibration), asked.length, 8))
    importance = analyze_layer_importance(model, batches, show_progress=False)
    dropped = sorted(sorted(importance, key=importance.get)[: asked.n])
    student = prune_model(model, pruning_type="DEPTH", layer_indices=dropped, show_progress=False)
    teacher = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    rows = packed(tokenizer, texts(asked.healing), asked.length)[: asked.tokens // asked.length]
    batches = torch.utils.data.DataLoader(rows, batch_size=asked.batch_size)
    student = distill_model(
        student,
        teacher,
        batches,
        epochs=1,
        accumulation_steps=1,
        learning_rate=asked.learning_rate,
        show_progress=False,
    )
    student.save_pretrained(asked.out)
    tokenizer.save_pretrained(asked.out)
    (asked.out / "dropped.json").write_text(json.dumps(dropped))


if __name__ == "__main__":
    main()
