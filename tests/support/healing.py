"""Tiny heals on the CPU without a word, and a copy of a model in which tensors are changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from heal import DistillSettings, Settings, adapter_only, distill, merge, qlora
from heal.result import Candidate, FoldRecord, HealRecord, HeldOutLoss, HeldOutText
from heal.settings import Measuring, TrainingRun
from prune.checkpoint.headers import read_checkpoint
from prune.checkpoint.tensors import read, write_over

PROCESSES = Path(__file__).with_name("heal_processes.py")
TINY = {"length": 64, "batch_size": 2, "accumulate": 2, "rank": 4, "learning_rate": 1e-2}
SMALL = {"length": 64, "batch_size": 2, "accumulate": 1, "rank": 4}  # for what needs any adapter
RENAMED = "embed_out.weight"  # GPT-NeoX's head, which transformers names otherwise; no healing changes a head
PATCHED = "model.layers.3.mlp.down_proj.weight"


def quiet(tokens="2k", **run):
    return TrainingRun(**{"tokens": tokens, "device": "cpu", "show_progress": False, **run})


def heal_tiny(model, text, out, tokens="2k", run=None, **settings):
    return qlora(model, text, out, settings=Settings(**{**TINY, **settings}), run=quiet(tokens, **(run or {})))


def heal_small(model, text, out, tokens=256, **settings):
    return qlora(model, text, out, settings=Settings(**{**SMALL, **settings}), run=quiet(tokens))


def distil_tiny(full, pruned, text, out, tokens="2k", run=None, **settings):
    settings = DistillSettings(**{**TINY, **settings})
    return distill(pruned, full, text, out, settings=settings, run=quiet(tokens, **(run or {})))


def merge_quietly(adapter, out, base="auto", model=None, overwrite=False, **measuring):
    """The merged model's heal.json."""
    options = {"base": base, "model": model, "overwrite": overwrite, "measuring": Measuring(**measuring)}
    return merge(adapter, out, **options, show_progress=False).to_json()


def ship(adapter, out, full=None, model=None, **measuring):
    """heal.json of the adapter on the full model."""
    options = {"full": full, "model": model, "measuring": Measuring(**measuring)}
    return adapter_only(adapter, out, **options, show_progress=False).to_json()


def patch_record(tensors):
    """The heal.json of a patch that changed these tensors."""
    candidate = Candidate(layer=3, kind="matrix", objective="capped", ridge=0.3, share=None, loss=1.0)
    fold = FoldRecord(
        layer=3, target=6, module="mlp.down_proj", scale=1.0, bias=False, tensors=tuple(tensors), loss_without=2.0,
        chosen=candidate, candidates=(candidate,),
    )  # fmt: skip
    return HealRecord(
        method="patch", tokens=64, settings={}, held_out_loss=HeldOutLoss(full=1.0, before=2.0, after=1.5),
        held_out=HeldOutText(tokens=64), peak_memory={}, base={}, provenance={}, folds=(fold,),
    )  # fmt: skip


def changed_copy(model, out, only=""):
    """A copy of the same shapes whose tensors, those with `only` in their names, have other values."""
    shutil.copytree(model, out)
    for shard in read_checkpoint(out).shards:
        for tensor in shard.tensors:
            if only in tensor.name and tensor.name != RENAMED:
                write_over(shard.path, shard, tensor, 1.5 * read(shard, tensor))
    return out


def patched_copy(pruned, out, only=PATCHED):
    """A copy with other values whose heal.json says that a patch changed them."""
    names = [tensor.name for tensor in read_checkpoint(changed_copy(pruned, out, only)).tensors()]
    patch_record([name for name in names if only in name and name != RENAMED]).write(out / "heal.json")
    return out


def forked(*jobs):
    """Healing in processes of their own, some of them stopped or killed; see heal_processes.py."""
    command = [sys.executable, str(PROCESSES), "children", json.dumps(jobs)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
