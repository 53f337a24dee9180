"""Domains as declared in domains.yaml: lists of question sets and of their subjects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval.settings import split_names
from prune.common.errors import RegrowthError, UsageError


@dataclass(frozen=True)
class DomainPart:
    """One set in a domain; `subjects` empty means all of it."""

    set: str
    subjects: tuple[str, ...] = ()

    def takes(self, subject: str) -> bool:
        """Whether a question of this subject belongs."""
        return not self.subjects or subject in self.subjects


@cache
def declared() -> dict[str, tuple[DomainPart, ...]]:
    """The domains we ship: name to parts, in the file's order."""
    import yaml

    raw: dict[str, list[dict[str, Any]]] = yaml.safe_load((files("eval.questions") / "domains.yaml").read_text("utf-8"))
    return {
        name: tuple(DomainPart(part["set"], tuple(part.get("subjects", ()))) for part in parts)
        for name, parts in raw.items()
    }


@cache
def mmlu_subjects_known() -> frozenset[str]:
    """The 57 subjects of MMLU: those of the domains, and `miscellaneous`, which is in none."""
    subjects = {name for parts in declared().values() for part in parts if part.set == "mmlu" for name in part.subjects}
    return frozenset(subjects | {"miscellaneous"})


def choose_declared(names: str | Iterable[str] | None) -> dict[str, tuple[DomainPart, ...]]:
    """The declared domains of these names, or all of them for None."""
    known = declared()
    if names is None:
        return known
    chosen = split_names(names)
    _check_known(chosen, known)
    return {name: known[name] for name in chosen}


def question_files(data: str | Path, names: str | Iterable[str]) -> dict[str, Path]:
    """Domain to file of the prepared folder `data`; a user's own `NAME.jsonl` there is a domain like any other.

    A `NAME.yaml` beside it may declare what holds for all its questions; see `eval.questions.declaration`.

    Raises:
        RegrowthError: no prepared folder, or a domain that is known but not prepared in it.
        UsageError: a name that is neither declared nor in the folder.
    """
    data, chosen = Path(data), split_names(names)
    here = files_of(data)
    for name in chosen:
        if name not in here and (data / f"{name}.yaml").exists():
            raise RegrowthError(f"{data / name}.yaml declares a domain, but {name}.jsonl with its questions is missing")
    _check_known(chosen, [*declared(), *here])
    if not here:
        what = "holds no question files" if data.is_dir() else "does not exist"
        raise RegrowthError(f"--data {data} {what}; make it with `evaluate prepare --data {data}`")
    if absent := [name for name in chosen if name not in here]:
        raise RegrowthError(
            f"--data {data} holds no {absent[0]}.jsonl; make it with "
            f"`evaluate prepare --data {data} --domains {','.join(dict.fromkeys([*here, *absent]))} --overwrite`"
        )
    return {name: here[name] for name in chosen}


def files_of(data: Path) -> dict[str, Path]:
    """Domain to question file of a folder, by name; {} where there is no such folder."""
    return {path.stem: path for path in sorted(data.glob("*.jsonl"))} if data.is_dir() else {}


def _check_known(chosen: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    for name in chosen:
        if name not in known:
            raise UsageError(f"no domain is called {name!r}; known: {', '.join(known)}")
