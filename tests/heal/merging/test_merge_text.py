"""The text that a merge measures on: the very rows of the run, or other text by name."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from heal import HealResult, TextSource
from heal.result import HealRecord
from heal.tables import merged
from prune.common.errors import TextError, UsageError
from tests.support.healing import heal_small, merge_quietly


def test_text_that_is_gone(tiny_llama, tmp_path, sample_text, sample_heldout):
    """`auto` goes by what healing measured, else it keeps what was trained; the others name the option."""
    gone = tmp_path / "heldout.jsonl"
    shutil.copy(sample_heldout, gone)
    text = TextSource(str(sample_text), held_out=str(gone), held_out_tokens=128)
    adapter = heal_small(tiny_llama, text, tmp_path / "adapter")
    gone.unlink()
    out = tmp_path / "out"
    for base in ("dequantised", "original"):
        with pytest.raises(UsageError, match="--held-out FILE"):
            merge_quietly(adapter.out, out, base=base)
    assert not out.exists()
    assert "agreement" not in merge_quietly(adapter.out, out, base="original", compare_logits=False)["merge"]
    document = adapter.to_json()
    for number, (original, kept) in enumerate([(99.0, "dequantised"), (0.1, "original"), (None, "dequantised")]):
        document["unquantised"] = {"not_compared": "no room"} if original is None else {"original": original}
        (adapter.out / "heal.json").write_text(json.dumps(document))
        made = merge_quietly(adapter.out, tmp_path / f"by-record-{number}")
        facts, chosen = made["merge"], made["merge"]["chosen"]
        assert facts["base"] == kept
        assert facts["dequantised"] == (56 if kept == "dequantised" else 0)
        assert chosen["by"] == ("default" if original is None else "recorded")
        losses = {"dequantised": document["held_out_loss"]["after"], "original": original}
        assert chosen.get("losses") == (None if original is None else losses)
        words = merged(HealResult(out, HealRecord.parse(made, "heal.json")))
        assert f"kept the {kept} base" in words
        assert f"{gone}, cannot be read" in words
        assert "--held-out FILE gives other text" in words
        assert "agreement" not in facts
    found = merge_quietly(adapter.out, tmp_path / "named", held_out=str(sample_heldout), held_out_tokens=256)
    assert found["merge"]["held_out"]["held_out"]["source"] == str(sample_heldout)
    assert found["merge"]["chosen"]["by"] == "measured"
    with pytest.raises(TextError, match="nowhere.txt does not exist"):
        merge_quietly(adapter.out, tmp_path / "nowhere", held_out="nowhere.txt")


@pytest.mark.parametrize("named", [True, False])
def test_the_rows_of_the_run_are_measured_and_nothing_else_is_read(
    named, tiny_llama, tmp_path, sample_text, sample_heldout, monkeypatch
):
    """As many as the run measured, without the text that was trained on, or a hash of all of it."""
    import heal.text.sources

    trained, measured = (shutil.copy(path, tmp_path) for path in (sample_text, sample_heldout))
    text = TextSource(str(trained), held_out=str(measured) if named else None, held_out_tokens=128)
    adapter = heal_small(tiny_llama, text, tmp_path / "adapter")
    if named:
        Path(trained).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(heal.text.sources, "text_identity", lambda *_: pytest.fail("a whole text was hashed"))
        facts = merge_quietly(adapter.out, tmp_path / "merged", compare_logits=False)["merge"]["held_out"]
    name, provenance = "held_out" if named else "text", adapter.to_json()["provenance"]
    assert facts == {"tokens": adapter.to_json()["held_out"]["tokens"], name: provenance[name]}
    assert adapter.to_json()["held_out"]["limit"] == 128
    more = {"compare_logits": False, "held_out_tokens": 256}
    facts = merge_quietly(adapter.out, tmp_path / "more", **more)["merge"]["held_out"]
    assert facts["tokens"] > adapter.to_json()["held_out"]["tokens"]
    used = Path(measured if named else trained)
    used.write_text("".join(reversed(used.read_text().splitlines(keepends=True))))
    with pytest.raises(UsageError, match=f"{used.name}, has changed since; give other text with --held-out FILE"):
        merge_quietly(adapter.out, tmp_path / "changed", base="original")
    assert not (tmp_path / "changed").exists()
    chosen = merge_quietly(adapter.out, tmp_path / "by-record", compare_logits=False)["merge"]["chosen"]
    assert chosen["by"] == "recorded"
    assert chosen["why"].endswith(f"{used.name}, has changed since; --held-out FILE gives other text")


def test_several_texts_are_measured_together(tiny_llama, tmp_path, sample_text, sample_heldout):
    """As heal.json records them: a list of sources, of each of which a share is held out."""
    text = TextSource((str(sample_text), str(sample_heldout)), held_out_tokens=128)
    adapter = heal_small(tiny_llama, text, tmp_path / "adapter")
    facts = merge_quietly(adapter.out, tmp_path / "merged", base="auto", held_out_tokens=128)["merge"]
    assert facts["held_out"]["tokens"] == adapter.to_json()["held_out"]["tokens"]
    assert [one["source"] for one in facts["held_out"]["text"]] == [str(sample_text), str(sample_heldout)]


def test_memory_that_runs_out_leaves_the_choice_to_the_record(tiny_llama, tmp_path, sample_text, monkeypatch):
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    text = TextSource(str(sample_text), held_out_tokens=128)
    adapter = heal_small(tiny_llama, text, tmp_path / "adapter")
    monkeypatch.setattr("heal.merging.agreement.measure_bases", Mock(side_effect=full))
    facts = merge_quietly(adapter.out, tmp_path / "merged", compare_logits=False)["merge"]
    losses = {name: adapter.to_json()["unquantised"][name] for name in ("dequantised", "original")}
    assert facts["chosen"]["losses"] == losses
    assert facts["base"] == min(losses, key=losses.get)
    assert facts["chosen"]["why"] == "memory ran out when both bases were to be measured"
