"""A cut reads its source's headers once, and again where a shard was touched after the plan."""

import pytest

from prune.checkpoint import headers
from prune.common.errors import CheckpointError
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from tests.support.checkpoints import edit_config, synthetic_checkpoint
from tests.support.commands import succeed


@pytest.fixture
def source(tmp_path):
    return synthetic_checkpoint(tmp_path / "source")


@pytest.fixture
def read(monkeypatch):
    """Names of the shards whose headers are read, as they are."""
    names, parse = [], headers.parse_shard
    monkeypatch.setattr(headers, "parse_shard", lambda path, *rest: names.append(path.name) or parse(path, *rest))
    return names


def test_headers_are_read_once_in_a_cut(source, read, tmp_path):
    succeed("prune", "cut", source, "--layers", "3", "--out", tmp_path / "out")
    assert sorted(read) == sorted(path.name for path in source.glob("*.safetensors"))


def test_a_shard_that_was_touched_is_read_again(source, read, tmp_path):
    plan = plan_cut(source, layers="3")
    read.clear()
    (source / "model-00001-of-00004.safetensors").touch()
    cut(plan, tmp_path / "out", show_progress=False)
    assert len(read) == 4


def change_header(source):
    path = source / "model-00001-of-00004.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"pt"', b'"np"'))


@pytest.mark.parametrize(
    "change", [lambda source: edit_config(source, rope_theta=1.0), change_header], ids=["config", "header"]
)
def test_a_source_that_changed_since_the_plan_is_refused(source, tmp_path, change):
    plan = plan_cut(source, layers="3")
    change(source)
    with pytest.raises(CheckpointError, match="has changed since the plan was made"):
        cut(plan, tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()
