"""Artefacts: written and read, refused by version, by type and where fields contradict each other."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, computed_field, model_validator

from prune.common.errors import CheckpointError
from prune.common.files.artefact import Artefact, OptionalFloat, Part


class Leaf(Part):
    area: OptionalFloat


class Tree(Artefact):
    AGAIN: ClassVar[str] = "measure it again with `forest measure`"

    format: Literal["regrowth.tree/2"] = "regrowth.tree/2"
    height: float
    leaves: tuple[Leaf, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @computed_field
    @property
    def count(self) -> int:
        return len(self.leaves)

    @model_validator(mode="after")
    def _stands(self) -> Tree:
        if self.height < 0:
            raise ValueError("a tree has no negative height")
        return self


TREE = Tree(height=2.5, leaves=(Leaf(area=1.0), Leaf(area=math.nan)))


def test_what_is_written_is_read_again(tmp_path):
    TREE.write(tmp_path / "tree.json")
    document = json.loads((tmp_path / "tree.json").read_text())
    assert document["leaves"] == [{"area": 1.0}, {"area": None}]
    assert document["count"] == 2
    read = Tree.read(tmp_path / "tree.json")
    assert math.isnan(read.leaves[1].area)
    assert read.to_json() == TREE.to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": "tall"}, "height: Input should be a valid number"),
        ({"height": -1.0}, "no negative height"),
        ({"leaves": [{"area": 1.0, "colour": "red"}]}, r"leaves.0.colour: Extra inputs are not permitted"),
        ({"count": 3}, "count does not follow from the rest"),
        ({"format": "regrowth.tree/1"}, r"was written as regrowth.tree/1; this version reads regrowth.tree/2"),
        ({"format": "regrowth.tree/1", "provenance": {"versions": {"regrowth": "0.0.9"}}}, r"by regrowth 0\.0\.9"),
        ({"format": "regrowth.bush/2"}, "is not a regrowth.tree/2 file"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path, change, words):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(TREE.to_json() | change))
    with pytest.raises(CheckpointError, match=words) as refused:
        Tree.read(path)
    assert "\n" not in str(refused.value)
    if "bush" not in str(change):
        assert "measure it again with `forest measure`" in str(refused.value)
