"""Chats: the tokens that the assistant writes under any template, rows of whole chats, mixes, and what is refused."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heal.text.chats import ChatTemplate
from heal.text.packing import IGNORED, ChatPacker
from heal.text.sources import HeldOut, TextSource, check_enough, hold_out, row_stream
from prune.checkpoint.source import Source
from prune.common.errors import TextError, UsageError
from prune.models.loading import load_tokenizer
from prune.text.chats import first_question
from prune.text.documents import Documents, read_documents
from tests.support.chats import NARROW, PLAIN, STRICT, THINKING, WIDE, answers, chat, chats
from tests.support.texts import sentences, write_jsonl

NOTHING = HeldOut((), frozenset())


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load_tokenizer(Source(tiny_llama, "tiny"))


@pytest.fixture
def tokenizer(loaded, monkeypatch):
    """The sample model's, with its own template; a test may change it."""
    monkeypatch.setattr(loaded, "chat_template", loaded.chat_template)
    return loaded


def with_template(tokenizer, template):
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer)


def test_the_answers_of_the_sample_models_own_template_token_by_token(tokenizer):
    messages = chat("What is 2 + 2?", "Four.\n\nOr 4 ", "Sure?", " Yes 🙂", "Thanks", system="Be brief.")
    parts = [
        ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n", False),
        ("<|im_start|>assistant\n", False),
        ("Four.\n\nOr 4 <|im_end|>", True),
        ("\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n", False),
        (" Yes 🙂<|im_end|>", True),
        ("\n<|im_start|>user\nThanks<|im_end|>\n", False),
    ]
    pieces = [(tokenizer(text, add_special_tokens=False)["input_ids"], borne) for text, borne in parts]
    found = ChatTemplate(tokenizer).render(json.dumps(messages))
    assert found.ids == [token for ids, _ in pieces for token in ids]
    assert found.bears == [borne for ids, borne in pieces for _ in ids]
    assert found.bears == answers(tokenizer, found.ids)
    assert all(ChatTemplate(tokenizer, loss_on="all").render(json.dumps(messages)).bears)


def test_templates_that_mark_answers_and_those_that_do_not_agree(tokenizer):
    for row in chats(20):
        found = [with_template(tokenizer, each).render(json.dumps(row["messages"])) for each in (PLAIN, WIDE, NARROW)]
        assert found[0] == found[1] == found[2]
        assert found[0].bears == answers(tokenizer, found[0].ids)
        assert 0 < sum(found[0].bears) < len(found[0].ids)


def test_a_template_that_does_not_tell_answers_or_refuses_is_named(tokenizer):
    one, two = chat("Why?", "<think>Hm.</think>So."), chat("Why?", "<think>Hm.</think>So.", "And?", "Well.")
    thinking = with_template(tokenizer, THINKING)
    assert any(thinking.render(json.dumps(one)).bears)
    with pytest.raises(TextError, match=r"message 2 of the chat 'Why\?' in another way once more follows"):
        thinking.render(json.dumps(two))
    assert all(ChatTemplate(tokenizer, loss_on="all").render(json.dumps(two)).bears)
    with pytest.raises(TextError, match=r"message 4 of the chat 'Why\?' without the words by which it asks"):
        with_template(tokenizer, PLAIN.replace("assistant\n", "assistant\n<think>")).render(json.dumps(two))
    with pytest.raises(TextError, match=r"the chat 'And\?' begins with an answer to nothing"):
        with_template(tokenizer, PLAIN).render(json.dumps(two[1:]))
    strict = with_template(tokenizer, STRICT)
    with pytest.raises(TextError, match=r"template of .* refuses the chat 'Why\?' \(roles must alternate\)"):
        strict.render(json.dumps([*one[:1], *one]))
    with pytest.raises(TextError, match="shows no answer of the chat 'Why"):
        with_template(tokenizer, PLAIN + "{% generation %}{% endgeneration %}").render(json.dumps(one))
    with pytest.raises(TextError, match="has no chat template"):
        with_template(tokenizer, None)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_chats_are_read_from_every_kind_of_file(kind, tmp_path):
    rows, path = chats(9), tmp_path / f"chats.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"id": list(range(9)), "messages": [row["messages"] for row in rows]}), path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    found = Documents(str(path), chats=True)
    assert [json.loads(document.text) for document in found] == [row["messages"] for row in rows]
    assert found.chats
    again = Documents(str(path), chats=True, state=found.state())
    assert again.chats
    assert next(again, None) is None
    with pytest.raises(TextError, match=rf"chats\.{kind} row 1 is a chat .* only prose is read here"):
        next(read_documents(str(path)))


def test_rows_that_are_no_chat_are_one_line(tmp_path, tokenizer):
    path, good = tmp_path / "rows.jsonl", {"messages": chat("Why?", "So.")}

    def fails(*rows, match, **how):
        write_jsonl(path, rows)
        text = TextSource(str(path), **how)
        with pytest.raises(TextError, match=match) as caught:
            list(row_stream(text, tokenizer, NOTHING, length=32, seed=0))
        assert "\n" not in str(caught.value)

    fails({"messages": []}, match="line 1: its `messages` are empty")
    fails(good, {"messages": [{"role": "user"}]}, match="line 2: message 1 of its `messages` has no text in `content`")
    fails({"messages": ["Why?"]}, match="message 1 of its `messages` has no text in `role`")
    fails(good, {"text": "prose"}, match=r"row 2 is prose, and what stands before it in .* is a chat; keep chats and")
    fails({"text": "prose"}, good, match=r"row 2 is a chat, and what stands before it in .* is prose; keep chats and")
    fails(
        good, {"messages": chat("Why?")}, match=r"rows\.jsonl row 2: a chat without an answer .* has nothing to learn"
    )
    fails({"messages": chat("Why?", " ")}, match="a chat without an answer")
    fails({"body": "words"}, match=r"line 1 has no text field 'text' \(it has: body\); name one with --field")
    fails({"text": 5}, match="line 1: 'text' is a number, not text; name a field of text with --field")
    fails({"text": None}, match="line 1: 'text' is null, not text")
    fails(good, None, match='line 2 is null, not an object such as {"text": "..."}')
    write_jsonl(path, [{"messages": chat("Why? " * 9)}] * 2)
    assert list(row_stream(TextSource(str(path), loss_on="all"), tokenizer, NOTHING, length=32, seed=0))
    write_jsonl(path, [{"text": "prose " * 40, **good}] * 3)
    for field, chosen in (("text", False), ("messages", True)):  # a row that has both
        assert [document.chat for document in Documents(str(path), field, chats=True)] == [chosen] * 3


def packed(given, length, **how):
    packer, rows = ChatPacker(length, **how), []
    for ids, bears in given:
        packer.add(ids, bears)
        while (row := packer.take()) is not None:
            rows.append(row)
            packer = ChatPacker(length, **how, state=json.loads(json.dumps(packer.state())))
    if (row := packer.last(partly=True)) is not None:
        rows.append(row)
    return rows, packer.counts


def test_each_chat_stands_whole_in_a_row_from_its_beginning():
    no, yes = False, True
    given = [
        ([10, 11, 12, 13, 14], [no, no, yes, yes, no]),
        ([20, 21, 22, 23, 24], [no, yes, yes, yes, yes]),
        ([30, *range(31, 45)], [no, no, yes, *[yes] * 12]),  # longer than a row
        ([*range(50, 60)], [no] * 9 + [yes]),  # its answer begins behind a row
        ([60, 61], [no, yes]),
    ]
    rows, counts = packed(given, 8)
    assert [row.tokens.tolist() for row in rows] == [
        [10, 11, 12, 13, 14, 20, 21, 22],  # begun where it does not fit, and
        [20, 21, 22, 23, 24, 30, 31, 32],  # whole in the next row
        [30, 31, 32, 33, 34, 35, 36, 37],
        [60, 61, 61, 61, 61, 61, 61, 61],
    ]
    assert rows[0].positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert rows[0].labels.tolist() == [-100, -100, 12, 13, -100, -100, 21, 22]
    assert rows[3].labels.tolist() == [-100, 61, *[-100] * 6]
    assert counts == {"read": 5, "cut": 1, "passed_over": 1}
    once, _ = packed(given, 8, once=True)
    assert once[0].labels.tolist() == [-100, -100, 12, 13, *[-100] * 4]
    labelled = [label for row in once for label in row.labels.tolist() if label != IGNORED]
    assert labelled == [12, 13, 21, 22, 23, 24, *range(32, 38), 61]  # each once


def test_long_chats_that_are_cut_are_counted_before_they_are_trained_on(tokenizer, tmp_path):
    talk = write_jsonl(tmp_path / "long.jsonl", [{"messages": chat(f"Why {i}?", "Because. " * 200)} for i in range(10)])
    text, how = TextSource(str(talk)), {"length": 64, "seed": 0}
    check_enough(text, tokenizer, NOTHING, rows=10, **how)
    assert talk.stat().st_size > 8 * 20 * 64  # so much prose would be enough for 20 rows
    with pytest.raises(TextError, match="ends after 640 of the 1280 tokens asked for; add text, or ask for"):
        check_enough(text, tokenizer, NOTHING, rows=20, **how)
    with pytest.raises(TextError, match=r"ends after 0 of .* \(10 chats are passed over: .* row of 16\); add text$"):
        check_enough(text, tokenizer, NOTHING, rows=20, length=16, seed=0)


def kinds(rows, tokenizer):
    return ["assistant" in tokenizer.decode(row.tokens) for row in rows]


def test_texts_are_mixed_by_shares_and_go_on_where_they_stopped(tokenizer, tmp_path):
    prose = write_jsonl(tmp_path / "prose.jsonl", ({"text": text} for text in sentences(200)))
    talk = write_jsonl(tmp_path / "chats.jsonl", chats(120))
    text = TextSource((str(prose), str(talk)), mix=(0.75, 0.25))
    how = {"length": 64, "seed": 3}
    stream = row_stream(text, tokenizer, NOTHING, **how)
    first, state = stream.take(22), json.loads(json.dumps(stream.state()))
    assert kinds(first[:20], tokenizer) == [False, False, True, False] * 5
    rest = row_stream(text, tokenizer, NOTHING, **how, state=state).take(30)
    whole = row_stream(text, tokenizer, NOTHING, **how).take(52)
    for one, other in zip([*first, *rest], whole, strict=True):
        assert all(
            np.array_equal(getattr(one, part), getattr(other, part)) for part in ("tokens", "positions", "labels")
        )
    assert all(row.targets for row in whole)


def test_chats_that_are_measured_are_not_trained_on(tokenizer, tmp_path):
    talk = write_jsonl(tmp_path / "chats.jsonl", chats(300))
    text = TextSource(str(talk), held_out_tokens=400)
    held_out = hold_out(text, tokenizer, length=64)
    told = [answers(tokenizer, row.tokens.tolist()) for row in held_out.rows]
    assert held_out.texts[0].targets <= sum(map(sum, told))  # the filler of a row repeats its last token
    measured = {json.loads(line)["messages"][0]["content"] for line in talk.read_text().splitlines()}
    measured = {question for question in measured if held_out.holds(question)}
    assert measured
    trained = row_stream(text, tokenizer, held_out, length=64, seed=0)
    seen = tokenizer.decode([token for row in trained for token in row.tokens])
    assert not any(question in seen for question in measured)


def test_a_question_that_is_measured_is_not_trained_on_with_another_answer(tokenizer, tmp_path):
    measured = write_jsonl(tmp_path / "measured.jsonl", chats(40))
    again = [row["messages"] for row in chats(40)]
    for messages in again:
        messages[1]["content"] = "Another answer of quite other words."
    trained = write_jsonl(tmp_path / "trained.jsonl", [{"messages": messages} for messages in again])
    text = TextSource(str(trained), held_out=str(measured), held_out_tokens=10_000)
    held_out = hold_out(text, tokenizer, length=64)
    assert list(row_stream(text, tokenizer, held_out, length=64, seed=0)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": (0.5, 0.3, 0.2)}, r"--mix 0.5,0.3,0.2: shares of 3 texts, and there are 2"),
        ({"mix": (0.5, 0.4)}, r"--mix 0.5,0.4: the shares sum to 0.9, not to 1"),
        ({"mix": (1.0, 0.0)}, r"--mix 1,0: a share is above 0"),
        ({"mix": (float("nan"), 0.5)}, r"mix=\(nan, 0.5\): use a list"),
        ({"loss_on": "questions"}, r"--loss-on questions is unknown; use answers, all"),
    ],
)
def test_shares_and_losses_that_are_wrong(changes, message):
    with pytest.raises(UsageError, match=message):
        TextSource(("a.jsonl", "b.jsonl"), **changes).check()


def test_what_a_chat_asks_is_all_before_its_first_answer():
    messages = chat("Why?", "So.", "And?", "Well.", system="Be brief.")
    assert first_question(json.dumps(messages)) == messages[:2]
    assert first_question(json.dumps(messages[:2])) == messages[:2]
    assert first_question(json.dumps(messages[2:])) == []


def test_the_model_is_asked_for_a_chats_answer_without_thoughts(tokenizer):
    quiet = "{% if enable_thinking is defined and enable_thinking is false %}<no thought>{% endif %}"
    template = "{{ messages[0].content }}{% if add_generation_prompt %}=" + quiet + "{% endif %}"
    assert with_template(tokenizer, template).ask(chat("2 + 2")) == "2 + 2=<no thought>"
