"""Sums and organs with worked solutions, made by hand: two domains whose answers have no word in common."""

import random
from pathlib import Path

from tests.support.texts import write_jsonl

_ORGANS = ["heart", "liver", "nerve", "lung", "bone", "spleen", "vein", "skin", "ear", "eye", "jaw", "hand"]


def sums(count, **changes):
    """Open questions, each with its solution."""
    draw = random.Random(1)
    rows = []
    for number in range(count):
        a, b = draw.randint(2, 60), draw.randint(2, 60)
        rows.append(
            {
                "id": f"sum{number}",
                "domain": "math",
                "subject": "sums",
                "question": f"Add {a} and {b}.",
                "choices": None,
                "answer": str(a + b),
                "source": "sums",
                "licence": "CC0-1.0",
                "rationale": f"{a} + {b} = {a + b}" + f" and {b} + {a} = {a + b}" * (number % 3),
                **changes,
            }
        )
    return rows


def organs(count, **changes):
    """Questions with choices, each with its explanation."""
    draw = random.Random(2)
    rows = []
    for number in range(count):
        choices = draw.sample(_ORGANS, 3)
        rows.append(
            {
                "id": f"organ{number}",
                "domain": "medical",
                "subject": "organs",
                "question": f"Which organ hurts in case {number}?",
                "choices": choices,
                "answer": number % 3,
                "source": "organs",
                "licence": "CC0-1.0",
                "rationale": f"Pain of the {choices[number % 3]} is felt there"
                + ", and never elsewhere" * (number % 3),
                **changes,
            }
        )
    return rows


def write_questions(folder: Path, **domains) -> Path:
    """A folder of question files; an absent rationale is left out of its line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in domains.items():
        filled = [{key: value for key, value in row.items() if key != "rationale" or value is not None} for row in rows]
        write_jsonl(folder / f"{name}.jsonl", filled)
    return folder
