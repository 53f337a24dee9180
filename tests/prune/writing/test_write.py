"""Text that a model writes itself: what it is asked, what is kept, and a run that goes on to the same bytes."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import prune
from prune import WriteSettings, Written
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError, TextError, UsageError
from prune.models.generation import Sampling
from prune.models.loading import load_tokenizer
from prune.text.documents import read_documents
from prune.text.windows import encode
from prune.writing import writers
from prune.writing.asking import Asker, Counts, read_prompts
from prune.writing.write import _plan, settle_sampling
from tests.support.chats import PLAIN, chat
from tests.support.commands import check_refused, run, succeed
from tests.support.texts import sentences, write_jsonl

STUB = Path(__file__).parents[2] / "support" / "stub_vllm"
FEW = {"tokens": 1100, "answer_tokens": 8, "batch_size": 4}


@pytest.fixture
def questions(tmp_path):
    rows = [{"question": f"What is {i} and {i}?", "choices": [str(i), str(2 * i)], "answer": 1} for i in range(30)]
    return write_jsonl(tmp_path / "sums.jsonl", rows)


def write(model, prompts, out, *, overwrite=False, resume=False, **settings):
    settings = WriteSettings(**{**FEW, **settings})
    return prune.write(
        model, prompts if isinstance(prompts, list) else str(prompts), out, settings=settings, overwrite=overwrite,
        resume=resume, show_progress=False,
    )  # fmt: skip


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tokenizer_of(folder):
    return load_tokenizer(Source(folder, "tiny"))


def test_rows_are_the_tokens_that_the_model_saw(tiny_llama, questions, tmp_path):
    """Greedy, against generate itself on each prompt alone; half are asked for a chain of thought."""
    out = tmp_path / "own.jsonl"
    written = write(tiny_llama, questions, out, temperature=0, chat_template="off")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama).eval(), tokenizer_of(tiny_llama)
    rows = rows_of(out)
    for row in rows[:6]:
        ids = [tokenizer.bos_token_id, *encode(tokenizer, row["prompt"])]
        assert len(ids) == row["prompt_tokens"]
        with torch.no_grad():
            made = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
        ended = made[-1] == tokenizer.eos_token_id
        assert row["tokens"] == len(made) - ended
        assert row["finished"] == ended
        assert row["text"] == row["prompt"] + tokenizer.decode(made[:-1] if ended else made)
        assert row["answer"] == tokenizer.decode(made, skip_special_tokens=True)
        assert "messages" not in row
    assert {row["kind"]: sum(other["kind"] == row["kind"] for other in rows) for row in rows}.keys() == {"fast", "slow"}
    assert abs(sum(row["kind"] == "slow" for row in rows) - len(rows) / 2) <= 2  # some batches give fewer rows
    slow = next(row for row in rows if row["kind"] == "slow")
    assert "\nA. " in slow["prompt"]
    assert "Reason in a few short steps, then end with a line that gives the letter" in slow["prompt"]
    assert {row["source"] for row in rows} == {"sums.jsonl"}
    sizes = [row["prompt_tokens"] + row["tokens"] + 1 for row in rows]
    assert written.tokens == sum(sizes) >= 1100
    assert sum(sizes[:-1]) < 1100
    assert (written.rows, written.rounds, written.sampling) == (len(rows), 1, None)
    assert Written.parse(json.loads(json.dumps(written.to_json())), "x") == written
    assert sum(1 for _ in read_documents(str(out))) == len(rows)  # as --text reads it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.jsonl", "sums.jsonl"]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_budget_is_passed_by_one_row_at_most(tiny_llama, questions, tmp_path, batch_size):
    out = tmp_path / "own.jsonl"
    written = write(tiny_llama, questions, out, tokens=200, chat_template="off", batch_size=batch_size)
    sizes = [row["prompt_tokens"] + row["tokens"] + 1 for row in rows_of(out)]
    assert sum(sizes[:-1]) < 200 <= sum(sizes) == written.tokens


def test_a_stopped_run_goes_on_to_the_same_bytes(tiny_llama, questions, tmp_path, monkeypatch):
    """By two rounds of the prompts, with a line that breaks off; and with another budget."""
    few = write_jsonl(tmp_path / "few.jsonl", rows_of(questions)[:6])
    alone, stopped = tmp_path / "alone.jsonl", tmp_path / "stopped.jsonl"
    whole = write(tiny_llama, few, alone)
    assert whole.rounds > 1
    for row in rows_of(alone):
        asks, says = row["messages"]
        assert asks["content"] in row["prompt"]
        assert says == {"role": "assistant", "content": row["answer"].strip()}
    answers, calls = writers.write_answers, []

    def answering(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(*given)

    monkeypatch.setattr(writers, "write_answers", answering)
    with pytest.raises(KeyboardInterrupt):
        write(tiny_llama, few, stopped)
    left = tmp_path / ".stopped.jsonl.unfinished.rows"
    assert alone.read_text().startswith(left.read_text())
    with left.open("ab") as file:
        file.write(alone.read_bytes()[left.stat().st_size :][:50])
    with pytest.raises(RegrowthError, match="stands unfinished: go on with --resume"):
        write(tiny_llama, few, stopped)
    with pytest.raises(UsageError, match="--resume: --seed was 0 and is now 1"):
        write(tiny_llama, few, stopped, resume=True, seed=1)
    calls[:] = [None] * 3
    resumed = write(tiny_llama, few, stopped, resume=True, batch_size=None)  # as many at a time as before
    assert stopped.read_bytes() == alone.read_bytes()
    assert resumed.batch_size == 4
    assert len(calls) - 3 == max(row["batch"] for row in rows_of(alone))  # all batches but the first
    assert not left.exists()

    more, calls[:] = tmp_path / "more.jsonl", []
    with pytest.raises(KeyboardInterrupt):
        write(tiny_llama, few, more, tokens=2000)
    calls[:] = [None] * 3
    write(tiny_llama, few, more, tokens=200, resume=True)
    write(tiny_llama, few, tmp_path / "less.jsonl", tokens=200)
    assert more.read_bytes() == (tmp_path / "less.jsonl").read_bytes()


def test_the_seed_says_what_is_written(tiny_llama, questions, tmp_path):
    texts = []
    for name, how in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("d", {"temperature": 2.0}), ("e", {"top_k": 1})):
        write(tiny_llama, questions, tmp_path / f"{name}.jsonl", tokens=300, chat_template="off", **how)
        texts.append((tmp_path / f"{name}.jsonl").read_bytes())
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


@pytest.mark.parametrize(
    ("stated", "given", "wanted"),
    [
        (None, {}, Sampling(0.7, 0.95, 0)),
        ({"temperature": 0.6, "top_k": 20}, {}, Sampling(0.6, 0.95, 20)),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 1.2, "top_k": 5}, Sampling(1.2, 0.9, 5)),
        ({"temperature": 0.6}, {"temperature": 0}, None),
    ],
)
def test_draws_are_the_users_then_the_models_then_ours(tmp_path, stated, given, wanted):
    if stated is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    assert settle_sampling(tmp_path, WriteSettings(**given)) == wanted


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ([], "holds no JSON object"),
        ({"temperature": "0.6"}, "by its temperature '0.6'; mend it, or give --temperature"),
        ({"temperature": -1}, "by its temperature -1;"),
        ({"temperature": float("nan")}, "by its temperature nan;"),
        ({"top_p": 1.5}, "by its top_p 1.5; mend it, or give --top-p"),
        ({"top_k": True}, "by its top_k True; mend it, or give --top-k"),
    ],
)
def test_a_models_own_draws_are_checked(tmp_path, stated, words):
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=f"^{tmp_path / 'generation_config.json'}.* {words}"):
        settle_sampling(tmp_path, WriteSettings())
    if stated:
        given = WriteSettings(temperature=0.5, top_p=0.5, top_k=1)
        assert settle_sampling(tmp_path, given) == Sampling(0.5, 0.5, 1)


def asked(folder, sources, template=None, **settings):
    """Kind and text of the prompts of one round."""
    tokenizer = tokenizer_of(folder)
    if template is not None:
        tokenizer.chat_template = template or None
    settings = WriteSettings(**settings)
    prompts = read_prompts(
        Asker(tokenizer, settings), [str(s) for s in sources], settings, room=None, again=False, counts=Counts()
    )
    return [(prompt.kind, prompt.text) for prompt in prompts]


def test_what_each_kind_of_row_asks(tiny_llama, tmp_path):
    lines = tmp_path / "asked.txt"
    lines.write_text("Name a river.\n\nName a sea.\n")
    assert sorted(asked(tiny_llama, [lines], "", thinking="fast")) == [
        ("fast", "Name a river."),
        ("fast", "Name a sea."),
    ]
    question = write_jsonl(tmp_path / "question.jsonl", [{"question": "What is one and one?", "choices": None}])
    (plain,) = asked(tiny_llama, [question], "", thinking="slow", instruction="Think.")
    assert plain == ("slow", "Question: What is one and one?\nThink.\nReasoning:")
    assert asked(tiny_llama, [question], "", thinking="fast") == [("fast", "Question: What is one and one?\nAnswer:")]
    ((_, templated),) = asked(tiny_llama, [question], PLAIN, thinking="fast")
    assert templated == "user\nWhat is one and one?<|im_end|>\n<|im_start|>assistant\n"  # without the template's BOS
    document = write_jsonl(tmp_path / "text.jsonl", ({"text": text} for text in sentences(3)))
    starts = asked(tiny_llama, [document], PLAIN, prompt_tokens=5)
    assert [kind for kind, _ in starts] == ["document"] * 3
    assert all(text.startswith("Text ") and len(text) < 40 for _, text in starts)
    messages = write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat("Hello?", "Yes.", "And you?")}])
    ((kind, text),) = asked(tiny_llama, [messages], PLAIN, thinking="slow")
    assert kind == "slow"
    assert "Hello?\nReason in a few short steps" in text
    assert "Yes." not in text
    with pytest.raises(TextError, match=r"chat.jsonl row 1 is a chat, and the tokenizer has no chat template"):
        asked(tiny_llama, [messages], "")
    with pytest.raises(TextError, match="--chat-template is off; leave it out"):
        asked(tiny_llama, [messages], PLAIN, chat_template="off")
    with pytest.raises(
        UsageError, match="--chat-template on: the tokenizer of .* has no chat template; use auto or off"
    ):
        asked(tiny_llama, [question], "", chat_template="on")


def test_a_template_that_thinks_is_asked_in_its_own_way(tiny_llama, tmp_path):
    template = PLAIN + "{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}"
    question = write_jsonl(tmp_path / "question.jsonl", [{"question": "What is one and one?"}])
    ((_, slow),) = asked(tiny_llama, [question], template, thinking="slow")
    assert slow.endswith("<think>")
    assert "Reason" not in slow
    ((_, fast),) = asked(tiny_llama, [question], template, thinking="fast")
    assert fast.endswith("</think>")
    ((_, told),) = asked(tiny_llama, [question], template, thinking="slow", instruction="Think aloud.")
    assert "\nThink aloud." in told


def test_sources_take_turns_and_each_has_its_share_of_slow(tiny_llama, tmp_path):
    sources = [
        write_jsonl(tmp_path / f"{name}.jsonl", ({"prompt": f"{name} {i}"} for i in range(count)))
        for name, count in (("sums", 20), ("bones", 8))
    ]
    found = asked(tiny_llama, sources, "", slow_share=0.25)
    assert ["sums" in text for _, text in found[:16]] == [True, False] * 8
    for name, count in (("sums", 5), ("bones", 2)):
        assert sum(kind == "slow" for kind, text in found if name in text) == count
    assert len({text for _, text in found}) == 28
    assert found != asked(tiny_llama, sources, "", slow_share=0.25, seed=1)


def test_the_slow_words_are_those_of_evaluate():
    from eval.asking.tasks import template
    from prune.writing.words import SLOW_CHOICE, SLOW_OPEN

    assert template("choice-slow")["doc_to_text"].endswith(SLOW_CHOICE)
    assert template("generation-slow")["doc_to_text"].endswith(SLOW_OPEN.replace("the answer", "the number"))


def test_answers_that_do_not_end_can_be_left_out(tiny_llama, questions, tmp_path, monkeypatch):
    tokenizer = tokenizer_of(tiny_llama)
    said = encode(tokenizer, "It is so.")

    def answers(_, __, prompts, *___):
        return [[*said, tokenizer.eos_token_id] if index % 2 else said for index in range(len(prompts))]

    monkeypatch.setattr(writers, "write_answers", answers)
    write(tiny_llama, questions, tmp_path / "own.jsonl", finished_only=True)
    rows = rows_of(tmp_path / "own.jsonl")
    assert all(row["finished"] and row["answer"] == "It is so." for row in rows)
    last = max(row["batch"] for row in rows)  # the budget cuts it short
    assert {sum(other["batch"] == row["batch"] for other in rows) for row in rows if row["batch"] < last} == {2}
    monkeypatch.setattr(writers, "write_answers", lambda _, __, prompts, *___: [said for _ in prompts])
    with pytest.raises(TextError, match="nothing that can be kept in the answers to 256 prompts"):
        write(tiny_llama, questions, tmp_path / "none.jsonl", finished_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.jsonl", "sums.jsonl"]


@pytest.mark.parametrize("mode", ["fast", "slow"])
def test_one_mode_of_the_option_asks_in_that_mode_alone(tiny_llama, questions, tmp_path, mode):
    few = ["--tokens", 300, "--answer-tokens", 4, "--prompts", questions, "--out", tmp_path / "own.jsonl", "--json"]
    document = json.loads(succeed("prune", "write", tiny_llama, *few, "--thinking", mode).stdout)
    assert [part["kind"] for part in document["kinds"]] == [mode]


def test_bad_input_is_one_line(tiny_llama, questions, tmp_path):
    out, empty = tmp_path / "own.jsonl", tmp_path / "empty.jsonl"
    empty.write_text("\n")
    cases = (
        (["--prompts", questions, "--out", tmp_path / "own.txt"], 2, "give the file the ending .jsonl"),
        (["--prompts", empty, "--out", out], 1, "holds no text"),
        (["--prompts", tmp_path / "no.jsonl", "--out", out], 1, "does not exist"),
        (["--prompts", questions, "--field", "quest", "--out", out], 1, "no text field 'quest'"),
        (["--prompts", questions, "--out", out, "--max-length", 20, "--answer-tokens", 8], 1, "30 too long"),
        (["--prompts", questions, "--out", out, "--answer-tokens", 100000], 2, "leaves no room for a prompt"),
        (["--prompts", questions, "--out", out, "--max-length", 8, "--answer-tokens", 8], 2, "no room for a prompt"),
        (["--prompts", questions, "--out", out, "--thinking", "fast", "--instruction", "x"], 2, "goes with --thinking"),
        (["--prompts", questions, "--out", out, "--thinking", "both"], 2, "is unknown; use fast, slow or fast,slow"),
        (["--prompts", questions, "--out", out, "--thinking", ","], 2, "names no mode; use fast, slow or fast,slow"),
        (["--prompts", questions, "--out", out, "--backend-args", "x=1"], 2, "goes with --backend vllm"),
        (["--prompts", questions, "--out", out, "--tokens", "0"], 2, "is not a number of tokens"),
        (["--prompts", questions, "--out", out, "--slow-share", "1"], 2, "or --thinking fast or slow"),
    )  # fmt: skip
    for words, code, message in cases:
        check_refused(run("prune", "write", tiny_llama, *words), code, message)
    few = ["--prompts", questions, "--out", out, "--temperature", 0, "--tokens", "9k", "--answer-tokens", 2]
    check_refused(run("prune", "write", tiny_llama, *few), 1, "at temperature 0 a second round would say the same")
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "empty.jsonl",
        "sums.jsonl",
    ]


def test_vllm_writes_too(tiny_llama, questions, tmp_path, monkeypatch):
    """By the stand-in, in a real second process: greedy, the same text as transformers, and samples by the seed."""
    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    how = {"tokens": 300, "backend": "vllm", "dtype": "float32"}
    write(tiny_llama, questions, tmp_path / "hf.jsonl", tokens=300, temperature=0, chat_template="off")
    write(tiny_llama, questions, tmp_path / "vllm.jsonl", **how, temperature=0, chat_template="off")
    assert (tmp_path / "vllm.jsonl").read_bytes() == (tmp_path / "hf.jsonl").read_bytes()
    written = write(tiny_llama, questions, tmp_path / "drawn.jsonl", **how)
    assert written.provenance["vllm"] == "0.32.0"
    assert (tmp_path / "drawn.jsonl").read_bytes() != (tmp_path / "hf.jsonl").read_bytes()
    monkeypatch.setattr("prune.models.vllm.options.find_spec", lambda name: None)
    with pytest.raises(RegrowthError, match="--backend vllm: vLLM is not installed here"):
        write(tiny_llama, questions, tmp_path / "no.jsonl", **how)


def test_rows_hang_on_those_of_the_engines_options_that_alter_answers(tiny_llama, questions, monkeypatch):
    monkeypatch.setattr("prune.models.vllm.options.engine_device", lambda device: "cpu")

    def facts(arguments):
        settings = WriteSettings(**FEW, backend="vllm", backend_args=arguments)
        return _plan(tiny_llama, (str(questions),), settings, revision=None, trust_remote_code=False).facts

    assert facts("gpu_memory_utilization=0.5") == facts(None)
    assert facts("quantization=fp8") != facts(None)


def test_layers_are_spread_over_gpus_or_the_run_is_refused(tiny_llama, questions, tmp_path, monkeypatch):
    def refused(*words):
        out = ["--out", tmp_path / "own.jsonl", "--device-map", *words]
        return run("prune", "write", tiny_llama, "--prompts", questions, *out)

    monkeypatch.setattr("prune.models.spread.gpus", lambda: [("cuda:0", 1 << 30)])
    check_refused(refused("auto"), 2, "spreads a model over GPUs, and there are 1; leave it out")
    check_refused(refused("balanced"), 2, "--device-map balanced is unknown")
    loaded = []
    monkeypatch.setattr("prune.models.spread.check_spread", lambda *_: None)
    monkeypatch.setattr("prune.models.spread.place_layers", lambda source, **how: loaded.append(source) or {"": "cpu"})
    write(tiny_llama, questions, tmp_path / "own.jsonl", tokens=300, device_map="auto")
    assert [source.folder for source in loaded] == [tiny_llama]


def test_the_sample_model_writes_prose(sample_model, sample_questions, tmp_path):
    """The real model on real questions, by the command."""
    math = write_jsonl(
        tmp_path / "math.jsonl", map(json.loads, (sample_questions / "math.jsonl").open().readlines()[-40:])
    )
    out = tmp_path / "own.jsonl"
    how = ("--tokens", 300, "--answer-tokens", 12, "--batch-size", 4, "--json")
    document = json.loads(succeed("prune", "write", sample_model, "--prompts", math, *how, "--out", out).stdout)
    rows = rows_of(out)
    assert document["rows"] == len(rows) >= 2
    assert {part["kind"] for part in document["kinds"]} == {"fast", "slow"}
    words = " ".join(row["answer"] for row in rows).split()
    assert sum(word.isascii() for word in words) > 0.9 * len(words)  # prose, not noise
