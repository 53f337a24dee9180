"""The cut as a whole: what the folder holds, what the commands say, and that a refused cut writes nothing."""

import errno
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError
from prune.common.files.provenance import file_sha256
from prune.cutting.cut import cut
from prune.cutting.plan import CutPlan
from prune.cutting.planning import plan_cut
from prune.cutting.verify import inspect_cut
from prune.models.loading import decoder_layers
from prune.scanning.result import Scan
from tests.support.checkpoints import UNCHECKED, edit_config, hand_made_scan, hashes
from tests.support.commands import check_refused, run, succeed

# --- the real sample model -----------------------------------------------------------------------------------------


def test_the_sample_model_cut_and_loaded_again(sample_model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = hashes(sample_model)
    result = succeed("prune", "cut", sample_model, "--n", "6", "--start", "13", "--out", tmp_path / "pruned")
    assert "drop 6 of 30 layers: 13-18 (source numbering, 0-based)" in " ".join(result.stdout.split())
    assert hashes(sample_model) == before

    source = load_file(sample_model / "model.safetensors")
    written = load_file(tmp_path / "pruned" / "model.safetensors")
    kept = [*range(13), *range(19, 30)]
    wanted = {
        name.replace(f"layers.{layer}.", f"layers.{place}."): tensor
        for place, layer in enumerate(kept)
        for name, tensor in source.items()
        if f"layers.{layer}." in name
    }
    wanted |= {name: tensor for name, tensor in source.items() if "layers." not in name}
    assert set(written) == set(wanted)
    assert all(torch.equal(written[name], tensor) for name, tensor in wanted.items())
    del source, written, wanted

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    assert tokenizer.chat_template
    ids = tokenizer("The capital of France is Paris, and 12 of", return_tensors="pt").input_ids
    full = AutoModelForCausalLM.from_pretrained(sample_model, dtype=torch.float32).eval()
    layers = decoder_layers(full)
    for layer in range(13, 19):
        layers[layer].forward = lambda hidden_states, *_, **__: hidden_states
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype=torch.float32).eval()
    assert pruned.config.num_hidden_layers == len(decoder_layers(pruned)) == 24
    assert pruned.generation_config.eos_token_id == full.generation_config.eos_token_id
    with torch.no_grad():
        assert (full(ids, use_cache=False).logits - pruned(ids).logits).abs().max() <= 1e-5


# --- what the folder holds -----------------------------------------------------------------------------------------


def test_companions_are_carried_and_code_only_on_request(tiny_llama, tmp_path):
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    edit_config(source, auto_map={"AutoConfig": "modeling_x.XConfig"})
    carried = ["LICENSE", "tokenizer.model", "tekken.json"]
    left = ["modeling_x.py", "params.json", "notes.txt", "pytorch_model.bin", "adapter_config.json"]
    for name in carried + left:
        (source / name).write_text(name)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")

    out = cut(plan_cut(source, layers="3"), tmp_path / "plain", show_progress=False)
    of_the_model = {path.name for path in tiny_llama.iterdir()} | {"additional_chat_templates"}
    assert {path.name for path in out.iterdir()} == {"README.md", "prune_plan.json", *of_the_model, *carried}
    assert (out / "additional_chat_templates" / "tools.jinja").read_text() == "{{ tools }}"
    assert "auto_map" not in json.loads((out / "config.json").read_text())

    plan = plan_cut(source, layers="3", settings=CutSettings(trust_remote_code=True))
    out = cut(plan, tmp_path / "with-code", show_progress=False)
    assert (out / "modeling_x.py").read_text() == "modeling_x.py"
    assert "auto_map" in json.loads((out / "config.json").read_text())


def test_a_companion_that_is_a_link_to_elsewhere_is_refused(tiny_llama, tmp_path):
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    (tmp_path / "secret").write_text("secret")
    (source / "tokenizer.secret").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="leaves its folder"):
        cut(plan_cut(source, layers="3"), tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_config_card_and_plan_tell_of_the_cut(tiny_llama, tmp_path):
    import yaml

    scan = hand_made_scan(tiny_llama)
    plan = plan_cut(tiny_llama, n=2, scan=scan, settings=UNCHECKED)
    out = cut(plan, tmp_path / "out", show_progress=False)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tiny_llama, out))
    assert list(after) == list(before)
    assert after == before | {"num_hidden_layers": 6}
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "transformers"
    assert "drop 2 of 8 layers: 2-3 (source numbering, 0-based); keep 0-1 and 4-7" in card
    assert f"| angular distance | {scan.distance[1][2]:.4f} |" in card
    read = CutPlan.read(out / "prune_plan.json")
    assert read == plan
    again = hashes(cut(read, tmp_path / "again", show_progress=False))
    assert {name for name, content in hashes(out).items() if again[name] != content} <= {
        "README.md"
    }  # names its folder


def test_a_cut_of_a_cut_knows_the_first_numbering(tiny_llama, tmp_path):
    cut(plan_cut(tiny_llama, layers="1,2"), tmp_path / "once", show_progress=False)
    cut(plan_cut(tmp_path / "once", layers="0,3"), tmp_path / "twice", show_progress=False)
    plan = inspect_cut(tmp_path / "twice")
    assert plan.kept == (1, 2, 4, 5)
    assert plan.original == (3, 4, 6, 7)  # once: 0 3 4 5 6 7
    assert "keep 3-4 and 6-7 of" in " ".join(run("prune", "inspect", tmp_path / "twice").stdout.split())
    found, source = (load_file(folder / "model.safetensors") for folder in (tmp_path / "twice", tiny_llama))
    for place, layer in enumerate(plan.original):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(found[name.format(place)], source[name.format(layer)])


def test_copying_through_the_buffer_gives_the_same_bytes(tiny_llama, tmp_path, monkeypatch):
    plan = plan_cut(tiny_llama, layers="4-5")
    kernel = cut(plan, tmp_path / "kernel", show_progress=False)
    monkeypatch.setattr("os.copy_file_range", lambda *_: 0)  # as some network file systems answer
    buffered = cut(plan, tmp_path / "buffered", show_progress=False)
    assert file_sha256(kernel / "model.safetensors") == file_sha256(buffered / "model.safetensors")


def test_a_copy_that_fails_names_both_files_as_either_may_be_broken(tiny_llama, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    for call in ("os.copy_file_range", "os.preadv"):
        with monkeypatch.context() as patch:
            patch.setattr("os.copy_file_range", lambda *_: 0)
            patch.setattr(call, broken)
            done = run("prune", "cut", tiny_llama, "--layers", "4-5", "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert f"error: {tiny_llama / 'model.safetensors'}" in done.stderr
        assert (" -> " in done.stderr) == (call == "os.copy_file_range")
        assert list(tmp_path.iterdir()) == []


def test_metadata_of_shared_tensors_follows_its_layers(tiny_llama, tmp_path):
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    name = "model.layers.{}.x"
    metadata = {"format": "pt", name.format(5): name.format(6), name.format(1): name.format(0)}
    save_file(load_file(source / "model.safetensors"), source / "model.safetensors", metadata=metadata)
    out = cut(plan_cut(source, layers="0-1"), tmp_path / "out", show_progress=False)
    from safetensors import safe_open

    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", name.format(3): name.format(4)}
    with pytest.raises(CheckpointError, match="stored as"):
        plan_cut(source, layers="6")  # layer 5 keeps its tensor under layer 6


# --- the commands --------------------------------------------------------------------------------------------------


def test_inspect_prints_the_plan_of_what_is_a_cut(tiny_llama, tmp_path):
    out = tmp_path / "out"
    made = json.loads(succeed("prune", "cut", tiny_llama, "--layers", "2", "--out", out, "--json").stdout)
    assert json.loads(succeed("prune", "inspect", out, "--json").stdout) == made
    assert "drop 1 of 8 layers: 2 (source" in succeed("prune", "inspect", out).stdout
    other = cut(plan_cut(tiny_llama, layers="2,3"), tmp_path / "other", show_progress=False)
    (out / "prune_plan.json").write_bytes((other / "prune_plan.json").read_bytes())
    check_refused(run("prune", "inspect", out), 1, "has 7 layers, but its prune_plan.json keeps 6")


def test_a_dry_run_prints_the_plan_and_writes_nothing(tiny_llama, tmp_path):
    before = hashes(tiny_llama)
    result = succeed("prune", "cut", tiny_llama, "--layers", "2,4-5", "--out", tmp_path / "out", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert (plan["format"], plan["dropped"], plan["kept"]) == ("regrowth.plan/2", [2, 4, 5], [0, 1, 3, 6, 7])
    assert plan["blocks"] == [{"start": 2, "n": 1}, {"start": 4, "n": 2}]
    assert not list(tmp_path.iterdir())
    assert hashes(tiny_llama) == before
    shown = succeed("prune", "cut", tiny_llama, "--layers", "2,4-5", "--dry-run").stdout
    assert "drop 3 of 8 layers: 2 and 4-5" in shown
    check_refused(run("prune", "cut", tiny_llama, "--layers", "3"), 2, "--out")


def test_cut_without_a_scan_scans_first(tiny_llama, sample_text, tmp_path):
    check = ["--check-tokens", "512", "--check", "2"]
    options = ["--text", sample_text, "--samples", "4", "--length", "32", "--json", *check]
    plan = json.loads(succeed("prune", "cut", tiny_llama, "--n", "2", *options, "--out", tmp_path / "out").stdout)
    scan = Scan.read(tmp_path / "out" / "scan.json")
    assert scan.samples == 4
    row = scan.distance[1][:6]  # blocks of two that keep layer 7
    assert plan["evidence"]["check"]["own"][0] == row.index(min(row))
    assert plan["evidence"]["check"]["chosen"] == plan["dropped"]
    assert plan["evidence"]["angular_distance"] == row[plan["dropped"][0]]
    again = ["--n", "2", "--scan", tmp_path / "out" / "scan.json", "--dry-run", "--json", *check]
    again = json.loads(succeed("prune", "cut", tiny_llama, *again).stdout)
    assert (again["dropped"], again["evidence"]) == (plan["dropped"], plan["evidence"])


def test_overwrite_replaces_the_folder_whole(tiny_llama, tmp_path):
    out = tmp_path / "out"
    succeed("prune", "cut", tiny_llama, "--layers", "2", "--out", out)
    (out / "stray").write_text("of the first")
    check_refused(run("prune", "cut", tiny_llama, "--layers", "3", "--out", out), 1, "already exists")
    assert inspect_cut(out).dropped == (2,)
    succeed("prune", "cut", tiny_llama, "--layers", "3", "--out", out, "--overwrite")
    assert inspect_cut(out).dropped == (3,)
    assert not (out / "stray").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


BAD_REQUESTS = {  # more of them, given to plan_cut itself, stand in test_planning.py
    "unknown criterion": (["--n", "3", "--criterion", "luck"], 2, "criterion"),
    "no scan there": (["--n", "3", "--scan", "nowhere.json"], 1, "nowhere.json does not exist"),
    "empty text": (["--n", "3", "--text", "/dev/null"], 1, "/dev/null"),
}


@pytest.mark.parametrize(("options", "code", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests_give_one_line_and_write_nothing(tiny_llama, tmp_path, options, code, message):
    before = hashes(tiny_llama)
    check_refused(run("prune", "cut", tiny_llama, *options, "--out", tmp_path / "out"), code, message)
    assert not list(tmp_path.iterdir())
    assert hashes(tiny_llama) == before


@pytest.mark.parametrize("place", ["", "sub", ".."])
def test_the_source_is_never_written_to(tiny_llama, tmp_path, place):
    source = shutil.copytree(tiny_llama, tmp_path / "a")
    before = hashes(source)
    result = run("prune", "cut", source, "--layers", "3", "--out", source / place, "--overwrite")
    check_refused(result, 1, "lie in one another" if place == "sub" else "replaces only what Regrowth wrote")
    assert hashes(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_cut_imports_neither_torch_nor_transformers(tiny_llama, tmp_path):
    program = (
        "import sys\n"
        "from prune.cli import app\n"
        "app(['cut', sys.argv[1], '--layers', '3', '--out', sys.argv[2]], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'safetensors', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, tiny_llama, tmp_path / "out"], check=True)
    assert inspect_cut(tmp_path / "out").dropped == (3,)
