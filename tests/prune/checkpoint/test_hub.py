"""Reading from a hub and writing to one, against a local stub of its HTTP API, by the real command."""

import json

import pytest

from prune.choosing.settings import CutSettings
from prune.cutting.cut import cut
from prune.cutting.plan import CutPlan
from prune.cutting.planning import plan_cut
from prune.cutting.verify import verify_cut
from tests.support.checkpoints import edit_config, hashes, synthetic_checkpoint, write_shard
from tests.support.commands import error_line
from tests.support.copying_model import TEXT, save_copying_model
from tests.support.every_family import save_small_model
from tests.support.hub import COMMIT, StubHub, call, serve

REPO = "someone/model"


@pytest.fixture
def source(tmp_path):
    return synthetic_checkpoint(tmp_path / "source", rows=4_000)  # shards of two MB, larger than what a header takes


@pytest.fixture
def prune(tmp_path):
    """Runs the command with a cache of its own; gives back the finished process."""
    return lambda hub, *words, **environment: call(hub, tmp_path / "cache", "prune", *words, **environment)


def only_line(done) -> str:
    assert done.returncode in (1, 2), done.stderr
    return error_line(done.stderr)


def test_only_shards_that_hold_kept_tensors_are_downloaded_and_none_for_a_dry_run(source, prune, tmp_path):
    with serve(StubHub(REPO, source)) as hub:
        done = prune(hub, "cut", REPO, "--layers", "1,2", "--dry-run", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["after"] == plan_cut(source, layers="1,2").to_json()["after"]
        weights = {name: len(content) for name, content in hub.files.items() if name.endswith(".safetensors")}
        assert all(hub.fetched[name] < size / 4 for name, size in weights.items())
        hub.fetched.clear()
        # layers 4 and 5 fill the third shard
        done = prune(hub, "cut", REPO, "--layers", "4-5", "--out", tmp_path / "out", "--json")
        assert done.returncode == 0, done.stderr
        part = "model-00003-of-00004.safetensors"
        assert hub.fetched[part] < weights[part] / 4
        assert all(hub.fetched[name] >= size for name, size in weights.items() if name != part)
        plan = json.loads(done.stdout)
        assert (plan["source"]["model"], plan["source"]["commit"]) == (REPO, COMMIT)

        local = cut(plan_cut(source, layers="4-5"), tmp_path / "local", show_progress=False)
        same = [path.name for path in local.iterdir() if path.name not in ("prune_plan.json", "README.md")]
        assert {name: hashes(tmp_path / "out")[name] for name in same} == {name: hashes(local)[name] for name in same}
        assert verify_cut(source, tmp_path / "out", show_progress=False).sound
        assert f"base_model: {json.dumps(REPO)}" in (tmp_path / "out" / "README.md").read_text()

        before = dict(hub.fetched)
        assert prune(hub, "cut", REPO, "--layers", "4-5", "--out", tmp_path / "again").returncode == 0
        again = {name for name in hub.fetched if hub.fetched[name] != before[name]}
        assert again == {part}  # its header; all else is in the cache
        done = prune(hub, "verify", REPO, tmp_path / "again")
        assert done.returncode == 0, done.stderr + done.stdout


def test_a_single_file_model_and_a_long_header(prune, tmp_path):
    folder = tmp_path / "single"
    folder.mkdir()
    names = [f"model.layers.{layer}.mlp.experts.{expert}.weight" for layer in range(2) for expert in range(1500)]
    write_shard(folder / "model.safetensors", [(name, "U8", (3,), b"abc") for name in names])
    (folder / "config.json").write_text('{"model_type": "mixtral", "num_hidden_layers": 2}')
    assert int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little") > 1 << 17
    with serve(StubHub(REPO, folder)) as hub:
        done = prune(hub, "cut", REPO, "--layers", "0", "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
    assert CutPlan.read(tmp_path / "out" / "prune_plan.json").after.tensors == 1500


def test_no_weights_are_fetched_to_time_a_model_that_does_not_fit(prune, tmp_path):
    save_small_model("llama", tmp_path / "model")
    few = ["--context", "8", "--new-tokens", "2", "--rounds", "1", "--device", "cpu", "--max-memory", "1000B"]
    with serve(StubHub(REPO, tmp_path / "model")) as hub:
        done = prune(hub, "time", REPO, *few, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["whole"] is False
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


SECOND = "model-00002-of-00004.safetensors"
FAULTS = {  # what is at the hub, the model that is asked for, and what the line says
    "no such model": (lambda files: files, "someone/other", "someone/other"),
    "shard missing": (lambda files: {name: files[name] for name in files if name != SECOND}, REPO, "00002"),
    "header damaged": (lambda files: {**files, SECOND: b"\xff" * 1000}, REPO, "00002"),
    "no weights": (lambda files: {"config.json": files["config.json"]}, REPO, "holds no weights"),
    "offline": (lambda files: files, REPO, REPO),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_hub_does_not_give_is_one_line(source, prune, tmp_path, fault):
    hub, (change, model, words) = StubHub(REPO, source), FAULTS[fault]
    hub.files = change(hub.files)
    environment = {"HF_HUB_OFFLINE": "1"} if fault == "offline" else {}
    with serve(hub):
        assert words in only_line(prune(hub, "cut", model, "--layers", "4", "--out", tmp_path / "out", **environment))
    assert not (tmp_path / "out").exists()


def test_upload_of_the_finished_folder(source, prune, tmp_path):
    with serve(StubHub("me/pruned")) as hub:
        out = tmp_path / "out"
        push = ["--push-to-hub", "me/pruned", "--private"]
        done = prune(hub, "cut", source, "--layers", "4-5", "--out", out, *push, HF_TOKEN="hf_x")
        assert done.returncode == 0, done.stderr
        assert f"{hub.address}/me/pruned" in done.stderr.replace("\n", "")
        assert {path.name: path.read_bytes() for path in out.iterdir()} == hub.uploaded
        assert [request["name"] for request in hub.created] == ["pruned"]
        (request,) = hub.created
        assert request.get("private") or request.get("visibility") == "private"  # before huggingface_hub 2, and since


@pytest.mark.parametrize(
    ("push", "environment", "message"),
    [
        (["--push-to-hub", "me/pruned"], {}, "needs a login"),
        (["--push-to-hub", "me//pruned"], {"HF_TOKEN": "hf_x"}, "no hub id"),
        (["--private"], {}, "--push-to-hub"),
    ],
)
def test_what_cannot_be_uploaded_shows_before_the_cut(source, prune, tmp_path, push, environment, message):
    with serve(StubHub("me/pruned")) as hub:
        done = prune(hub, "cut", source, "--layers", "4", "--out", tmp_path / "out", *push, **environment)
    assert message in only_line(done)
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()


def test_a_refused_upload_keeps_the_folder(source, prune, tmp_path):
    with serve(StubHub("me/pruned", refuse=403)) as hub:
        out = tmp_path / "out"
        done = prune(hub, "cut", source, "--layers", "4", "--out", out, "--push-to-hub", "me/pruned", HF_TOKEN="hf_x")
        line = only_line(done)
    assert "is complete, but the hub did not take it" in line
    assert "403" in line
    assert verify_cut(source, out, show_progress=False).sound


OWN = """
from transformers import GPT2Config, GPT2LMHeadModel


class OwnConfig(GPT2Config):
    pass


class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""
WITH_CODE = """import shutil, sys
from pathlib import Path
from huggingface_hub.constants import HF_HUB_CACHE
from prune import ConceptsSettings, HeadsSettings, ScanSettings, WriteSettings, concepts, heads, scan, verify_cut, write
model, folder = sys.argv[1], Path(sys.argv[2])
text, usual = [str(folder / "text.txt")], {"trust_remote_code": True, "show_progress": False}
heads_settings = HeadsSettings(lengths=(100,), depths=1, needles=2, top=(1,), draws=1, device="cpu")
words = ConceptsSettings(
    tokens=400, length=50, clusters=2, ward=0, reseeds=2, shuffles=1, labels=("lexical",), device="cpu"
)
for name, run in {
    "scan": lambda: scan(model, text, settings=ScanSettings(samples=2, length=16, device="cpu"), **usual),
    "heads": lambda: heads(model, text, settings=heads_settings, **usual),
    "concepts": lambda: concepts(model, text, settings=words, **usual),
    "write": lambda: write(
        model,
        str(folder / "prompts.jsonl"),
        folder / "own.jsonl",
        settings=WriteSettings(tokens=20, answer_tokens=4, device="cpu"),
        **usual,
    ),
    "verify": lambda: verify_cut(model, folder / "pruned", logits=True, **usual),
}.items():
    shutil.rmtree(HF_HUB_CACHE, ignore_errors=True)  # what another has fetched is no help
    run()
    print(name)
"""


def test_whatever_loads_a_hub_model_fetches_the_code_that_it_is_to_run(tmp_path):
    source = save_copying_model(tmp_path / "source")
    (source / "own.py").write_text(OWN)
    edit_config(source, auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    (tmp_path / "text.txt").write_text(f"{TEXT}\n\n{TEXT}")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Haystack sentence number"}\n' * 8)
    plan = plan_cut(source, layers="0", settings=CutSettings(trust_remote_code=True))
    cut(plan, tmp_path / "pruned", show_progress=False)
    with serve(StubHub(REPO, source)) as hub:
        done = call(hub, tmp_path / "cache", WITH_CODE, REPO, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["scan", "heads", "concepts", "write", "verify"]
