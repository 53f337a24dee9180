"""What all artefacts have in common: a format with its version, a strict reader, one way to be written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from prune.common.errors import CheckpointError
from prune.common.files.outputs import write_json
from prune.common.files.provenance import read_artefact

# A number that may be missing: NaN in Python, null in JSON.
OptionalFloat = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value),
]


class Part(BaseModel):
    """A part of an artefact: frozen, strict about types, no field that is not declared."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=True,
        protected_namespaces=(),  # `model` and `model_type` are fields of ours; old versions of pydantic warn of them
    )


class Artefact(Part):
    """A JSON file of ours. Its first field is `format: Literal["regrowth.<kind>/<version>"] = ...`.

    Each field has a `Field(description=...)`, from which docs/formats.md is made. A model validator raises ValueError
    where fields contradict each other. A `computed_field` is written, and held to the other fields when it is read.

    Attributes:
        AGAIN: what to do about a file that is damaged or of another version, such as "scan again with `prune scan`".
    """

    AGAIN: ClassVar[str]

    @classmethod
    def kind(cls) -> str:
        """The format that this class writes and reads, such as "regrowth.scan/2"."""
        return str(cls.model_fields["format"].default)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read and check a file.

        Raises:
            CheckpointError: missing, no JSON, of another format or version, or with a value that cannot be.
        """
        return cls.parse(read_artefact(path, cls.kind(), again=cls.AGAIN), path)

    @classmethod
    def parse(cls, document: dict[str, Any], name: str | Path) -> Self:
        """Check a document that was read from the file `name`.

        Raises:
            CheckpointError: a value that cannot be.
        """
        computed = {name: document[name] for name in cls.model_computed_fields if name in document}
        stated = {name: value for name, value in document.items() if name not in computed}
        try:
            artefact = cls.model_validate_json(json.dumps(stated))  # as JSON, whose lists may be tuples
        except ValueError as error:  # pydantic's is one
            raise CheckpointError(f"{name} is damaged ({first_fault(error)}); {cls.AGAIN}") from None
        derived = artefact.to_json() if cls.model_computed_fields else {}
        for field in cls.model_computed_fields:
            if computed.get(field) != derived[field]:
                raise CheckpointError(f"{name} is damaged ({field} does not follow from the rest); {cls.AGAIN}")
        return artefact

    def to_json(self) -> dict[str, Any]:
        """The document that the file holds."""
        return self.model_dump(mode="json")

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the file whole or not at all; an existing one is refused without `overwrite`."""
        write_json(path, self.to_json(), overwrite=overwrite)


def first_fault(error: ValueError) -> str:
    """The first thing that is wrong, in one line: the field's path, and why."""
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"]))
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason
