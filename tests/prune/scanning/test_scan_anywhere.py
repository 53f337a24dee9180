"""The same numbers wherever a scan runs: layer by layer, in two processes, interrupted, in 4 bits; and its extras."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from prune.checkpoint.source import Source, locate
from prune.common.errors import UsageError
from prune.common.files.resume import Unfinished
from prune.common.sizes import parse_size
from prune.models.walks.layer_files import fits
from prune.models.whole import load_whole
from prune.scanning.cka import linear_cka
from prune.scanning.result import Scan
from prune.scanning.samples import Samples
from prune.scanning.scan import _load, measure, scan
from prune.scanning.settings import ScanSettings
from prune.scanning.streaming import measure_streamed
from tests.support.checkpoints import with_other_weights
from tests.support.commands import check_refused, run, succeed
from tests.support.models import save_tiny, tiny
from tests.support.states import SCANNED, apart, plain_states, windows

SMALL = ScanSettings(samples=10, length=40)


def numbers(scan):
    """All rows of numbers of a scan."""
    return [*scan.distance, *scan.stderr, *scan.cka, scan.influence, scan.magnitude]


@pytest.mark.parametrize("tokens", ["last", "all"])
@pytest.mark.parametrize("family", SCANNED)
def test_layer_by_layer_is_the_scan_in_memory(family, tokens, tmp_path):
    model = tiny(family, layers=6)
    model.save_pretrained(tmp_path)
    whole = measure(model, windows(), tokens=tokens, batch_size=2)
    settings = ScanSettings(tokens=tokens, batch_size=2, device="cpu")
    parts = measure_streamed(Source(tmp_path, family), Samples(windows()), settings)
    assert parts.dtype == whole.dtype == "float32"
    assert parts.distances.mean() == pytest.approx(whole.distances.mean(), abs=1e-6)
    assert parts.distances.stderr() == pytest.approx(whole.distances.stderr(), abs=1e-6)
    assert parts.influence == pytest.approx(whole.influence, abs=1e-4)
    assert parts.token_count == whole.token_count


def test_states_that_do_not_fit_are_spilled_with_the_same_numbers(tmp_path, monkeypatch):
    model = tiny(layers=6)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    settings = ScanSettings(batch_size=3, device="cpu")
    source, samples = Source(tmp_path / "model", "model"), Samples(windows())
    held = measure_streamed(source, samples, settings)
    spilled = measure_streamed(source, samples, replace(settings, max_memory=1000))
    assert (spilled.distances.mean() == held.distances.mean()).all()
    assert not list((tmp_path / "tmp").iterdir())
    with pytest.raises(UsageError, match="--samples"):
        measure_streamed(source, samples, replace(settings, tokens="all", max_memory=1000))


def test_a_cap_makes_the_sample_model_run_layer_by_layer_to_the_same_numbers(sample_model, sample_text):
    settings = ScanSettings(samples=3, length=24)
    whole, parts = (
        scan(sample_model, str(sample_text), settings=how, show_progress=False)
        for how in (settings, replace(settings, max_memory=300 << 20))
    )
    assert parts.provenance["streamed"] is True
    assert "streamed" not in whole.provenance
    assert apart(numbers(whole), numbers(parts)) < 1e-6


def test_what_fits_is_reckoned_from_the_headers(tiny_llama):
    size = sum(p.stat().st_size for p in tiny_llama.glob("*.safetensors"))
    source = Source(tiny_llama, "tiny")
    assert fits(source, "auto", "cpu", 2 * size)
    assert not fits(source, "auto", "cpu", size)
    assert fits(source, torch.bfloat16, "cpu", size)
    assert fits(source, "auto", "cpu", None)


@pytest.mark.parametrize("whole", [{"load_in_4bit": True}, {"device_map": "auto"}])
def test_a_bound_on_memory_does_not_go_with_what_loads_the_whole_model(whole):
    flag = "--" + next(iter(whole)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--max-memory streams a larger model, and {flag} loads the whole"):
        ScanSettings(max_memory=1 << 30, **whole)
    ScanSettings(**whole)


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 << 30), ("800MB", 800_000_000), ("1.5 gib", 3 << 29), ("2", 2 << 30)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "4GX", "0", "four", "9" * 400])
def test_sizes_that_make_no_sense(text):
    with pytest.raises(UsageError, match="--max-memory"):
        parse_size(text)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tiny_llama, sample_text, tmp_path):
    options = [tiny_llama, "--text", sample_text, "--samples", "11", "--length", "48", "--batch-size", "2"]
    succeed("prune", "scan", *options, "--out", tmp_path / "one.json")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "prune", "scan"]
    command = [sys.executable, *launch, *map(str, options), "--out", str(tmp_path / "two.json")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = Scan.read(tmp_path / "one.json"), Scan.read(tmp_path / "two.json")
    assert apart(numbers(one), numbers(two)) < 1e-6
    assert two.samples == 11
    assert [g.starts for g in one.groups] == [g.starts for g in two.groups]
    assert done.stdout.count("Best block of each size") == 1


def test_an_interrupted_scan_goes_on_where_it_was(tiny_llama, sample_text, tmp_path, tmp_path_factory, monkeypatch):
    out, settings = tmp_path / "scan.json", replace(SMALL, batch_size=2)
    whole = scan(tiny_llama, str(sample_text), settings=settings, show_progress=False)
    healed = with_other_weights(tiny_llama, tmp_path_factory.mktemp("other") / "healed")
    ran = []

    def begin(how=settings, model=tiny_llama):
        unfinished = Unfinished.beside(out, resume=True, overwrite=False)
        return scan(model, str(sample_text), settings=how, unfinished=unfinished, show_progress=False)

    def stop(module, _):
        if type(module).__name__ == "LlamaModel":
            ran.append(1)
            if len(ran) == 3:
                raise KeyboardInterrupt

    handle = torch.nn.modules.module.register_module_forward_pre_hook(stop)
    monkeypatch.setattr("prune.common.files.resume.EVERY", 0.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert [path.name for path in tmp_path.iterdir()] == [".scan.json.unfinished"]
        with pytest.raises(UsageError, match="--resume: --seed was 0 and is now 1"):
            begin(replace(settings, seed=1))
        with pytest.raises(UsageError, match="--resume: the model was"):
            begin(model=healed)
        again = begin()
    finally:
        handle.remove()
    assert len(ran) == 3 + 3  # of five batches, two were kept
    assert (numbers(again), again.groups) == (numbers(whole), whole.groups)


def test_two_texts_give_equal_shares_and_the_table_tells_them_apart(tiny_llama, sample_text, sample_heldout, tmp_path):
    out = tmp_path / "scan.json"
    texts = ["--text", str(sample_text), "--text", str(sample_heldout)]
    done = succeed("prune", "scan", tiny_llama, *texts, "--samples", "8", "--length", "64", "--out", out)
    found = Scan.read(out)
    sources = {g.name: g.samples for g in found.groups if g.kind == "source"}
    assert sources == {str(sample_text): 4, str(sample_heldout): 4}
    assert {g.name: g.samples for g in found.groups if g.kind == "half"} == {"first": 4, "second": 4}
    assert [t["source"] for t in found.provenance["text"]] == [str(sample_text), str(sample_heldout)]
    assert "halves" in done.stdout
    assert "sources" in done.stdout


def test_halves_are_scans_of_their_own_samples(tiny_llama, sample_text):
    found, first = (
        scan(tiny_llama, str(sample_text), settings=how, show_progress=False)
        for how in (SMALL, replace(SMALL, samples=5))
    )
    half = next(g for g in found.groups if (g.kind, g.name) == ("half", "first"))
    assert half.samples == 5
    assert half.starts == tuple(b.start for b in first.best)


def test_magnitude_and_cka_match_plain_numpy():
    model = tiny(layers=6)
    states = [plain_states(model, window) for window in windows()]
    got = measure(model, windows(), batch_size=2)
    for layer in range(6):
        change = [
            np.linalg.norm(x[layer + 1] - x[layer], axis=1) / np.linalg.norm(x[layer + 1], axis=1) for x in states
        ]
        assert got.magnitude[layer] / got.token_count == pytest.approx(np.concatenate(change).mean(), abs=1e-5)
    last = np.stack([x[:, -1] for x in states])
    assert np.stack([got.vectors[i] for i in range(5)]) == pytest.approx(last, abs=1e-5)


def test_cka_is_one_for_turned_states_and_near_zero_for_strangers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 16)) + 3.0
    turn, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    strangers = rng.normal(size=(40, 16))
    cka = linear_cka(np.stack([x, 2.5 * x @ turn, strangers], axis=1))
    assert cka[0, 1] == pytest.approx(1.0, abs=1e-9)
    assert abs(cka[0, 2]) < 0.2
    assert np.isnan(linear_cka(rng.normal(size=(3, 2, 4)))).all()

    def plain(a, b):
        """Song et al., equation 5, term by term."""
        n = len(a)
        k, m = (c @ c.T * (1 - np.eye(n)) for c in (a, b))
        one = np.ones(n)
        whole = (
            np.trace(k @ m) + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
        )
        return whole / (n * (n - 3))

    expected = plain(x, strangers) / np.sqrt(plain(x, x) * plain(strangers, strangers))
    assert cka[0, 2] == pytest.approx(expected, abs=1e-9)


def test_four_bits_stay_near_the_whole_model(tiny_llama, sample_text, tmp_path):
    model = save_tiny(tmp_path / "model", tiny_llama, layers=6)
    settings = ScanSettings(samples=2, length=24, dtype="bfloat16")
    whole, packed = (
        scan(model, str(sample_text), settings=how, show_progress=False)
        for how in (settings, replace(settings, load_in_4bit=True))
    )
    assert packed.provenance["bits"] == 4
    assert 0 < apart(whole.distance, packed.distance) < 0.1 < max(whole.distance[0])


def test_a_scan_in_4_bits_stands_on_the_weights_that_all_else_does(tiny_llama):
    """The scales are quantised too, as where a model is trained or asked."""
    ours = _load(locate(tiny_llama), ScanSettings(load_in_4bit=True, device="cpu", dtype="float32"), False)
    theirs = load_whole(locate(tiny_llama), dtype=torch.float32, device="cpu", load_in_4bit=True)
    pairs = list(zip(ours.named_parameters(), theirs.named_parameters(), strict=True))
    assert sum(hasattr(weight, "quant_state") for (_, weight), _ in pairs) == 8 * 7
    for (name, mine), (_, other) in pairs:
        assert torch.equal(mine.data, other.data), name
        if hasattr(mine, "quant_state"):
            assert mine.quant_state.nested
            assert torch.equal(mine.quant_state.absmax, other.quant_state.absmax)


def test_all_figures_are_written_or_none(tiny_llama, sample_text, tmp_path):
    scan(tiny_llama, str(sample_text), settings=SMALL, show_progress=False).write(tmp_path / "scan.json")
    out = tmp_path / "figures"
    done = succeed("prune", "plot", tmp_path / "scan.json", "--out", out, "--json")
    names = ["heat_map.png", "heat_map_raw.png", "distance_by_start.png", "layers.png"]
    assert json.loads(done.stdout)["figures"] == [str(out / name) for name in names]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names)
    check_refused(run("prune", "plot", tmp_path / "scan.json", "--out", out), 1, "already exists")
    check_refused(run("prune", "plot", tmp_path / "none.json", "--out", tmp_path / "x"), 1, "does not exist")
    assert not (tmp_path / "x").exists()
