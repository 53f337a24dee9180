"""Kept answers: none is asked twice, none crosses models or settings, and a killed run goes on where it stopped."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from eval.asking.asker import Asker
from eval.asking.cache import AnswerStore, format_line, parse_line, request_key
from eval.comparison import compare
from eval.gains.settings import GainsSettings
from eval.runs.run import run
from prune.checkpoint.identity import content_sha256
from prune.common.errors import RegrowthError
from prune.common.screen.terminal import Progress
from tests.support.models import changed

FEW = {"domains": "medical,math", "limit": 5, "sets": ["mmlu", "asdiv"], "chat_template": "off", "show_progress": False}
REQUESTS = 5 * 4 + 5 * 4 + 5 * 2


@pytest.fixture(scope="module")
def twin(tiny_llama, tmp_path_factory):
    """The tiny model with one weight changed, far from the start of its tensor: the same shapes, names and header."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("twin") / "llama")
    with changed(folder) as model:
        model.model.embed_tokens.weight[7000] += 1.0
        model.model.layers[7].mlp.down_proj.weight[-1] += 1.0
    return folder


def _scores(found):
    return [(s.id, s.correct, s.answer_nll_bits, s.response) for s in found.samples]


def test_a_second_run_asks_nothing_and_gives_the_same(tiny_llama, sample_questions, short_heldout, tmp_path):
    ask = {"data": sample_questions, "text": str(short_heldout), **FEW}
    plain = run(tiny_llama, **ask)
    first = run(tiny_llama, cache=tmp_path / "kept", **ask)
    again = run(tiny_llama, cache=tmp_path / "kept", **ask)
    windows = len(first.prose["held-out"].windows)
    assert (first.asked, first.known) == (REQUESTS + windows, 0)
    assert (again.asked, again.known, again.tokens) == (0, REQUESTS + windows, 0)
    assert _scores(plain) == _scores(first) == _scores(again)
    assert plain.prose == first.prose == again.prose
    assert first.settings == again.settings
    assert first.harness["results"] == again.harness["results"]


def test_more_questions_ask_only_those_that_are_new(tiny_llama, sample_questions, tmp_path):
    ask = {"data": sample_questions, "cache": tmp_path, **FEW}
    run(tiny_llama, **ask)
    more = run(tiny_llama, **{**ask, "limit": 7})
    assert (more.asked, more.known) == (2 * 4 + 2 * 4 + 2 * 2, REQUESTS)


def test_a_second_compare_runs_only_the_new_model(tiny_llama, twin, sample_questions, tmp_path):
    ask = {"data": sample_questions, "cache": tmp_path / "kept", **FEW}
    run(tiny_llama, **ask)
    found = compare(tiny_llama, [twin], out=tmp_path / "bill", labels=["full", "twin"], **ask).to_json()
    measured = [(m["model"], m["asked"], m["known"]) for m in found["measured"]]
    assert measured == [("full", 0, REQUESTS), ("twin", REQUESTS, 0)]
    one, other = found["models"]
    assert one["shards"] == other["shards"]
    assert one["content_sha256"] == content_sha256(tiny_llama) != other["content_sha256"] == content_sha256(twin)


def test_answers_never_cross_models(tiny_llama, twin, sample_questions, tmp_path):
    header = [(folder / "model.safetensors").read_bytes()[:2000] for folder in (tiny_llama, twin)]
    assert header[0] == header[1]  # what a hash of shapes, or of each tensor's start, would take for the same
    ask = {"data": sample_questions, **FEW}
    full = run(tiny_llama, cache=tmp_path, **ask)
    kept, plain = run(twin, cache=tmp_path, **ask), run(twin, **ask)
    assert kept.known == 0
    assert _scores(kept) == _scores(plain) != _scores(full)
    moved = shutil.copytree(tiny_llama, tmp_path / "moved" / "other-name")
    assert run(moved, cache=tmp_path, **ask).asked == 0  # the content counts, not the name


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"max_length": 96}, {"few_shot": 2}], ids=str)
def test_answers_never_cross_settings(tiny_llama, sample_questions, tmp_path, change):
    ask = {"data": sample_questions, **FEW, "domains": "math", "limit": 2, "cache": tmp_path}
    first, changed = run(tiny_llama, **ask), run(tiny_llama, **{**ask, **change})
    assert changed.known == 0
    assert _scores(changed) != _scores(first)


def test_answers_of_a_machine_with_another_auto_dtype_are_asked_anew(
    tiny_llama, sample_questions, tmp_path, monkeypatch
):
    """`auto` is bfloat16 where products in it are fast; machines may share one folder of answers."""
    ask = {"data": sample_questions, **FEW, "domains": "math", "limit": 2, "cache": tmp_path}
    monkeypatch.setattr("prune.models.precision.multiplies_bfloat16", lambda device: False)
    run(tiny_llama, **ask, dtype="auto")
    assert run(tiny_llama, **ask, dtype="float32").asked == 0  # what auto was there
    monkeypatch.setattr("prune.models.precision.multiplies_bfloat16", lambda device: True)
    assert run(tiny_llama, **ask, dtype="auto").known == 0


def test_a_changed_tokenizer_is_another_model(tiny_llama, sample_questions, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    before = content_sha256(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_prefix_space": True}))
    assert content_sha256(folder) != before
    (folder / "README.md").write_text("words")
    (folder / "prune_plan.json").write_text("{}")
    changed = content_sha256(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert content_sha256(tmp_path / "copy") == changed


def test_the_memo_of_hashes_is_never_stale(tiny_llama, tmp_path):
    folder, memo = shutil.copytree(tiny_llama, tmp_path / "model"), tmp_path / "hashes.json"
    path = folder / "model.safetensors"
    time.sleep(2.1)
    first = content_sha256(folder, memo=memo)
    assert first == content_sha256(folder) == content_sha256(folder, memo=memo)
    assert str(path) in memo.read_text()
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size, inode and time of modification
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert content_sha256(folder, memo=memo) == content_sha256(folder) != first
    memo.write_text("no json")
    assert content_sha256(folder, memo=memo) == content_sha256(folder)


def test_a_killed_run_goes_on_where_it_stopped(tiny_llama, sample_questions, tmp_path):
    ask = {"data": str(sample_questions), **FEW, "limit": 12, "batch_size": 2}
    kept = tmp_path / "kept"
    code = textwrap.dedent(f"""
        import os, signal
        from eval.asking.cache import AnswerStore
        add, count = AnswerStore.add, 0
        def counted(self, key, value, rows=None):
            global count
            add(self, key, value, rows)
            count += 1
            if count == 40:  # a request for death in the middle of the questions
                os.kill(os.getpid(), signal.SIGKILL)
        AnswerStore.add = counted
        from eval.runs.run import run
        run({str(tiny_llama)!r}, cache={str(kept)!r}, **{ask!r})
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (file,) = kept.glob("*/answers.jsonl")
    with open(file, "ab") as torn:
        torn.write(format_line("torn", [1.0, True, False])[:20])  # and the line it was writing
    resumed, whole = run(tiny_llama, cache=kept, **ask), run(tiny_llama, **ask)
    assert resumed.known == 39  # the fortieth line holds what loading settled
    assert resumed.asked == whole.asked - 39
    for found, wanted in zip(resumed.samples, whole.samples, strict=True):  # batches differ, and so do last digits
        assert found.answer_nll_bits == pytest.approx(wanted.answer_nll_bits, abs=1e-3)
        assert (found.id, found.correct, found.response) == (wanted.id, wanted.correct, wanted.response)
    known = run(tiny_llama, cache=kept, **{**ask, "batch_size": 5})
    assert (known.asked, known.settings["batch_size"]) == (0, 2)  # that of the run that asked


def test_answers_of_several_batch_sizes_are_told_apart(tiny_llama, twin, sample_questions, short_heldout, tmp_path):
    """The record counts them, and the bill warns, but for float32, where last digits tip no answer."""
    ask = {"data": sample_questions, "cache": tmp_path / "kept", "text": str(short_heldout), **FEW, "dtype": "bfloat16"}
    first = run(tiny_llama, batch_size=2, **ask)
    assert (first.settings["batch_size"], "batch_sizes" in first.settings) == (2, False)
    more = run(tiny_llama, batch_size=5, **{**ask, "limit": 7})
    assert more.settings["batch_size"] == 2  # of most
    assert more.settings["batch_sizes"] == {"2": REQUESTS, "5": more.asked}  # windows are asked one by one
    (file,) = tmp_path.glob("kept/*/answers.jsonl")
    old = [parse_line(line) for line in file.read_bytes().splitlines()]
    file.write_bytes(b"".join(format_line(key, value) for key, value, _ in old))  # as kept before sizes were
    unknown = run(tiny_llama, batch_size=5, **ask)
    assert (unknown.asked, "batch_sizes" in unknown.settings) == (0, False)

    def warned(**how):
        out = tmp_path / f"bill-{'-'.join(map(str, how.values()))}"
        labels = {"labels": ["full", "twin"], "noise": False, "gains": GainsSettings(gains=False), "out": out}
        found = compare(tiny_llama, [twin], **labels, **{**ask, **how})
        return [line for line in found.warnings if "batch_size" in line]

    run(twin, batch_size=5, **ask)
    assert warned(batch_size=5, cache=None) == []
    file.unlink()
    run(tiny_llama, batch_size=2, **ask)
    assert warned(batch_size=5) == [
        "not the same batch_size for all answers: 2 (full), 5 (twin); a part of the differences may be its"
    ]
    run(tiny_llama, batch_size=2, **{**ask, "dtype": "float32"})
    assert warned(batch_size=5, dtype="float32") == []


def test_the_batch_size_that_memory_left_is_kept(tmp_path):
    """Planted: a model that began with 8 at a time and went on with 2."""

    class Model:
        tokens, notes, now = 0, (), 8

        def set_cache_hook(self, hook):
            pass

        @property
        def facts(self):
            return {"dtype": "float32", "batch_size": self.now}

    for size in (8, 2):
        answers = AnswerStore(tmp_path / str(size), {})
        asker = Asker(Model, None, answers, max_length=8, scored=8, bar=Progress())
        asker.model.now = size
        asker.close()
        answers.close()
        kept = AnswerStore(tmp_path / str(size), {})
        assert Asker(None, None, kept, max_length=8, scored=8, bar=Progress()).rows == size


def test_lines_that_are_cut_or_damaged_are_passed_over(tmp_path):
    scope = {"model": "m"}
    answers = AnswerStore(tmp_path, scope)
    for i in range(3):
        answers.add(f"k{i}", [float(i), True, False])
    answers.add("k0", [9.0, True, False])  # the first answer stays
    answers.add("nan", [float("nan"), True, False])
    answers.close()
    (file,) = tmp_path.glob("*/answers.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    damaged = bytearray(lines[1])
    damaged[20] ^= 1
    file.write_bytes(lines[0] + bytes(damaged) + b"\xff\xfe\n\n" + lines[2][:-5])
    again = AnswerStore(tmp_path, scope)
    assert again["k0"] == [0.0, True, False]
    assert all(key not in again for key in ("k1", "k2", "nan"))
    again.add("k2", [2.0, True, False])
    again.close()
    assert AnswerStore(tmp_path, scope)["k2"] == [2.0, True, False]
    assert "k0" not in AnswerStore(tmp_path, {"model": "n"})
    line = format_line("k", ["ü\ud800\n", False])
    assert line.count(b"\n") == 1
    assert parse_line(line.rstrip(b"\n")) == ("k", ["ü\ud800\n", False], None)
    assert parse_line(format_line("k", [1.0], 8).rstrip(b"\n")) == ("k", [1.0], 8)


def test_the_key_of_a_request_is_all_that_is_asked():
    settings = {"until": ["\n"], "max_gen_toks": 16, "do_sample": False}
    keys = {
        request_key("loglikelihood", ("a", "b")),
        request_key("loglikelihood", ("ab", "")),
        request_key("loglikelihood_rolling", ("a", "b")),
        request_key("generate_until", ("a", settings)),
        request_key("generate_until", ("a", {**settings, "max_gen_toks": 17})),
    }
    assert len(keys) == 5
    assert request_key("generate_until", ("a", dict(reversed(settings.items())))) in keys


def test_an_answer_goes_to_the_file_whole_and_a_full_disk_is_one_line(tmp_path, monkeypatch):
    answers, write, room = AnswerStore(tmp_path, {}), os.write, [60]

    def piecewise(file, content):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(file, content[: min(7, room[0])])
        room[0] -= count
        return count

    monkeypatch.setattr("os.write", piecewise)
    answers.add("k0", [1.0, True, False])
    with pytest.raises(RegrowthError, match=f"--cache {tmp_path} takes no more answers .No space left.*--no-cache"):
        answers.add("k1", "a longer answer, of which a part fits")
    monkeypatch.undo()
    again = AnswerStore(tmp_path, {})
    assert "k0" in again
    assert "k1" not in again
    again.add("k1", "one more")
    assert AnswerStore(tmp_path, {})["k1"] == "one more"


def test_a_cache_that_cannot_be_written_is_one_line(tiny_llama, sample_questions, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegrowthError, match="--cache .* cannot be used"):
        run(tiny_llama, data=sample_questions, cache=tmp_path / "file", **FEW)
