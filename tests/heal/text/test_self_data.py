"""Text that the full model writes for its own healing: what it is asked, what is kept, and a run that goes on."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import heal.models.quantise
import prune.writing.writers
from heal import TextSource
from heal.models.quantise import load_frozen
from heal.text.responses import asked_prompts, read_prompts, write_responses
from heal.text.sources import hold_out
from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError, TextError, UsageError
from prune.common.machine.stopping import Interrupted
from prune.models.generation import _up_to_end
from prune.models.loading import load_tokenizer
from prune.text.windows import encode
from prune.writing import writers
from prune.writing.writers import Writer, transformers_writer, vllm_limit
from tests.support.chats import PLAIN, chat
from tests.support.checkpoints import same_weights
from tests.support.healing import PATCHED, changed_copy, distil_tiny, patched_copy
from tests.support.healing_steps import signal_in_step
from tests.support.texts import write_jsonl

STUB = Path(__file__).parents[2] / "support" / "stub_vllm"
_SELF = {"accumulate": 1, "bits": 16, "targets": "after-cut", "teacher_data": "self", "response_tokens": 8}


@pytest.fixture(scope="module")
def passages(sample_text, tmp_path_factory):
    """The first of the sample's passages: enough for all that is written here, and soon read."""
    path = tmp_path_factory.mktemp("passages") / "text.jsonl"
    path.write_text("".join(sample_text.read_text().splitlines(keepends=True)[:1000]))
    return path


@pytest.fixture(scope="module")
def text(passages, sample_heldout):
    return TextSource(str(passages), held_out=str(sample_heldout), held_out_tokens=512)


def test_responses_of_the_full_model(tiny_llama, pruned, text, tmp_path):
    questions = tmp_path / "questions.jsonl"
    write_jsonl(questions, ({"prompt": f"What is {i} times seven?"} for i in range(300)))
    settings = {"teacher_data": "self", "response_tokens": 12, "targets": "after-cut"}
    results = [
        distil_tiny(tiny_llama, pruned, text, tmp_path / name, tokens=512, prompts=prompts, **settings)
        for name, prompts in (("openings", None), ("asked", str(questions)))
    ]
    lines = [(result.out / "responses.jsonl").read_text() for result in results]
    for written, result in zip(lines, results, strict=True):
        rows = [json.loads(line) for line in written.splitlines()]
        assert all(row["text"] == row["prompt"] + row["answer"] for row in rows)
        assert all(1 <= row["tokens"] <= 12 for row in rows)
        assert result.to_json()["responses"]["responses"] == len(rows)
        assert result.to_json()["responses"]["tokens"] == sum(row["tokens"] for row in rows)
    asked = json.loads(lines[1].splitlines()[0])
    assert "times seven?" in asked["prompt"]
    assert "user" in asked["prompt"]  # the tokenizer's chat template
    questions.write_text('{"prompt": "What is seven times seven?"}\n')
    with pytest.raises(TextError, match=r"the prompts gave [0-9]+ of the 5\d\d tokens"):
        distil_tiny(tiny_llama, pruned, text, tmp_path / "few", tokens=512, prompts=str(questions), **settings)
    assert not (tmp_path / "few").exists()


def test_what_is_measured_is_no_prompt_and_texts_take_turns(tiny_llama, tmp_path):
    """Held-out and domain texts that are part of the text, and a longer text beside a shorter one."""
    files = {}
    for name, count in (("news", 40), ("notes", 8), ("asked", 30)):
        lines = [f"{name} number {i} is about what happened on day {i} of the long year" for i in range(count)]
        files[name] = tmp_path / f"{name}.jsonl"
        write_jsonl(files[name], ({"text": line, "prompt": line} for line in lines))
    for name, source, count in (("held", "news", 12), ("domain", "notes", 6)):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(files[source].read_text().splitlines(keepends=True)[:count]))
    tokenizer = load_tokenizer(Source(tiny_llama, "tiny"))
    text = TextSource(
        (str(files["news"]), str(files["notes"])),
        held_out=str(files["held"]),
        domains=(("notes", str(files["domain"])),),
    )
    held_out = hold_out(text, tokenizer, length=64)
    found = [prompt.text.split()[0::2][:2] for prompt in read_prompts(tokenizer, text, None, held_out, seed=0)]
    numbers = {name: [int(number) for source, number in found if source == name] for name in ("news", "notes")}
    assert sorted(numbers["news"]) == list(range(12, 40))
    assert sorted(numbers["notes"]) == [6, 7]
    assert [source for source, _ in found] == ["news", "notes"] * 2 + ["news"] * 26
    assert numbers["news"] != sorted(numbers["news"])
    text = TextSource(str(files["news"]), held_out=str(files["held"]), domains=(("asked", str(files["asked"])),))
    few = replace(text, held_out_tokens=100)  # measures some of what is asked, and not the rest
    held_out = hold_out(few, tokenizer, length=64)
    asked = list(read_prompts(tokenizer, few, str(files["asked"]), held_out, seed=0))
    measured = sum(held_out.holds(json.loads(line)["prompt"]) for line in files["asked"].read_text().splitlines())
    assert 0 < measured < 30
    assert len(asked) == 30 - measured


def test_chats_that_are_measured_are_no_prompts_and_a_template_that_will_not_do_is_found_at_once(tiny_llama, tmp_path):
    def rows(answer, numbers):
        return [{"messages": chat(f"What happened on day {i} of the year?", answer)} for i in numbers]

    talk = write_jsonl(tmp_path / "talk.jsonl", rows("Nothing at all, as far as is known.", range(20)))
    held = write_jsonl(tmp_path / "held.jsonl", rows("A day that nobody has forgotten since.", range(12)))
    tokenizer = load_tokenizer(Source(tiny_llama, "tiny"))
    text = TextSource(str(talk), held_out=str(held))
    held_out = hold_out(text, tokenizer, length=64)
    asked = [list(read_prompts(tokenizer, text, prompts, held_out, seed=0)) for prompts in (None, str(talk))]
    for found in asked:
        days = sorted(int(prompt.messages[0]["content"].split()[4]) for prompt in found)
        assert days == list(range(12, 20))  # the others are measured, with another answer
    tokenizer.chat_template = PLAIN.replace("assistant\n", "assistant\n<think>")
    with pytest.raises(TextError, match="without the words by which it asks for an answer"):
        next(read_prompts(tokenizer, text, None, held_out, seed=0))
    assert next(read_prompts(tokenizer, replace(text, loss_on="all"), None, held_out, seed=0))


def test_where_memory_runs_out_half_as_many_are_written_at_a_time(tiny_llama, tmp_path, monkeypatch):
    source = Source(tiny_llama, "tiny")
    teacher, tokenizer = load_frozen(source, bits=16, device="cpu"), load_tokenizer(source)
    write, sizes = writers.write_answers, []

    def narrow(model, tokenizer, prompts, most, seed, sampling):
        sizes.append(len(prompts))
        if len(prompts) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return write(model, tokenizer, prompts, most, seed, sampling)

    monkeypatch.setattr(writers, "write_answers", narrow)
    writer = transformers_writer(teacher, tokenizer)
    prompts = [tuple(encode(tokenizer, f"Name the number {i}.")) for i in range(11)]
    answers = writer.write(prompts, 4, 3)
    assert sizes == [11, 5, 6, 3, 3]
    assert len(answers) == 11
    assert answers[:5] == write(teacher, tokenizer, prompts[:5], 4, 3)
    assert answers[8:] != write(teacher, tokenizer, prompts[8:], 4, 3)  # drawn by other numbers
    monkeypatch.setattr(writers, "write_answers", lambda *_: [][1])
    with pytest.raises(IndexError):
        writer.write(prompts, 4, 3)


def test_a_run_that_goes_on_writes_as_many_at_a_time_as_it_was_begun_with(tiny_llama, tmp_path):
    tokenizer, asked = load_tokenizer(Source(tiny_llama, "tiny")), []

    def stopped(prompts, most, seed):
        asked.append([tokenizer.decode(list(prompt)) for prompt in prompts])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return [list(prompt)[-3:] for prompt in prompts]

    how = {"tokens": 400, "response_tokens": 8, "seed": 0}
    for at_once in (4, 16):  # more memory is free the second time
        prompts = asked_prompts(tokenizer, iter([f"Name the number {i}." for i in range(60)]))
        writer = Writer(stopped, [], None, at_once)
        try:
            write_responses(writer, tokenizer, prompts, tmp_path / "responses.jsonl", **how)
        except KeyboardInterrupt:
            assert (tmp_path / "responses.rows").read_text() == "4\n"
    assert {len(batch) for batch in asked} == {4}
    assert asked[3] == asked[1]  # the last one that was written may not be whole
    assert asked[4] == asked[2]
    assert [path.name for path in tmp_path.iterdir()] == ["responses.jsonl"]


def test_responses_follow_the_seed_and_end_where_the_model_ends(tiny_llama, tmp_path):
    source = Source(tiny_llama, "tiny")
    teacher, tokenizer = load_frozen(source, bits=16, device="cpu"), load_tokenizer(source)
    with torch.no_grad():  # a model that ends often
        teacher.model.norm.weight.zero_()
    written, writer = [], transformers_writer(teacher, tokenizer)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prompts = asked_prompts(tokenizer, iter([f"Name the number {i}." for i in range(24)]))
        write_responses(writer, tokenizer, prompts, tmp_path / name, tokens=500, response_tokens=8, seed=seed)
        written.append((tmp_path / name).read_text())
    assert written[0] == written[1]
    assert written[0] != written[2]
    prompt = next(asked_prompts(tokenizer, iter(["Name it."])))
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name it."}], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(prompt.ids) == rendered  # the template's own BOS, once
    assert _up_to_end([5, 6, 2, 7, 2], [2]) == [5, 6, 2]
    assert _up_to_end([5, 6], [2]) == [5, 6]


def test_a_stopped_run_goes_on_with_the_responses_it_has(tiny_llama, pruned, text, tmp_path, monkeypatch):
    """With dropout and its own text: the adapter ends as that of a run left alone."""

    def run(name, **running):
        run = {"save_every": 1, **running}
        return distil_tiny(tiny_llama, pruned, text, tmp_path / name, tokens=512, run=run, **_SELF)

    alone = run("alone")
    signal_in_step(2, signal.SIGINT, monkeypatch)
    with pytest.raises(Interrupted):
        run("stopped")
    (kept,) = tmp_path.glob(".stopped.*/responses.jsonl")
    assert kept.read_text() == (alone.out / "responses.jsonl").read_text()
    resumed = run("stopped", resume=True)
    assert resumed.to_json()["resumed"]
    assert same_weights(alone.out, resumed.out)
    assert (resumed.out / "responses.jsonl").read_text() == (alone.out / "responses.jsonl").read_text()
    assert resumed.to_json()["responses"] == alone.to_json()["responses"]


def test_responses_are_kept_from_the_first_batch_on(tiny_llama, pruned, passages, tmp_path, monkeypatch):
    """A run that fails in the third batch, a file that breaks off, and a run that fails before its first checkpoint."""
    lines = passages.read_text().splitlines(keepends=True)
    held, few = tmp_path / "held.jsonl", tmp_path / "few.jsonl"
    held.write_text("".join(lines[:3]))  # all measured, and part of the text: none of it may become a prompt
    few.write_text("".join(lines[:100]))
    text = TextSource(str(few), held_out=str(held), held_out_tokens=512)

    def run(name, *, resume=False, overwrite=False, **changes):
        run, out = {"resume": resume, "overwrite": overwrite}, tmp_path / name
        return distil_tiny(tiny_llama, pruned, text, out, tokens=1600, run=run, **_SELF, **changes)

    alone = run("alone")
    written = (alone.out / "responses.jsonl").read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    assert max(row["batch"] for row in rows) >= 2
    openings = tuple(json.loads(line)["text"][:40] for line in held.read_text().splitlines())
    assert not any(row["prompt"].startswith(openings) for row in rows)

    answer, asked = prune.writing.writers.write_answers, []

    def answering(*arguments):
        if len(asked) == fails_at:
            raise RegrowthError("out of memory")
        asked.append(arguments)
        return answer(*arguments)

    monkeypatch.setattr(prune.writing.writers, "write_answers", answering)
    fails_at = 2
    with pytest.raises(RegrowthError, match="out of memory"):
        run("stopped")
    (left,) = tmp_path.glob(".stopped.unfinished/responses.partial.jsonl")
    assert written.startswith(left.read_text())
    with left.open("ab") as file:
        file.write(written.encode()[left.stat().st_size :][:100])  # a line that breaks off
    with pytest.raises(RegrowthError, match="stands unfinished with responses of the full model written"):
        run("stopped")
    asked.clear()
    fails_at = None
    resumed = run("stopped", resume=True)
    assert len(asked) == max(row["batch"] for row in rows)  # all batches but the first
    assert (resumed.out / "responses.jsonl").read_text() == written
    assert same_weights(alone.out, resumed.out)

    with pytest.raises(RegrowthError, match="training has diverged"):
        run("diverged", learning_rate=1e30)
    assert (tmp_path / ".diverged.unfinished" / "responses.jsonl").read_text() == written
    run("diverged", overwrite=True)
    assert not (tmp_path / ".diverged.unfinished").exists()


def test_a_run_goes_on_with_the_same_teacher_and_prompts_wherever_they_stand(
    tiny_llama, pruned, text, tmp_path, monkeypatch
):
    """Another teacher or other prompts are refused before any model is loaded."""
    patched = patched_copy(pruned, tmp_path / "patched")
    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(prompts, ({"prompt": f"What is {i} times seven?"} for i in range(60)))

    def run(teacher, asked, **running):
        settings = {**_SELF, "prompts": str(asked)}
        return distil_tiny(teacher, patched, text, tmp_path / "out", tokens=512, run=running, **settings)

    signal_in_step(2, signal.SIGINT, monkeypatch)
    with pytest.raises(Interrupted):
        run(tiny_llama, prompts)
    other = changed_copy(tiny_llama, tmp_path / "other", PATCHED)  # the one tensor in which the teacher may differ
    changed = tmp_path / "changed" / "prompts.jsonl"
    changed.parent.mkdir()
    changed.write_text(prompts.read_text() * 2)
    with monkeypatch.context() as patch:
        patch.setattr(heal.models.quantise, "load_frozen", lambda *_, **__: pytest.fail("a model was loaded"))
        with pytest.raises(UsageError, match=r"--resume: --teacher \(weights_sha256\) was"):
            run(other, prompts, resume=True)
        with pytest.raises(UsageError, match=r"--resume: --prompts \(sha256\) was"):
            run(tiny_llama, changed, resume=True)
    moved = shutil.copytree(tiny_llama, tmp_path / "moved")
    document = run(moved, tmp_path / "changed" / ".." / prompts.name, resume=True).to_json()
    assert document["resumed"]
    assert document["teacher"]["model"] == str(moved)
    assert document["prompts"]["sha256"]


def test_vllm_writes_the_responses(tiny_llama, pruned, text, tmp_path, monkeypatch):
    """By the stand-in, in a real second process; the teacher is loaded when that has ended."""
    from prune.models.vllm.process import VllmProcess

    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    monkeypatch.setitem(prune.writing.writers.AT_ONCE, "vllm", 8)
    events = []

    def note(owner, name):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, **named: (events.append(name), call(*given, **named))[1])

    note(VllmProcess, "close")
    note(heal.models.quantise, "load_frozen")
    result = distil_tiny(tiny_llama, pruned, text, tmp_path / "out", tokens=256, backend="vllm", **_SELF)
    assert events[:2] == ["close", "load_frozen"]
    rows = [json.loads(line) for line in (result.out / "responses.jsonl").read_text().splitlines()]
    assert len(rows) >= 8
    assert all(row["text"] == row["prompt"] + row["answer"] and 1 <= row["tokens"] <= 8 for row in rows)
    assert result.to_json()["settings"]["backend"] == "vllm"


def test_vllm_has_room_for_the_longest_chat():
    assert vllm_limit(None, 256, 8) == 2048 + 8
    assert vllm_limit(None, 4096, 8) == 4096 + 8
    assert vllm_limit(512, 4096, 8) == 512


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tgi"}, "--backend tgi is unknown; use hf or vllm"),
        ({"backend": "vllm"}, "--backend vllm writes responses: it is for --teacher-data self alone"),
        ({"backend": "vllm", "teacher_data": "self"}, "--backend vllm: vLLM is not installed here"),
    ],
)
def test_what_cannot_write_is_refused(tiny_llama, pruned, text, tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr("prune.models.vllm.options.find_spec", lambda name: None)
    with pytest.raises(RegrowthError, match=message):
        distil_tiny(tiny_llama, pruned, text, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []
