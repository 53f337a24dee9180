"""What stands for a model, and where numbers came from."""

import json
import sys

import pytest

from prune.checkpoint.identity import model_identity
from prune.common.errors import CheckpointError
from prune.common.files.provenance import command_line, file_sha256, read_artefact, versions


def test_identity_names_shards_and_follows_shapes_and_config(tiny_llama, tmp_path):
    found = model_identity(tiny_llama, name="a/b", commit="c0ffee")
    assert found["model"] == "a/b"
    assert found["commit"] == "c0ffee"
    assert list(found["shards"]) == ["model.safetensors"]
    assert found["config_sha256"] == file_sha256(tiny_llama / "config.json")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes((tiny_llama / "model.safetensors").read_bytes())
    assert model_identity(other)["shards"] == found["shards"]
    assert "config_sha256" not in model_identity(other)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["/x/bin/prune", "scan", "m", "--out", "a b.json"], "prune scan m --out 'a b.json'"),
        (["/x/prune/__main__.py", "cut", "m"], "prune cut m"),
        (["/x/eval/__main__.py", "run", "m"], "evaluate run m"),
        (["/x/recipes/__main__.py", "list"], "recipe list"),
    ],
)
def test_the_command_is_what_a_user_would_type(monkeypatch, argv, line):
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == line


def test_versions_name_what_numbers_depend_on():
    assert {"python", "regrowth", "torch", "transformers", "lm-eval"} <= set(versions())


def test_artefacts_are_checked_for_their_format(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(CheckpointError, match="does not exist"):
        read_artefact(path, "regrowth.scan/1")
    for content, words in [("{", "cannot be read as JSON"), ("[]", "is not a regrowth"), ('{"format": "x"}', "'x'")]:
        path.write_text(content)
        with pytest.raises(CheckpointError, match=words):
            read_artefact(path, "regrowth.scan/1")
    path.write_text(json.dumps({"format": "regrowth.scan/1"}))
    assert read_artefact(path, "regrowth.scan/1") == {"format": "regrowth.scan/1"}
