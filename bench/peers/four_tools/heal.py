"""Train a LoRA adapter on text with transformers' Trainer, merge it and save the model."""

import argparse
import json
from itertools import chain
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("texts")
parser.add_argument("out")
parser.add_argument("--tokens", type=int, default=20480)
parser.add_argument("--length", type=int, default=128)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--rank", type=int, default=32)
parser.add_argument("--learning-rate", type=float, default=2e-3)
args = parser.parse_args()

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(args.model)
texts = [json.loads(line)["text"] for line in Path(args.texts).read_text(encoding="utf-8").splitlines()]
ids = list(chain.from_iterable([*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts))
rows = [ids[start : start + args.length] for start in range(0, args.tokens, args.length)]
data = Dataset.from_dict({"input_ids": rows, "labels": rows})

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, use_cache=False)
lora = LoraConfig(
    r=args.rank, lora_alpha=args.rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
)
model = get_peft_model(model, lora)
training = TrainingArguments(
    output_dir=args.out,
    per_device_train_batch_size=args.batch_size,
    num_train_epochs=1,
    learning_rate=args.learning_rate,
    lr_scheduler_type="cosine",
    warmup_steps=2,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
Trainer(model=model, args=training, train_dataset=data, data_collator=default_data_collator).train()
model.merge_and_unload().save_pretrained(args.out)
tokenizer.save_pretrained(args.out)
