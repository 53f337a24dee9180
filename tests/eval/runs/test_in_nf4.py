"""Models judged in NF4, by bitsandbytes itself: kept answers stay apart, and NF4's own loss stands beside the bill."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from eval import sweep
from eval.billing.document import describe_run, read_run, write_run
from eval.comparison import bill_runs, compare, write_comparison
from eval.reports.terminal import run_tables
from eval.reports.wording.weights import weights_line
from eval.runs.run import run
from eval.sweeps.run import _facts, plan_variants
from eval.sweeps.settings import SweepSettings
from heal.models.quantise import load_frozen
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError
from prune.families.subject import open_subject
from prune.models.loading import load_model
from prune.models.whole import load_whole
from tests.support.commands import check_refused
from tests.support.commands import run as run_command

FEW = {"domains": "medical,math", "limit": 2, "sets": ["mmlu"], "chat_template": "off", "show_progress": False}


@pytest.fixture(scope="module")
def ask(sample_questions, short_heldout, tmp_path_factory):
    text = tmp_path_factory.mktemp("prose") / "six.jsonl"
    text.write_text("".join(short_heldout.read_text().splitlines(keepends=True)[:6]))
    return {"data": sample_questions, "text": str(text), **FEW, "max_length": 256, "dtype": "float32"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def packed(tiny_llama, ask, kept):
    """The tiny model in NF4, whose answers are the first that are kept."""
    return run(tiny_llama, label="full", load_in_4bit=True, cache=kept, **ask)


@pytest.fixture(scope="module")
def plain(tiny_llama, ask):
    return run(tiny_llama, label="full", **ask)


def nll(result):
    return [sample.answer_nll_bits for sample in result.samples]


def test_the_model_is_the_one_that_healing_trains_on(tiny_llama):
    source, ids = Source(tiny_llama, "tiny"), torch.arange(40)[None]
    ours = load_whole(source, dtype=torch.float32, device="cpu", load_in_4bit=True)
    with torch.no_grad():
        packed = ours(input_ids=ids).logits
        assert torch.equal(packed, load_frozen(source, bits=4, device="cpu", dtype="float32")(input_ids=ids).logits)
        stored = load_model(source, dtype=torch.float32)(input_ids=ids).logits
    assert (packed - stored).abs().max() > 1e-3
    assert load_whole(source, dtype="auto", device="cpu", load_in_4bit=True).dtype == torch.float32  # its own


def test_answers_and_windows_of_the_two_never_cross(tiny_llama, ask, kept, packed, plain):
    again = run(tiny_llama, load_in_4bit=True, cache=kept, **ask)
    assert (again.asked, nll(again), again.stored_prose) == (0, nll(packed), packed.stored_prose)
    stored = run(tiny_llama, cache=kept, **ask)
    assert stored.known == 0  # windows that were measured together are not those of a run, which are read one by one
    assert nll(stored) == nll(plain) != nll(packed)
    assert stored.prose["held-out"].nats_per_token == pytest.approx(plain.prose["held-out"].nats_per_token, abs=1e-5)
    assert packed.prose != plain.prose
    assert (packed.settings["weights"], plain.settings["weights"]) == ("nf4", "as stored")
    assert plain.stored_prose == {}


def test_the_own_loss_of_nf4_is_the_difference_of_the_two(packed, plain, tmp_path):
    document = describe_run(packed)
    (row,) = document.nf4_loss
    apart = packed.prose["held-out"].nats_per_token - plain.prose["held-out"].nats_per_token
    assert row.difference.estimate == pytest.approx(apart, abs=1e-5)
    assert row.nats_per_token == packed.prose["held-out"].nats_per_token
    line = weights_line(document.to_json())
    assert line.startswith("Weights judged: NF4 (4 bits). NF4 alone changes the loss of full by ")
    assert f"{apart:+.3f}".replace("-", "−") + " nats a token [" in line
    assert weights_line(describe_run(plain).to_json()) == "Weights judged: as stored."
    assert run_tables(document.to_json()) is not None
    write_run(packed, tmp_path / "one")
    assert read_run(tmp_path / "one").stored_prose == packed.stored_prose
    samples = next((tmp_path / "one").glob("samples_*"))
    samples.write_text("5\n")
    with pytest.raises(RegrowthError, match="one is not a whole run .*line 1 is no object"):
        read_run(tmp_path / "one")


def test_layer_by_layer_from_the_files_gives_the_same(tiny_llama, ask, packed, monkeypatch):
    monkeypatch.setattr("prune.models.walks.layer_files.fits", lambda *_: False)
    streamed = run(tiny_llama, load_in_4bit=True, **ask)
    for one, other in zip(
        streamed.stored_prose["held-out"].windows, packed.stored_prose["held-out"].windows, strict=True
    ):
        assert one.nats == pytest.approx(other.nats, abs=1e-4 * one.tokens)


def test_what_cannot_be_measured_is_a_note_and_loses_no_answer(tiny_llama, ask, packed, monkeypatch):
    def broken(*_):
        raise RegrowthError("no room")

    monkeypatch.setattr("prune.models.walks.layer_files.fits", broken)
    asked = run(tiny_llama, load_in_4bit=True, **ask)
    assert asked.notes == ("what NF4 alone costs could not be measured (no room)",)
    assert nll(asked) == nll(packed)
    assert "was not measured." in weights_line(describe_run(asked).to_json())


def test_a_comparison_tells_which_weights_it_judged(tiny_llama, ask, kept, packed, plain, tmp_path):
    found = compare(
        tiny_llama, [tiny_llama], out=tmp_path / "bill", labels=["full", "same"], load_in_4bit=True, cache=kept, **ask
    ).to_json()
    assert [row["model"] for row in found["nf4_loss"]] == ["full"]
    assert [model["settings"]["weights"] for model in found["models"]] == ["nf4", "nf4"]
    assert not any("weights" in line for line in found["warnings"])
    line = weights_line(found)
    assert line in (tmp_path / "bill" / "comparison.md").read_text()
    assert line in (tmp_path / "bill" / "report.html").read_text()
    assert json.loads((tmp_path / "bill" / "comparison.json").read_text()) == found

    mixed = bill_runs([plain, replace(packed, label="packed")])
    assert any(
        line.startswith("not the same weights for all models: as stored (full), nf4 (") for line in mixed.warnings
    )
    assert weights_line(mixed.to_json()) == "Weights judged: as stored (full), NF4 (4 bits) (packed)."
    write_comparison(mixed, [plain, replace(packed, label="packed")], tmp_path / "mixed")


def test_a_sweep_walks_the_same_weights(tiny_llama, ask, packed, tmp_path):
    how = {"sizes": "0-2", "starts": "deepest", "load_in_4bit": True, **ask}
    found = sweep(tiny_llama, out=tmp_path / "sweep", **how).to_json()
    assert (found["settings"]["weights"], found["how"]["path"]) == ("nf4", "tree")
    full = {row["domain"]: row["answer_nll_bits"]["estimate"] for row in found["rows"] if row["size"] == 0}
    wanted = {row.domain: row.answer_nll_bits for row in describe_run(packed).rows}
    assert full == pytest.approx(wanted, abs=2e-4)
    (row,) = found["nf4_loss"]
    assert row["difference"]["estimate"] == pytest.approx(
        describe_run(packed).nf4_loss[0].difference.estimate, abs=1e-4
    )
    assert weights_line(found) in (tmp_path / "sweep" / "report.html").read_text()


def test_kept_work_of_a_sweep_is_of_its_weights(tiny_llama, sample_questions):
    settings = SweepSettings.of(data=sample_questions, domains="math", sizes="0-1", starts="deepest")
    plan, _ = plan_variants(open_subject(tiny_llama), settings)
    facts = [
        _facts({"content_sha256": "x"}, [], plan, [], some) for some in (settings, replace(settings, load_in_4bit=True))
    ]
    assert facts[0] != facts[1]


@pytest.fixture(scope="module")
def quantised(tiny_llama, tmp_path_factory):
    """A model whose config says so."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("quantised") / "model")
    config = json.loads((folder / "config.json").read_text())
    kind = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": kind}))
    return folder


def test_a_second_model_that_is_quantised_already_is_refused_before_the_first_runs(
    tiny_llama, quantised, ask, tmp_path, monkeypatch
):
    monkeypatch.setattr("eval.comparison.run", lambda *_, **__: pytest.fail("a model was asked"))
    models = {"full": tiny_llama, "others": [quantised]}
    with pytest.raises(CheckpointError, match="model is stored quantised already; leave out --load-in-4bit"):
        compare(**models, out=tmp_path / "bill", load_in_4bit=True, **ask)


def test_a_checkpoint_that_is_quantised_already_is_refused(quantised):
    with pytest.raises(CheckpointError, match="is stored quantised already; leave out --load-in-4bit"):
        load_whole(Source(quantised, "packed"), dtype=torch.float32, device="cpu", load_in_4bit=True)


@pytest.mark.parametrize("command", ["run", "compare", "sweep", "depth"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--load-in-4bit", "--backend", "vllm"], "--load-in-4bit is of transformers; leave out --backend vllm"),
        (["--device-map", "auto", "--backend", "vllm"], "--device-map is of transformers"),
        (["--device-map", "auto"], "--device-map auto spreads a model over GPUs, and there are 0; leave it out"),
        (["--device-map", "balanced"], "--device-map balanced is unknown"),
        (["--device-map", "auto", "--device", "cpu"], "takes all GPUs, and --device cpu names one device"),
    ],
)
def test_what_does_not_go_together_is_refused(
    command, options, message, tiny_llama, sample_questions, tmp_path, monkeypatch
):
    monkeypatch.setattr("prune.models.spread.gpus", list)
    models = [tiny_llama, tiny_llama] if command == "compare" else [tiny_llama]
    out = tmp_path / "out"
    asked = ["--data", sample_questions, "--domains", "math", "--out", out]
    if (command == "depth" and "--device-map" in options) or (command in ("sweep", "depth") and "--backend" in options):
        message = "No such option"  # of transformers and one device alone
        assert message in run_command("evaluate", command, *models, *asked, *options).stderr
    else:
        check_refused(run_command("evaluate", command, *models, *asked, *options), 2, message)
    assert not out.exists()
