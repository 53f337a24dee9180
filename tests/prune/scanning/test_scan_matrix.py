"""The scan of the real sample: paddings and batches against plain float64; models in several places."""

import json
from dataclasses import replace

import pytest
import torch

from prune.checkpoint.source import locate
from prune.models.loading import load_model, load_tokenizer
from prune.models.walks.hooks import decoder_of, watching
from prune.scanning.angles import rows
from prune.scanning.result import Scan
from prune.scanning.scan import scan
from prune.scanning.settings import ScanSettings
from prune.scanning.states import BatchStates
from prune.text.documents import read_documents
from prune.text.windows import draw_windows
from tests.support.commands import check_refused, run, succeed
from tests.support.models import save_tiny
from tests.support.states import apart, padded_states, plain_distances, plain_states
from tests.support.versions import needs_newer_transformers

LENGTHS = (11, 26, 17, 22)


@pytest.fixture(scope="module")
def sample(sample_model, sample_text):
    """The real model in float32, and windows of unlike lengths."""
    source = locate(sample_model)
    drawn = draw_windows(
        read_documents(str(sample_text)), load_tokenizer(source), samples=len(LENGTHS), length=max(LENGTHS), seed=5
    )
    windows = [window[:length] for window, length in zip(drawn, LENGTHS, strict=True)]
    return load_model(source, dtype=torch.float32), windows


def padded(windows, side):
    width = max(map(len, windows))
    ids, mask = torch.full((len(windows), width), 2), torch.zeros(len(windows), width, dtype=torch.long)
    for row, window in enumerate(windows):
        part = slice(width - len(window), None) if side == "left" else slice(0, len(window))
        ids[row, part], mask[row, part] = torch.tensor(window), 1
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_padding_gives_the_angles_of_its_states(sample, side):
    """The same padded batches once through the hooks and once without: equal to rounding."""
    model, windows = sample
    states, totals = [], {"last": [], "all": []}
    for first, last in ((0, 3), (3, 4)):
        ids, mask = padded(windows[first:last], side)
        states += padded_states(model, ids, mask)
        for tokens, kept in totals.items():
            with torch.no_grad(), watching(model) as watch:
                batch = BatchStates(mask.bool(), range(first, last), layers=30, tokens=tokens)
                watch.receive = batch.receive
                decoder_of(model)(ids, attention_mask=mask, use_cache=False)
                result = batch.result()
            kept.append((result.totals.sum(0), result.weights.sum()))
    for tokens, kept in totals.items():
        mean = sum(total for total, _ in kept) / sum(weight for _, weight in kept)
        assert apart(rows(mean, 30), plain_distances(states, tokens)) < 1e-7, tokens
    alone = [plain_states(model, window) for window in windows]
    # The padding leaves the states what they are.
    assert apart(plain_distances(states, "last"), plain_distances(alone, "last")) < 1e-5


def places(where, layers=8):
    """A device map: embedding, then every layer, by `where(module)`."""
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    return {name: where(name) for name in [*names, *(f"model.layers.{i}" for i in range(layers))]}


@pytest.fixture(scope="module")
def in_one_place(tiny_llama, sample_text):
    """Settings and scan, by `tokens`."""
    made = {}
    for tokens in ("last", "all"):
        settings = ScanSettings(samples=6, length=24, tokens=tokens)
        made[tokens] = settings, scan(tiny_llama, str(sample_text), settings=settings, show_progress=False)
    return made


HALF = places(lambda name: "disk" if name[-1] in "4567" else "cpu")
EMBEDDING = places(lambda name: "disk" if name[-1] in "0246" or "embed" in name or "head" in name else "cpu")


@pytest.mark.parametrize(
    ("device_map", "tokens"),
    [({"": "cpu"}, "last"), ("balanced", "last"), (HALF, "last"), (HALF, "all"), (EMBEDDING, "all")],
    ids=["one place", "balanced", "half on disk", "half on disk, all tokens", "embedding on disk"],
)
def test_a_model_in_several_places_gives_the_same_numbers(tiny_llama, sample_text, in_one_place, device_map, tokens):
    """accelerate's own dispatch, as for several GPUs: weights on two kinds of device, states moved along."""
    if device_map != "balanced" and device_map.get("model.embed_tokens") == "disk":
        needs_newer_transformers("mixes up weights where the embedding lies on the disk")
    settings, whole = in_one_place[tokens]
    split = replace(settings, device_map=device_map)
    parts = scan(tiny_llama, str(sample_text), settings=split, show_progress=False)
    assert apart(parts.distance, whole.distance) < 1e-6
    assert apart([parts.influence], [whole.influence]) < 1e-6
    assert parts.provenance["token_count"] == whole.provenance["token_count"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_two_gpus_gives_the_numbers_of_one(sample_model, sample_text):
    settings = ScanSettings(samples=6, length=48, dtype="float32", device="cuda:0")
    split = places(lambda name: int(name[-1].isdecimal() and int(name.rpartition(".")[2]) >= 15), layers=30)
    whole = scan(sample_model, str(sample_text), settings=settings, show_progress=False)
    for device_map in (split, "balanced"):
        settings = replace(settings, device="auto", device_map=device_map)
        parts = scan(sample_model, str(sample_text), settings=settings, show_progress=False)
        assert apart(parts.distance, whole.distance) < 1e-5


def test_a_length_beyond_the_context_is_said_and_not_only_lowered(tiny_llama, sample_text, tmp_path):
    command = ["prune", "scan", tiny_llama, "--text", sample_text, "--samples", "3"]
    said = " ".join(succeed(*command, "--length", "600", "--out", tmp_path / "long.json").stderr.split())
    assert "The model reads 512 tokens at most" in said
    assert "--length 600" in said
    assert Scan.read(tmp_path / "long.json").length == 512
    assert "tokens at most" not in succeed(*command, "--length", "64", "--out", tmp_path / "short.json").stderr


def test_a_figure_that_cannot_be_drawn_leaves_no_scan_behind(tiny_llama, sample_text, tmp_path):
    """A model of one layer has no block; scanned alone it is fine."""
    model = save_tiny(tmp_path / "one", tiny_llama, layers=1)
    out = tmp_path / "out" / "scan.json"
    command = ["prune", "scan", model, "--text", sample_text, "--samples", "3", "--length", "24", "--out", out]
    refused = run(*command, "--plot", tmp_path / "out" / "scan.png")
    check_refused(refused, 2, "a model of one layer has no block to draw")
    assert not out.parent.exists()
    assert json.loads(succeed(*command, "--json").stdout)["layers"] == 1
