"""A user's own domain: what `<domain>.yaml` says once for all questions of `<domain>.jsonl` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError, first_line

_FIELDS = ("description", "source", "subject", "licence")


@dataclass(frozen=True)
class Declaration:
    """What holds for all questions of a domain that do not say otherwise. `licence` must be given."""

    domain: str
    licence: str
    description: str = ""
    source: str = ""
    subject: str = ""

    def complete(self, row: Any) -> Any:
        """A question's row with the fields that it leaves out: no choices, what is declared, and an id to replace."""
        if not isinstance(row, dict):
            return row
        defaults = {
            "id": "of its content",
            "domain": self.domain,
            "subject": self.subject or self.domain,
            "source": self.source or self.domain,
            "licence": self.licence,
            "choices": None,
        }
        return {**defaults, **row}


def read_declaration(path: Path) -> Declaration:
    """Read `<domain>.yaml`.

    Raises:
        RegrowthError: it is not YAML of the known fields; `file:line` (1-based) and why.
    """
    import yaml

    try:
        tree = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RegrowthError(f"{path}:{line}: not YAML ({error.problem})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RegrowthError(f"{path}: not YAML ({first_line(error)})") from None
    if not isinstance(tree, yaml.MappingNode):
        raise RegrowthError(f"{path}:1: expected fields such as licence: CC0-1.0")
    given: dict[str, str] = {}
    for key, value in tree.value:
        line = key.start_mark.line + 1
        if key.value not in _FIELDS:
            raise RegrowthError(f"{path}:{line}: unknown field {key.value}; it takes {', '.join(_FIELDS)}")
        if key.value in given:
            raise RegrowthError(f"{path}:{line}: {key.value} stands there twice")
        if not isinstance(value, yaml.ScalarNode) or value.tag.endswith(":null") or not value.value.strip():
            raise RegrowthError(f"{path}:{line}: {key.value} must be text that is not empty")
        given[key.value] = value.value.strip()
    if "licence" not in given:
        raise RegrowthError(f"{path}: no field licence; say under which one the questions may be used")
    return Declaration(domain=path.stem, **given)
