"""Heal a cut model with transformers' Trainer and peft, by what the full model predicts. The usual script.

    python second_teacher.py --student CUT --teacher FULL --rows rows.npz --out ADAPTER

The full model is loaded a second time. Takes nothing of Regrowth's: `bench/peers/heal.py` runs it as a user would.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed


class Rows(torch.utils.data.Dataset):
    """Packed rows of one length: input_ids, position_ids that restart with each document, and labels."""

    def __init__(self, path):
        self.arrays = {name: torch.from_numpy(array).long() for name, array in np.load(path).items()}

    def __len__(self):
        return len(self.arrays["input_ids"])

    def __getitem__(self, index):
        return {name: array[index] for name, array in self.arrays.items()}


class Distillation(Trainer):
    """The loss is the forward KL from teacher to student at every place that predicts a token."""

    def __init__(self, *args, teacher, **options):
        super().__init__(*args, **options)
        self.teacher = teacher

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        predicts = inputs.pop("labels")[:, 1:] != -100
        with torch.no_grad():
            goal = log_softmax(self.teacher(**inputs).logits[:, :-1][predicts].float(), dim=-1)
        outputs = model(**inputs)
        ours = log_softmax(outputs.logits[:, :-1][predicts].float(), dim=-1)
        loss = kl_div(ours, goal, reduction="batchmean", log_target=True)
        return (loss, outputs) if return_outputs else loss


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    set_seed(asked.seed)
    student = AutoModelForCausalLM.from_pretrained(asked.student, dtype=torch.float32, use_cache=False)
    teacher = AutoModelForCausalLM.from_pretrained(asked.teacher, dtype=torch.float32, use_cache=False)
    teacher.eval().requires_grad_(False)
    lora = LoraConfig(
        r=asked.rank, lora_alpha=asked.rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    student = get_peft_model(student, lora)
    settings = TrainingArguments(
        output_dir=str(asked.out),
        per_device_train_batch_size=asked.batch_size,
        num_train_epochs=1,
        learning_rate=asked.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=asked.warmup,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        seed=asked.seed,
    )
    rows = Rows(asked.rows)
    trainer = Distillation(model=student, args=settings, train_dataset=rows, teacher=teacher)
    done = trainer.train()
    student.save_pretrained(asked.out)
    seconds = done.metrics["train_runtime"]
    told = {"training_seconds": seconds, "tokens": rows.arrays["input_ids"].numel(), "steps": done.global_step}
    (asked.out / "run.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
