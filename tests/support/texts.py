"""Text of a few words, and files of rows."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WORDS = ["the", "cut", "takes", "layers", "and", "healing", "gives", "back", "what", "was", "lost", "in", "them"]


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"Text {i}: " + " ".join(rng.choices(_WORDS, k=rng.randint(4, 60))) for i in range(count)]


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text(jsonl(*rows))
    return path
