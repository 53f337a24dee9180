"""What a healed checkpoint takes over from the one it was made of, beside the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from prune.checkpoint.companions import copy_companions
from prune.checkpoint.headers import INDEX, inside
from prune.cutting.plan import PLAN_FILE

_CARRIED = ("config.json", INDEX, PLAN_FILE, "scan.json")  # beside what copy_companions takes


def carry(source: Path, stage: Path) -> None:
    """Copy config, index, plan of the cut, tokenizer and the like of the model in `source` to the folder `stage`."""
    copy_companions(source, stage, code=False)
    for name in _CARRIED:
        if (source / name).is_file():
            shutil.copyfile(inside(source, name), stage / name)
