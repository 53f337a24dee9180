"""`prune scan` and scan.json: the real sample, the artefact, the command and its errors."""

import json

import numpy as np
import pytest

from prune.checkpoint.source import locate
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.models.loading import load_model, load_tokenizer
from prune.scanning.result import Scan
from prune.scanning.scan import scan
from prune.scanning.settings import ScanSettings
from prune.text.documents import read_documents
from prune.text.windows import draw_windows
from tests.support.commands import check_refused, run, succeed
from tests.support.states import plain_distances, plain_states
from tests.support.texts import write_jsonl

SMALL = ["--samples", "6", "--length", "24"]


@pytest.fixture(scope="module")
def tiny_scan(tiny_llama, sample_text):
    return scan(tiny_llama, str(sample_text), settings=ScanSettings(samples=6, length=24), show_progress=False)


def test_sample_model_matches_plain_numpy(sample_model, sample_text):
    """Against hidden_states of the model without its final norm, window by window, in float64 numpy."""
    source = locate(sample_model)
    documents = read_documents(str(sample_text))
    windows = draw_windows(documents, load_tokenizer(source), samples=4, length=40, seed=3)
    model = load_model(source)
    states = [plain_states(model, window) for window in windows]
    for tokens in ("last", "all"):
        settings = ScanSettings(samples=4, length=40, seed=3, tokens=tokens)
        found = scan(sample_model, str(sample_text), settings=settings, show_progress=False)
        for row, expected in zip(found.distance, plain_distances(states, tokens), strict=True):
            assert row == pytest.approx(tuple(expected), abs=1e-5)


def test_every_window_opens_with_bos_and_the_scan_is_reproducible(tiny_llama, sample_text, tiny_scan):
    again = scan(tiny_llama, str(sample_text), settings=ScanSettings(samples=6, length=24), show_progress=False)
    assert again.distance == tiny_scan.distance
    assert again.influence == tiny_scan.influence
    other = scan(tiny_llama, str(sample_text), settings=ScanSettings(samples=6, length=24, seed=1), show_progress=False)
    assert other.distance != tiny_scan.distance
    tokenizer = load_tokenizer(locate(tiny_llama))
    windows = draw_windows(read_documents(str(sample_text)), tokenizer, samples=6, length=24, seed=0)
    assert {w[0] for w in windows} == {tokenizer.bos_token_id}
    assert sum(map(len, windows)) == tiny_scan.provenance["token_count"]


def test_fewer_documents_than_samples_are_all_used(tiny_llama, tmp_path):
    line = "The quick brown fox jumps over the lazy dog and the dog does not mind at all."
    texts = [*(f"{i} {line}" for i in range(3)), "short"]
    text = write_jsonl(tmp_path / "three.jsonl", ({"text": text} for text in texts))
    assert scan(tiny_llama, str(text), settings=ScanSettings(samples=9, length=64), show_progress=False).samples == 3


def test_round_trip(tiny_scan, tmp_path):
    path = tmp_path / "scan.json"
    tiny_scan.write(path)
    assert Scan.read(path) == tiny_scan
    document = json.loads(path.read_text())
    assert document["format"] == "regrowth.scan/2"
    assert [len(row) for row in document["distance"]] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert [len(row) for row in document["stderr"]] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert len(document["influence"]) == 8
    assert [b["n"] for b in document["best"]] == list(range(1, 8))
    assert all(b["start"] + b["n"] <= 7 for b in document["best"])
    assert set(document["provenance"]) >= {"model", "text", "seed", "versions", "command"}
    assert document["provenance"]["model"]["shards"]
    assert len(document["provenance"]["text"]["sha256"]) == 64
    with pytest.raises(RegrowthError, match="already exists"):
        tiny_scan.write(path)
    tiny_scan.write(path, overwrite=True)


def test_one_sample_has_null_errors_and_comes_back(tiny_llama, sample_text, tmp_path):
    found = scan(tiny_llama, str(sample_text), settings=ScanSettings(samples=1, length=24), show_progress=False)
    found.write(tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text())["stderr"][0] == [None] * 8
    back = Scan.read(tmp_path / "one.json")
    assert back.distance == found.distance
    assert np.isnan(back.stderr[0]).all()


DAMAGE = {
    "layers: Input should be": lambda d: d.update(layers=0),
    "samples: Input should be": lambda d: d.update(samples=2.5),
    "tokens: Input should be": lambda d: d.update(tokens="first"),
    "distance has 7 rows": lambda d: d["distance"].pop(),
    "distance of size 2 has 6 values": lambda d: d["distance"][1].pop(),
    "distance of size 1, value 3": lambda d: d["distance"][0].__setitem__(3, 1.5),
    "distance.0.0: Input should be": lambda d: d["distance"][0].__setitem__(0, None),
    "distance of size 1, value 1 is nan": lambda d: d["distance"][0].__setitem__(1, float("nan")),
    "stderr of size 8": lambda d: d["stderr"][7].append(0.1),
    "influence: Field required": lambda d: d.pop("influence"),
    "influence.0: Input should be": lambda d: d["influence"].__setitem__(0, "0"),
    "best does not follow": lambda d: d["best"][0].update(start=0 if d["best"][0]["start"] else 1),
    "provenance: Field required": lambda d: d.pop("provenance"),
    "groups.0.starts.0: Input should be": lambda d: d["groups"][0]["starts"].__setitem__(0, 0.5),
    "starts of group first do not fit": lambda d: d["groups"][0]["starts"].__setitem__(0, 7),
    "cka of size 1, value 0 is 1.1": lambda d: d["cka"][0].__setitem__(0, 1.1),
    "magnitude, value 2 is -1": lambda d: d["magnitude"].__setitem__(2, -1),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_scan_is_refused_with_what_is_wrong(words, tiny_scan, tmp_path):
    document = tiny_scan.to_json()
    DAMAGE[words](document)
    path = tmp_path / "scan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=words) as caught:
        Scan.read(path)
    assert str(path) in str(caught.value)


def test_command_writes_the_scan_and_the_figure(tiny_llama, sample_text, tmp_path, monkeypatch):
    monkeypatch.setattr("prune.common.files.resume.EVERY", 0.0)
    out, plot = tmp_path / "deep" / "scan.json", tmp_path / "scan.png"
    options = ["--tokens", "all", "--out", out, "--plot", plot]
    done = succeed("prune", "scan", tiny_llama, "--text", sample_text, *SMALL, *options)
    found = Scan.read(out)
    assert (found.layers, found.samples, found.tokens, found.length) == (8, 6, "all", 24)
    assert plot.read_bytes().startswith(b"\x89PNG")
    best = found.best[3]
    assert f"{best.start}-{best.start + 3}" in done.stdout
    assert f"{best.distance:.4f} ±" in done.stdout
    assert str(out) in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "scan.png"]
    assert [path.name for path in out.parent.iterdir()] == ["scan.json"]


def test_an_existing_out_is_refused_before_any_work_and_replaced_on_request(tiny_llama, sample_text, tmp_path):
    out = tmp_path / "scan.json"
    out.write_text("mine")
    check_refused(
        run("prune", "scan", "no/such-model-anywhere", "--text", sample_text, "--out", out), 1, "already exists"
    )
    assert out.read_text() == "mine"
    options = ["--batch-size", "2", "--out", out, "--overwrite", "--json"]
    done = succeed("prune", "scan", tiny_llama, "--text", sample_text, *SMALL, *options)
    assert json.loads(done.stdout) == Scan.read(out).to_json() == json.loads(out.read_text())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--samples", "0"], 2, "--samples 0"),
        (["--length", "7"], 2, "--length 7"),
        (["--tokens", "first"], 2, "first"),
        (["--batch-size", "0"], 2, "--batch-size 0"),
        (["--batch-size", "many"], 2, "--batch-size many"),
        (["--dtype", "int8"], 2, "--dtype int8"),
        (["--device-map", "auto", "--device", "cpu"], 2, "--device cpu names one device"),
        (["--device", "nowhere"], 1, "--device nowhere"),
        (["--seed", "-1"], 2, "--seed"),
        (["--plot", "map.txt"], 2, "--plot map.txt"),
        (["--field", "body"], 1, "--field"),
        (["--device-map", "nowhere"], 1, "nowhere"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(tiny_llama, sample_text, tmp_path, options, code, words):
    done = run("prune", "scan", tiny_llama, "--text", sample_text, *options, "--out", tmp_path / "scan.json")
    check_refused(done, code, words)
    assert not list(tmp_path.iterdir())


def test_options_are_checked_in_the_library_too():
    for wrong in ({"samples": 0}, {"length": 3}, {"tokens": "first"}, {"batch_size": 0}, {"seed": -1}):
        with pytest.raises(UsageError):
            ScanSettings(**wrong)
