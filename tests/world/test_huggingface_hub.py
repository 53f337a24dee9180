"""The hub, as a stub of its HTTP API on this machine: what we push is what anyone downloads."""

import hashlib
import json

import pytest

from tests.support.hub import COMMIT, StubHub, call, serve
from tests.support.other_tools import NEWEST, OLDEST, SCRIPTS, installed

REPO = "someone/cut"


@pytest.fixture(scope="module")
def pushed(sample_model, tmp_path_factory):
    """The folder that `prune cut --push-to-hub` wrote, and what the hub got of it."""
    place = tmp_path_factory.mktemp("pushed")
    with serve(StubHub(REPO)) as hub:
        words = ("cut", sample_model, "--layers", "9-14", "--out", place / "cut", "--push-to-hub", REPO)
        done = call(hub, place / "cache", "prune", *words, HF_TOKEN="hf_x")
        assert done.returncode == 0, done.stderr
    return place / "cut", hub.uploaded


@pytest.fixture
def hub(pushed):
    """A hub that has what was pushed."""
    with serve(StubHub(REPO)) as hub:
        hub.files = dict(pushed[1])
        yield hub


def sums(contents):
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@pytest.mark.parametrize("constraints", [OLDEST, NEWEST], ids=["oldest", "newest"])
def test_snapshot_download_gives_the_bytes_that_were_pushed(constraints, pushed, hub, tmp_path, checked):
    folder, _ = pushed
    with installed(f"hub-{constraints.stem}", "huggingface_hub", constraints=constraints) as tool:
        checked(tool.version("huggingface_hub"), "`snapshot_download` of what `--push-to-hub` sent: equal bytes")
        quiet = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        script = SCRIPTS / "download.py"
        done = tool.run(script, REPO, tmp_path / "found.json", cwd=tmp_path, env=quiet, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    wanted = sums({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found.pop(".gitattributes", None) is None
    assert found == wanted
    assert "model.safetensors" in wanted


def test_our_commands_read_it_by_its_id(pushed, hub, tmp_path, checked):
    checked(f"stub of the hub, commit {COMMIT[:7]}", "`prune cut someone/cut` reads what was pushed by its id")
    done = call(hub, tmp_path / "home", "prune", "cut", REPO, "--layers", "3", "--out", tmp_path / "again", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["source"]["model"], plan["source"]["commit"], plan["layers"]) == (REPO, COMMIT, 24)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["num_hidden_layers"] == 23
