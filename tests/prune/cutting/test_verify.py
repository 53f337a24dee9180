"""`prune verify`: a sound cut passes, and every kind of damage is named."""

import json
from dataclasses import replace

import pytest

from prune.checkpoint.headers import read_shard
from prune.checkpoint.source import Source
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from prune.cutting.verify import verify_cut
from prune.families.subject import open_subject
from tests.support.checkpoints import edit_config, hashes, synthetic_checkpoint
from tests.support.commands import check_refused, run
from tests.support.every_family import save_small_model


def verify(*words):
    return run("prune", "verify", *words)


@pytest.fixture
def pair(tmp_path):
    source = synthetic_checkpoint(tmp_path / "source")
    out = cut(plan_cut(source, layers="2,4-5"), tmp_path / "out", show_progress=False)
    return source, out


def test_a_sound_cut_passes_and_nothing_is_written(pair):
    source, out = pair
    before = hashes(source.parent)
    result = verify(*pair)
    assert result.exit_code == 0
    assert "sound" in result.stdout
    document = json.loads(verify(*pair, "--json").stdout)
    assert document["format"] == "regrowth.verification/2"
    assert (document["sound"], document["faults"], document["logits"]) == (True, [], None)
    tensors = [tensor for path in out.glob("*.safetensors") for tensor in read_shard(path).tensors]
    assert (document["tensors"], document["bytes"]) == (len(tensors), sum(tensor.size for tensor in tensors))
    assert hashes(source.parent) == before


def damage_a_byte(source, out):
    path = out / "model-00003-of-00003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def swap_two_layers(source, out):
    path = out / "model-00001-of-00003.safetensors"
    content = path.read_bytes()
    for old, new in ((b"layers.0.mlp", b"layers.9.mlp"), (b"layers.1.mlp", b"layers.0.mlp"), (b".9.mlp", b".1.mlp")):
        content = content.replace(old, new)
    path.write_bytes(content)


DAMAGE = {
    "one bit": (damage_a_byte, "lm_head.weight has other values than lm_head.weight"),
    "config": (lambda source, out: edit_config(out, rope_theta=1.0), "rope_theta"),
    "another source": (lambda source, out: edit_config(source, rope_theta=1.0), "not the source that the plan names"),
    "two layers swapped": (swap_two_layers, "model.layers.1.mlp.up_proj.weight has other values"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(pair, damage, message):
    damage(*pair)
    result = verify(*pair)
    assert result.exit_code == 1
    assert message in " ".join(result.stdout.split())
    assert "NOT what its plan says" in result.stdout
    document = json.loads(verify(*pair, "--json").stdout)
    assert not document["sound"]
    assert message in " ".join(document["faults"])


def test_what_is_no_cut_of_this_model_is_one_line(pair, tmp_path):
    source, out = pair
    for arguments, message in (
        ((source, source), "not written by prune cut"),
        ((out, out), "was cut from 8"),
        ((tmp_path / "nowhere", out), "does not exist"),
        ((source, tmp_path / "nowhere"), "not a folder"),
    ):
        check_refused(verify(*arguments), 1, message)


def test_logits_are_compared_with_the_layers_passed_through(tiny_llama, tmp_path):
    out = cut(plan_cut(tiny_llama, layers="2,5"), tmp_path / "out", show_progress=False)
    result = verify(tiny_llama, out, "--logits", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["logits"] <= 1e-5

    from safetensors.torch import load_file, save_file

    tensors = load_file(out / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    found = verify_cut(tiny_llama, out, logits=True, show_progress=False)
    assert found.logits > 1e-3
    assert len(found.faults) == 2  # the norm's values, and the logits


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "bamba", "rwkv"])  # layers that answer in their own forms
def test_logits_are_compared_for_layers_of_every_form(family, tmp_path):
    save_small_model(family, tmp_path / "full")
    out = cut(plan_cut(tmp_path / "full", layers="3,4"), tmp_path / "out", show_progress=False)
    found = verify_cut(tmp_path / "full", out, logits=True, show_progress=False)
    assert found.faults == ()
    assert found.logits <= 1e-5


def test_the_logits_are_those_of_the_revision_whose_bytes_were_compared(tiny_llama, tmp_path, monkeypatch):
    out = cut(plan_cut(tiny_llama, layers="2,5"), tmp_path / "out", show_progress=False)
    commit, asked = "0123abc", {}

    def opened(model, **_):
        subject = open_subject(tiny_llama if model == "owner/name" else model)
        return replace(subject, source=Source(tiny_llama, model, commit)) if model == "owner/name" else subject

    def located(model, revision=None, **_):
        asked[str(model)] = revision
        return Source(tiny_llama if model == "owner/name" else out, str(model), revision)

    monkeypatch.setattr("prune.cutting.verify.open_subject", opened)
    monkeypatch.setattr("prune.cutting.verify.locate", located)
    assert verify_cut("owner/name", out, revision="a-branch", logits=True, show_progress=False).sound
    assert asked == {"owner/name": commit, str(out): None}
