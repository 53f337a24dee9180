"""Which domain a task of lm-eval belongs to: by a user's file, or by what is known of its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from eval.foreign.folder import leaves
from eval.questions.domains import declared, mmlu_subjects_known
from prune.common.errors import RegrowthError, UsageError, first_line

# Task of lm-eval -> set of ours; a longer name that goes on with `_` is of the set as well (gsm8k_cot, piqa_ar).
SETS = {
    "medqa": "medqa",
    "medmcqa": "medmcqa",
    "pubmedqa": "pubmedqa",
    "gsm8k": "gsm8k",
    "asdiv": "asdiv",
    "svamp": "svamp",
    "mathqa": "mathqa",
    "arc_easy": "arc_easy",
    "arc_challenge": "arc",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "commonsense_qa": "commonsenseqa",
    "hellaswag": "hellaswag",
    "boolq": "boolq",
}
_OTHERS = ("mmlu_pro_", "mmlu_prox_")  # other questions than MMLU's, under its names of subjects
_NAME = re.compile(r"[\w .()+-]+")


def subject_of(task: str) -> str | None:
    """The MMLU subject of a task (`mmlu_anatomy`, `mmlu_anatomy_generative`); None where it is none."""
    if not task.startswith("mmlu_") or task.startswith(_OTHERS):
        return None
    name = task.removeprefix("mmlu_").removesuffix("_generative")
    return max((s for s in mmlu_subjects_known() if name == s or name.endswith(f"_{s}")), key=len, default=None)


def known_domains(task: str) -> list[str]:
    """The declared domains that a task belongs to, by its name."""
    if (subject := subject_of(task)) is not None:
        return [name for name, parts in declared().items() for p in parts if p.set == "mmlu" and p.takes(subject)]
    sets = {ours for name, ours in SETS.items() if task == name or task.startswith(f"{name}_")}
    return [name for name, parts in declared().items() if any(part.set in sets for part in parts)]


def read_mapping(path: Path) -> dict[str, list[str]]:
    """A user's domains: name -> tasks, groups or MMLU subjects.

    Raises:
        RegrowthError: no such file, or it says something else.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise RegrowthError(f"--mapping {path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RegrowthError(f"--mapping {path} is not YAML ({first_line(error)})") from None
    if not isinstance(given, dict) or not given:
        raise RegrowthError(
            f"--mapping {path} names no domain; write one a line, as medical: [medqa_4options, anatomy]"
        )
    for name, tasks in given.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise RegrowthError(f"--mapping {path}: {name!r} is no name for a domain; use letters, digits and -")
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
            raise RegrowthError(f"--mapping {path}: {name} must be a list of tasks, groups or MMLU subjects")
    return given


def tasks_by_domain(
    tasks: Iterable[str], groups: Mapping[str, list[str]], mapping: Mapping[str, list[str]] | None, path: Path | None
) -> dict[str, list[str]]:
    """Domain -> its tasks, of those that there are.

    Args:
        groups: group -> its parts, as lm-eval lists them.
        mapping: what `read_mapping` gives, of the file `path`; None: by the names of the tasks.

    Raises:
        UsageError: the mapping names what is not there.
    """
    tasks = list(tasks)
    if mapping is None:
        found: dict[str, list[str]] = {name: [] for name in declared()}
        for task in tasks:
            for name in known_domains(task):
                found[name].append(task)
        return {name: some for name, some in found.items() if some}
    chosen: dict[str, list[str]] = {}
    for domain, names in mapping.items():
        some: list[str] = []
        for name in names:
            inside = [t for t in leaves(groups, name) if t in tasks] or [t for t in tasks if subject_of(t) == name]
            if not inside:
                raise UsageError(
                    f"--mapping {path}: {domain} names {name}, which is no task, group or subject of the runs; they "
                    f"have {', '.join(tasks)}"
                )
            some += inside
        chosen[domain] = list(dict.fromkeys(some))
    return chosen
