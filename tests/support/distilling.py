"""A tiny distillation, and a copy of a model in which tensors are changed."""

import json
import shutil

from heal import DistillSettings, distill
from prune.checkpoint.headers import read_checkpoint
from prune.checkpoint.tensors import read, write_over

TINY = {"length": 64, "batch_size": 2, "accumulate": 2, "rank": 4, "learning_rate": 1e-2}
RENAMED = "embed_out.weight"  # GPT-NeoX's head, which transformers names otherwise; no healing changes a head
PATCHED = "model.layers.3.mlp.down_proj.weight"


def patched_copy(pruned, out, name=PATCHED):
    """A copy whose tensor `name`, or each one if None, has other values."""
    shutil.copytree(pruned, out)
    changed = []
    for shard in read_checkpoint(out).shards:
        for tensor in shard.tensors:
            if name in (None, tensor.name) and tensor.name != RENAMED:
                write_over(shard.path, shard, tensor, 1.5 * read(shard, tensor))
                changed.append(tensor.name)
    document = {"format": "regrowth.heal/1", "method": "patch", "folds": [{"tensors": changed}]}
    (out / "heal.json").write_text(json.dumps(document))
    return out


def distil_tiny(full, pruned, text, out, tokens="2k", **changes):
    settings = DistillSettings(**{**TINY, **changes})
    return distill(pruned, full, text, out, tokens=tokens, settings=settings, device="cpu", shown=False)
