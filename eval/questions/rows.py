"""Rows of the known question sets, by the fields that their publishers gave them: which set, and what it asks.

A row is the JSON object of a hub set, of a line, or of what `eval.questions.readers.originals` makes of a CSV or XML
file.
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
        if any(form <= fields for form in wanted) and _CHECKS.get(name, lambda _: True)(row):
            return name
    return None


def read_row(name: str, row: Row) -> Parts:
    """The questions of one row of the set `name`.

    Raises:
        KeyError, TypeError, IndexError, ValueError, AttributeError: a row that is not like its set's others.
    """
    return _READERS[name](row)


def rationale_of(name: str, row: Row) -> str | None:
    """The worked solution or explanation that a row of the set `name` has; None where it has none."""
    given = next((row[field] for field in _RATIONALES.get(name, ()) if isinstance(row.get(field), str)), "")
    if name == "gsm8k":
        given = _CALCULATOR.sub("", given.rsplit("####", 1)[0])
    if name == "mathqa":  # its solutions stand in quotation marks, of which one may be missing
        given = given.strip().strip('"')
    return given.strip() or None


_CALCULATOR = re.compile(r"<<.*?>>")  # marks of GSM8K, made for a model that has a calculator
_RATIONALES = {
    "gsm8k": ("answer",),
    "medmcqa": ("exp",),
    "pubmedqa": ("LONG_ANSWER", "long_answer"),
    "mathqa": ("Rationale",),
}
_FIELDS: dict[str, tuple[set[str], ...]] = {
    "medmcqa": ({"question", "opa", "opb", "opc", "opd"},),
    "medqa": ({"question", "options", "answer_idx"},),
    "pubmedqa": ({"QUESTION", "CONTEXTS"}, {"question", "context", "final_decision"}),
    "mathqa": ({"Problem", "options", "correct"}, {"query", "choices", "gold"}),
    "piqa": ({"goal", "sol1", "sol2"}, {"query", "choices", "gold"}),
    "hellaswag": ({"ctx_a", "ctx_b", "activity_label", "endings"}, {"ctx", "activity_label", "endings"}),
    "openbookqa": ({"question_stem", "choices", "answerKey"}, {"question", "answerKey"}),
    "commonsenseqa": ({"question_concept", "choices", "answerKey"}, {"question", "answerKey"}),
    "svamp": ({"Body", "Question", "Answer"},),
    "asdiv": ({"body", "question", "answer"},),
    "arc": ({"question", "answerKey"},),
    "mmlu": ({"subject", "question", "choices", "answer"},),
    "boolq": ({"question", "answer", "passage"},),
    "gsm8k": ({"question", "answer"},),
}
_OPENBOOK_ID = re.compile(r"\d+-\d+|\d{1,4}")  # ids of ARC begin with a school test's name
_CHECKS: dict[str, Callable[[Row], bool]] = {
    "medqa": lambda row: isinstance(row["options"], dict),
    "mathqa": lambda row: "query" not in row or "\nA." in str(row["query"]),
    "piqa": lambda row: "query" not in row or _is_piqa_text(row),
    "openbookqa": lambda row: "question_stem" in row or _OPENBOOK_ID.fullmatch(str(row.get("id"))) is not None,
    "commonsenseqa": lambda row: "question_concept" in row or "question_concept" in _inner(row),
    "mmlu": lambda row: isinstance(row["choices"], list) and "id" not in row,
    "boolq": lambda row: isinstance(row["answer"], bool),
    "gsm8k": lambda row: "####" in str(row["answer"]),
}


SUBJECTS = {
    "arc": "grade-school-science",
    "arc_easy": "grade-school-science",
    "openbookqa": "elementary-science",
    "piqa": "physical-interaction",
    "commonsenseqa": "commonsense-concepts",
    "hellaswag": "everyday-situations",
    "boolq": "passages",
}


def _inner(row: Row) -> Row:
    question = row.get("question")
    return question if isinstance(question, dict) else {}


def _is_piqa_text(row: Row) -> bool:
    """Two long answers to a line that begins with `Question: `, and nothing more."""
    query, choices = str(row["query"]), row["choices"]
    plain = query.startswith("Question: ") and "\n" not in query.strip()
    return plain and isinstance(choices, list) and len(choices) == 2


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
        options = [re.fullmatch(r"([A-E])\. ?(.*)", line) for line in lines]
        if [match and match[1] for match in options] != row["choices"]:
            raise ValueError("options are not labelled as its choices are")
        yield "mathqa", first.strip(), [match[2].strip() for match in options if match], int(row["gold"])
        return
    texts = split_mathqa(row["options"])
    yield str(row.get("category") or "mathqa"), row["Problem"], texts, "abcde".index(row["correct"])


def split_mathqa(options: str) -> list[str]:
    """`a ) 38 , b ) 1 , 000 , c ) ...` as its five texts; an older form stands in brackets and quotes."""
    plain = options.strip().strip("[]").replace("', '", " , ").replace('", "', " , ").strip("'\"")
    parts = re.split(r"(?:^|\s?,\s)\s*([a-e])\s\)\s?", plain)  # "a ) 38 , b ) 27.675 , ..."
    labels, texts = parts[1::2], [text.strip() for text in parts[2::2]]
    if parts[0].strip() or labels != list("abcde"):
        raise ValueError("options are not labelled a to e")
    return texts


def _school(name: str) -> Callable[[Row], Parts]:
    """Reader of the sets of the Allen Institute's form: choices with labels, and the label of the right one."""

    def read(row: Row) -> Parts:
        inner = _inner(row)
        question = inner.get("stem") or row.get("question_stem") or row["question"]
        options = inner.get("choices") or row["choices"]
        if isinstance(options, dict):  # the hub: {text: [...], label: [...]}
            labels, texts = list(options["label"]), list(options["text"])
        else:  # the original: [{text, label}, ...]
            labels, texts = [option["label"] for option in options], [option["text"] for option in options]
        key = (row.get("answerKey") or "").strip()  # test questions of CommonsenseQA have none
        yield SUBJECTS[name], question, texts, labels.index(key) if key else None

    return read


def _piqa(row: Row) -> Parts:
    if "query" in row:
        yield SUBJECTS["piqa"], row["query"].removeprefix("Question: "), list(row["choices"]), int(row["gold"])
        return
    label = row.get("label", "")
    yield SUBJECTS["piqa"], row["goal"], [row["sol1"], row["sol2"]], int(label) if label in (0, 1, "0", "1") else None


def _hellaswag(row: Row) -> Parts:
    """As lm-eval's task `hellaswag` puts it: the activity, what happened so far, and four endings."""
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}" if "ctx_a" in row else row["ctx"]
    label = str(row.get("label", "")).strip()
    endings = [_without_marks(ending) for ending in row["endings"]]
    question = _without_marks(f"{row['activity_label']}: {context}")
    yield SUBJECTS["hellaswag"], question, endings, int(label) if label else None


def _boolq(row: Row) -> Parts:
    yield SUBJECTS["boolq"], about_passage(row["passage"], row["question"]), ["yes", "no"], 0 if row["answer"] else 1


def about_passage(passage: str, question: str) -> str:
    """A question of BoolQ below its passage, as a sentence."""
    question = question.strip().removesuffix("?")
    return f"{passage.strip()}\n{question[:1].upper()}{question[1:]}?"


def _without_marks(text: str) -> str:
    """`text` without the marks in brackets that its part from WikiHow has; a title ends a sentence."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


_READERS: dict[str, Callable[[Row], Parts]] = {
    "mmlu": _mmlu,
    "medqa": _medqa,
    "medmcqa": _medmcqa,
    "pubmedqa": _pubmedqa,
    "asdiv": _asdiv,
    "svamp": _svamp,
    "gsm8k": _gsm8k,
    "mathqa": _mathqa,
    "arc": _school("arc"),
    "arc_easy": _school("arc_easy"),
    "openbookqa": _school("openbookqa"),
    "piqa": _piqa,
    "commonsenseqa": _school("commonsenseqa"),
    "hellaswag": _hellaswag,
    "boolq": _boolq,
}
