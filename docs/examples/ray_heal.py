"""Heal a cut with Ray Train: one worker a GPU, on one machine or on many. Copy it, and change what you like.

    python ray_heal.py runs/pruned --teacher Qwen/Qwen3-8B --text prose.jsonl --out /shared/adapter --workers 8

Without --teacher it trains on the text alone, as `heal qlora` does. --cpu gives each worker a core in the place
of a GPU. --set changes a setting of healing: --set rank=32 --set learning_rate=1e-4.

The model, the text and the folder of --out must be at the same path for all workers. A worker that dies is no loss: Ray
starts all of them again, and healing goes on from its last checkpoint. Ray's own notes go to OUT.ray.
"""

from __future__ import annotations

import argparse
from ast import literal_eval
from contextlib import suppress
from pathlib import Path

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def heal_share(job: dict) -> None:
    """What each worker does. Ray has set RANK and WORLD_SIZE: heal takes its share of the text by them."""
    from heal import DistillSettings, Settings, TrainingRun, distill, qlora

    run = TrainingRun(**job["run"])
    if job["teacher"]:
        how = DistillSettings(**job["settings"])
        distill(job["model"], job["teacher"], job["text"], job["out"], settings=how, run=run)
    else:
        qlora(job["model"], job["text"], job["out"], settings=Settings(**job["settings"]), run=run)


def main() -> None:
    parser = argparse.ArgumentParser(description="Heal a cut model with Ray Train.")
    parser.add_argument("model", help="the cut model's folder")
    parser.add_argument("--teacher", help="the full model: a folder or a hub id")
    parser.add_argument("--text", required=True, help="a file or folder, or hub:repo:config:split")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tokens", default="20M")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--save-every", type=int, help="steps between checkpoints; one every 5 minutes if not given")
    parser.add_argument("--restarts", type=int, default=3, help="how often workers that died are started again")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    asked = parser.parse_args()
    out = asked.out.resolve()
    job = {
        "model": place(asked.model),
        "teacher": place(asked.teacher),
        "text": place(asked.text),
        "out": str(out),
        "settings": dict(map(setting, asked.changes)),
        "run": {
            "tokens": asked.tokens,
            "device": "cpu" if asked.cpu else "cuda",
            "save_every": asked.save_every,
            "resume": True,  # where there is no checkpoint it begins
            "show_progress": False,
        },
    }
    trainer = TorchTrainer(
        heal_share,
        train_loop_config=job,
        # A teacher may write text for hours, in one worker, while the others wait.
        torch_config=TorchConfig(backend="gloo" if asked.cpu else "nccl", timeout_s=7 * 24 * 3600),
        scaling_config=ScalingConfig(num_workers=asked.workers, use_gpu=not asked.cpu),
        run_config=RunConfig(
            name="heal",
            storage_path=f"{out}.ray",
            failure_config=FailureConfig(max_failures=asked.restarts),
        ),
    )
    trainer.fit()
    print(out / "heal.json")


def place(name: str | None) -> str | None:
    """A path for workers, which start in other folders. A hub id stays as it is."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def setting(change: str) -> tuple[str, object]:
    """NAME=VALUE: a number where the value is one, a word otherwise."""
    name, _, value = change.partition("=")
    with suppress(ValueError, SyntaxError):
        return name, literal_eval(value)
    return name, value


if __name__ == "__main__":
    main()
