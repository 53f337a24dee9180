"""Rows of the known question sets, by the fields that their publishers gave them: which set, and what it asks.

A row is the JSON object of a hub set, of a line, or of what `eval.questions.originals` makes of a CSV or XML file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from eval.answers.values import parse_gold

Row = dict[str, Any]
Parts = Iterator[tuple[str, str, list[str] | None, int | str | None]]
"""(subject, question, choices or None, answer: 0-based index, text, or None where there is none)."""


def recognise(row: Row) -> str | None:
    """The set that a row's fields belong to; None for none that is known."""
    fields = set(row)
    for name, wanted in _FIELDS.items():
        if any(one <= fields for one in wanted) and _CHECKS.get(name, lambda _: True)(row):
            return name
    return None


def read_row(name: str, row: Row) -> Parts:
    """The questions of one row of the set `name`.

    Raises:
        KeyError, TypeError, IndexError, ValueError, AttributeError: a row that is not like its set's others.
    """
    return _READERS[name](row)


_FIELDS: dict[str, tuple[set[str], ...]] = {
    "medmcqa": ({"question", "opa", "opb", "opc", "opd"},),
    "medqa": ({"question", "options", "answer_idx"},),
    "pubmedqa": ({"QUESTION", "CONTEXTS"}, {"question", "context", "final_decision"}),
    "mathqa": ({"Problem", "options", "correct"}, {"query", "choices", "gold"}),
    "svamp": ({"Body", "Question", "Answer"},),
    "asdiv": ({"body", "question", "answer"},),
    "arc": ({"question", "answerKey"},),
    "mmlu": ({"subject", "question", "choices", "answer"},),
    "gsm8k": ({"question", "answer"},),
}
_CHECKS: dict[str, Callable[[Row], bool]] = {
    "medqa": lambda row: isinstance(row["options"], dict),
    "mathqa": lambda row: "query" not in row or str(row["query"]).startswith("Question: "),
    "mmlu": lambda row: isinstance(row["choices"], list) and "id" not in row,
    "gsm8k": lambda row: "####" in str(row["answer"]),
}


def _mmlu(row: Row) -> Parts:
    answer = row["answer"]
    index = "ABCD".index(answer) if isinstance(answer, str) else int(answer)
    yield row["subject"], row["question"], [str(choice) for choice in row["choices"]], index


def _medqa(row: Row) -> Parts:
    labels = sorted(row["options"])
    yield "usmle", row["question"], [row["options"][label] for label in labels], labels.index(row["answer_idx"])


def _medmcqa(row: Row) -> Parts:
    """`cop` counts from 0, as on the hub; `originals` brings the original files, which count from 1, to that."""
    subject = re.sub(r"\W+", "_", row["subject_name"]).strip("_").lower()
    right = row.get("cop")
    answer = None if right is None or int(right) < 0 else int(right)
    yield subject, row["question"], [str(row[key]) for key in ("opa", "opb", "opc", "opd")], answer


def _pubmedqa(row: Row) -> Parts:
    choices = ["yes", "no", "maybe"]
    context = row["CONTEXTS"] if "CONTEXTS" in row else row["context"]["contexts"]
    question = row["QUESTION"] if "QUESTION" in row else row["question"]
    passage, decision = "\n".join(context), row.get("final_decision")
    yield "abstracts", f"{passage}\n{question}", choices, None if decision is None else choices.index(decision)


def _number_or_none(answer: str) -> str | None:
    return answer if parse_gold(answer) is not None else None


def _asdiv(row: Row) -> Parts:
    answer = re.sub(r"\s*\(([^)]*)\)\s*$", r" \1", row["answer"]).strip()  # "9 (apples)" -> "9 apples"
    yield "word-problems", f"{row['body'].strip()} {row['question'].strip()}", None, _number_or_none(answer)


def _svamp(row: Row) -> Parts:
    answer = str(row["Answer"]).removesuffix(".0")
    yield "word-problems", f"{row['Body'].strip()} {row['Question'].strip()}", None, _number_or_none(answer)


def _gsm8k(row: Row) -> Parts:
    yield "word-problems", row["question"], None, _number_or_none(row["answer"].rsplit("####", 1)[1].strip())


def _mathqa(row: Row) -> Parts:
    if "query" in row:  # a form of the test set with four options, as lines of one text
        first, *lines = row["query"].removeprefix("Question: ").removesuffix("Answer: ").strip().split("\n")
        found = [re.fullmatch(r"([A-E])\. ?(.*)", line) for line in lines]
        if [match and match[1] for match in found] != row["choices"]:
            raise ValueError("options are not labelled as its choices are")
        yield "mathqa", first.strip(), [match[2].strip() for match in found if match], int(row["gold"])
        return
    texts = split_mathqa(row["options"])
    yield str(row.get("category") or "mathqa"), row["Problem"], texts, "abcde".index(row["correct"])


def split_mathqa(options: str) -> list[str]:
    """`a ) 38 , b ) 1 , 000 , c ) ...` as its five texts; an older form stands in brackets and quotes.

    Raises:
        ValueError: the labels are not a to e, once each and in order.
    """
    plain = options.strip().strip("[]").replace("', '", " , ").replace('", "', " , ").strip("'\"")
    found = re.split(r"(?:^|\s?,\s)\s*([a-e])\s\)\s?", plain)  # "a ) 38 , b ) 27.675 , ..."
    labels, texts = found[1::2], [text.strip() for text in found[2::2]]
    if found[0].strip() or labels != list("abcde"):
        raise ValueError("options are not labelled a to e")
    return texts


def _arc(row: Row) -> Parts:
    if isinstance(row["question"], dict):  # the original: {stem, choices: [{text, label}]}
        question, options = row["question"]["stem"], row["question"]["choices"]
        labels, texts = [one["label"] for one in options], [one["text"] for one in options]
    else:  # the hub: {text: [...], label: [...]}
        question, labels, texts = row["question"], list(row["choices"]["label"]), list(row["choices"]["text"])
    yield "grade-school-science", question, texts, labels.index(row["answerKey"])


_READERS: dict[str, Callable[[Row], Parts]] = {
    "mmlu": _mmlu,
    "medqa": _medqa,
    "medmcqa": _medmcqa,
    "pubmedqa": _pubmedqa,
    "asdiv": _asdiv,
    "svamp": _svamp,
    "gsm8k": _gsm8k,
    "mathqa": _mathqa,
    "arc": _arc,
}
