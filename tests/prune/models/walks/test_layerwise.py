"""A model run layer by layer from its files: the numbers of the loaded one on every route, one layer in memory."""

import errno
import json
from dataclasses import replace

import pytest

from prune.checkpoint.source import Source
from prune.choosing.check import check_candidates, greedy_removal
from prune.choosing.settings import CheckSettings, CutSettings
from prune.common.errors import CheckpointError, RegrowthError
from prune.cutting.planning import plan_cut
from prune.models.walks.layerwise import Layerwise
from prune.models.walks.variants import FULL, score_variants
from prune.scanning.settings import ScanSettings
from tests.support.commands import check_refused, run, succeed
from tests.support.models import build, tiny
from tests.support.states import SCANNED, windows

LONG = (70, 31, 90, 23)  # beyond Gemma 2's window of 64
VARIANTS = [FULL, frozenset({1, 2}), frozenset({2, 3}), frozenset({0}), frozenset({1, 4}), frozenset({5})]


def from_files(model, folder, **options):
    model.save_pretrained(folder)
    return Layerwise(Source(folder, "model"), dtype="auto", device="cpu", **options)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", SCANNED)
def test_variants_from_files_have_the_loss_and_kl_of_the_loaded_model(family, tied, tmp_path):
    model = tiny(family, layers=6, tie_word_embeddings=tied)
    files = from_files(model, tmp_path)
    whole, parts = (score_variants(one, windows(LONG), VARIANTS, batch_tokens=200) for one in (model, files))
    assert (parts.tokens == whole.tokens).all()
    assert parts.loss == pytest.approx(whole.loss, abs=1e-4)
    assert parts.kl == pytest.approx(whole.kl, abs=1e-4)
    assert (parts.layer_tokens, parts.head_tokens) == (whole.layer_tokens, whole.head_tokens)
    assert whole.kl[1:].max() > 0.01
    assert all(parameter.is_meta for layer in files.layers for parameter in layer.parameters())


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_check_and_greedy_removal_choose_as_with_a_loaded_model(family, tmp_path):
    model = tiny(family, layers=6)
    files = from_files(model, tmp_path)
    blocks = [(start, start + 1) for start in range(4)]
    text = windows((40,) * 12)
    whole, parts = (check_candidates(one, text, blocks, (1, 2), finalists=2) for one in (model, files))
    assert parts.chosen == whole.chosen
    assert [f.dropped for f in parts.finalists] == [f.dropped for f in whole.finalists]
    assert [f.kl for f in parts.finalists] == pytest.approx([f.kl for f in whole.finalists], abs=1e-4)
    assert parts.full_loss == pytest.approx(whole.full_loss, abs=1e-4)
    assert parts.passes == whole.passes
    assert greedy_removal(files, windows(), 2).order == greedy_removal(model, windows(), 2).order


def test_one_layer_has_weights_at_a_time_and_the_states_that_do_not_fit_go_to_files(tmp_path, monkeypatch):
    model = tiny(layers=6, tie_word_embeddings=False, vocab_size=4000)
    files = from_files(model, tmp_path / "model", cap=1000)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    run_one, held, spilled = files.run, [], []

    def counted(*args):
        held.append(sum(p.nbytes for p in files.model.parameters() if not p.is_meta))
        spilled.append(len(list((tmp_path / "tmp").iterdir())))
        return run_one(*args)

    monkeypatch.setattr(files, "run", counted)
    scores = score_variants(files, windows(), VARIANTS, batch_tokens=64)
    layer = sum(p.nbytes for p in model.model.layers[0].parameters())
    assert max(held) == layer + model.model.norm.weight.nbytes
    assert max(spilled) == len(VARIANTS)
    assert not list((tmp_path / "tmp").iterdir())
    assert scores.kl == pytest.approx(score_variants(model, windows(), VARIANTS, batch_tokens=64).kl, abs=1e-4)


def test_a_full_disk_under_the_states_names_the_folder_and_the_remedy(tmp_path, monkeypatch):
    files = from_files(tiny(layers=6), tmp_path / "model", cap=1000)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    words = f"{tmp_path / 'tmp'} cannot take .*MiB of hidden states .No space left on device.; .* in TMPDIR"
    with pytest.raises(RegrowthError, match=words):
        score_variants(files, windows(), VARIANTS, batch_tokens=64)
    assert not list((tmp_path / "tmp").iterdir())


def test_a_layer_that_no_variant_runs_is_not_read(tmp_path, monkeypatch):
    files = from_files(tiny(layers=6), tmp_path)
    read, names = [], files.stored_names
    monkeypatch.setattr(files, "stored_names", lambda index: read.append(index) or names(index))
    score_variants(files, windows(), [frozenset({1, 2})], kl=False)
    assert read == [0, 3, 4, 5]


def test_a_family_that_stores_its_layers_otherwise_is_refused_in_one_line(tmp_path):
    from transformers import MixtralConfig

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    model = build(MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, num_local_experts=2))
    files = from_files(model, tmp_path)
    with pytest.raises(CheckpointError, match=r"not run layer by layer; .*--max-memory") as refused:
        score_variants(files, windows(), [FULL])
    assert "\n" not in str(refused.value)


def test_weights_that_are_no_plain_numbers_and_a_config_of_nothing_are_refused_in_one_line(tmp_path):
    model = tiny(layers=2)
    files = from_files(model, tmp_path)
    shard, tensor = files.weights.places["model.layers.1.mlp.up_proj.weight"]
    files.weights.places[tensor.name] = shard, replace(tensor, dtype="F8_E4M3")
    with pytest.raises(CheckpointError, match="is stored as F8_E4M3, so this family"):
        files.check()
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"nothing"'))
    with pytest.raises(CheckpointError, match="cannot read its config.json .*model type `nothing`"):
        Layerwise(Source(tmp_path, "model"), dtype="auto", device="cpu")


def test_a_cap_has_the_sample_model_checked_layer_by_layer_to_the_same_choice(sample_model, sample_text):
    whole, parts = (
        plan_cut(
            sample_model,
            n=6,
            text=[str(sample_text)],
            settings=CutSettings(
                "deepest", check=CheckSettings(candidates=2, tokens=512), scanning=ScanSettings(max_memory=cap)
            ),
        )
        for cap in (None, 300 << 20)
    )
    assert parts.dropped == whole.dropped
    ours, theirs = (plan.evidence["check"] for plan in (parts, whole))
    assert ours["streamed"] is True
    assert "streamed" not in theirs
    assert ours["full_loss"] == pytest.approx(theirs["full_loss"], abs=1e-4)
    for one, other in zip(ours["finalists"], theirs["finalists"], strict=True):
        assert one["dropped"] == other["dropped"]
        assert (one["kl"], one["loss"]) == pytest.approx((other["kl"], other["loss"]), abs=1e-4)


def test_cut_says_in_one_line_that_its_check_streams(tiny_llama, sample_text):
    small = ["--check-tokens", "512", "--check", "2", "--samples", "4", "--length", "32", "--dry-run", "--json"]
    command = ["prune", "cut", tiny_llama, "--n", "2", "--text", sample_text, *small]
    plain, capped = succeed(*command), succeed(*command, "--max-memory", "100KB")
    assert json.loads(plain.stdout)["dropped"] == json.loads(capped.stdout)["dropped"]
    told = [line for line in capped.stderr.splitlines() if "layer by layer" in line]
    assert len(told) == 2  # the scan, and the check
    assert "layer by layer" not in plain.stderr
    check_refused(run(*command, "--max-memory", "much"), 2, "--max-memory much: write a size such as 4GiB")
