"""Documents and rows from any place in a source: what comes after it is the same, and nothing before it is read."""

import gzip
import json
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heal.text.ahead import Ahead
from heal.text.packing import Packer, pack
from heal.text.sources import HeldOut, TextSource, check_enough, hold_out, row_stream
from prune.checkpoint.source import Source
from prune.common.errors import TextError, UsageError
from prune.models.loading import load_tokenizer
from prune.text.documents import Documents
from prune.text.windows import encode
from tests.support.texts import sentences, write_jsonl


def write(kind, folder, texts):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path = folder / f"text.{kind}"
    if kind == "jsonl":
        path.write_text(lines.replace("\n", "\n\n", 3))  # blank lines are no rows
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == "txt":
        path.write_text("".join(f"{text}\n\n" for text in texts))
    else:
        pq.write_table(pa.table({"text": texts, "other": list(range(len(texts)))}), path, row_group_size=7)
    return path


def places(reader):
    return [(document.text, document.place) for document in reader]


def check_goes_on(source, counts, before_going_on=lambda state: None):
    """After so many documents, what comes next is what one reading of all gives; returns how many there are."""
    whole = places(Documents(str(source)))
    for count in counts(len(whole)):
        reader = Documents(str(source))
        first = places(islice(reader, count))
        state = json.loads(json.dumps(reader.state()))
        before_going_on(state)
        assert first + places(Documents(str(source), state=state)) == whole
    return len(whole)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(Source(tiny_llama, "tiny"))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "txt", "parquet"])
def test_documents_go_on_where_they_stopped(kind, tmp_path):
    path = write(kind, tmp_path, sentences(60))
    count = check_goes_on(path, lambda all_: (0, 1, 2, all_ // 2, all_ - 1, all_))
    assert count > (3 if kind == "txt" else 59)


def test_a_dump_without_blank_lines_goes_on_at_any_document(tmp_path):
    path = tmp_path / "dump.txt"
    path.write_text("First.\n\n" + "\n".join(sentences(150)) + "\n\nAnother one.\n\n" + "\n".join(sentences(120)))
    assert check_goes_on(path, lambda all_: range(all_ + 1)) > 15


def test_a_dump_without_blank_lines_has_a_held_out_part_and_much_to_train_on(tmp_path, tokenizer):
    path = tmp_path / "dump.txt"
    path.write_text("\n".join(sentences(3000)))
    text = TextSource(str(path), held_out_tokens=2000)
    held = hold_out(text, tokenizer, length=64)
    assert sum(row.targets for row in held.rows) > 1000
    assert len(row_stream(text, tokenizer, held, length=64, seed=0).take(500)) == 500


def test_a_folder_goes_on_in_the_file_where_it_stopped(tmp_path):
    for index, kind in enumerate(["jsonl", "parquet", "txt"]):
        (tmp_path / str(index)).mkdir()
        write(kind, tmp_path / str(index), sentences(20, seed=index))
    early = tmp_path / "0" / "text.jsonl"
    check_goes_on(tmp_path, lambda _: (25,), lambda _: early.write_text("{broken"))  # is read no more


def test_what_was_read_is_not_read_again(tmp_path):
    path = write("jsonl", tmp_path, sentences(50))
    content = path.read_bytes()

    def spoil(state):
        path.write_bytes(b"\xff" * state["at"] + content[state["at"] :])  # would be an error, were it read

    check_goes_on(path, lambda _: (30,), spoil)


def test_a_hub_stream_goes_on_where_it_stopped(tmp_path):
    for index in range(3):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in sentences(20, seed=index))
        (tmp_path / f"part-{index}.jsonl").write_text(lines)
    # `datasets` reads a folder as it would a repository
    assert check_goes_on(f"hub:{tmp_path}", lambda _: (1, 25, 59)) == 60


def test_a_packer_goes_on_in_the_middle_of_a_document():
    documents = [list(range(10, 10 + n)) for n in (3, 50, 1, 7, 20, 9)]
    whole = [row.tokens.tolist() for row in pack(documents, 8, bos=1, eos=2)]
    found, packer = [], Packer(8, bos=1, eos=2)
    for document in documents:
        packer.add(document)
        while (row := packer.take()) is not None:
            found.append(row.tokens.tolist())
            packer = Packer(8, bos=1, eos=2, state=json.loads(json.dumps(packer.state())))
    if (row := packer.last()) is not None:
        found.append(row.tokens.tolist())
    assert found == whole


def tokens(rows):
    return [row.tokens.tolist() for row in rows]


@pytest.mark.parametrize("buffer", [16, 10_000])
def test_rows_go_on_where_they_stopped(tokenizer, tmp_path, monkeypatch, buffer):
    monkeypatch.setattr("heal.text.streams.BUFFER", buffer)
    path = write("jsonl", tmp_path, sentences(120))
    text, held_out = TextSource(str(path)), HeldOut((), frozenset())
    how = {"length": 32, "seed": 3}
    whole = tokens(row_stream(text, tokenizer, held_out, **how))
    for count in (0, 1, 10, len(whole) - 1, len(whole)):
        stream = row_stream(text, tokenizer, held_out, **how)
        first = tokens(stream.take(count))
        state = json.loads(json.dumps(stream.state()))
        assert first + tokens(row_stream(text, tokenizer, held_out, **how, state=state)) == whole
    other = tokens(row_stream(text, tokenizer, held_out, length=32, seed=4))
    assert other != whole
    assert len(other) == pytest.approx(len(whole), abs=1)


def test_processes_share_the_documents_and_each_tokenises_its_own_alone(tokenizer, tmp_path, monkeypatch):
    """Every document once over all processes, even loads, and each goes on where it stopped."""
    monkeypatch.setattr("heal.text.streams.BUFFER", 16)
    texts = [f"Number {index} is here. {text}" for index, text in enumerate(sentences(90))]
    path = write("jsonl", tmp_path, texts)
    text, held_out, how = TextSource(str(path)), HeldOut((), frozenset()), {"length": 16, "seed": 3}
    read, encoded = [], []
    monkeypatch.setattr("heal.text.streams.encode", lambda of, text: encoded.append(text) or encode(of, text))
    for rank in range(3):
        encoded.clear()
        whole = tokens(row_stream(text, tokenizer, held_out, **how, share=(rank, 3)))
        read.append(list(encoded))
        again = tokens(row_stream(text, tokenizer, held_out, **how, share=(rank, 3)))
        assert again == whole
        stream = row_stream(text, tokenizer, held_out, **how, share=(rank, 3))
        first, state = tokens(stream.take(11)), json.loads(json.dumps(stream.state()))
        assert first + tokens(row_stream(text, tokenizer, held_out, **how, share=(rank, 3), state=state)) == whole
    sizes = [sum(map(len, documents)) for documents in read]
    assert max(sizes) - min(sizes) <= max(map(len, texts))
    encoded.clear()
    list(row_stream(text, tokenizer, held_out, **how))
    places = {document: place for place, document in enumerate(encoded)}  # in the order of one process
    assert sorted((document for documents in read for document in documents), key=places.get) == encoded
    assert all(ours == sorted(ours, key=places.get) for ours in read)


def test_what_is_too_short_for_one_of_several_processes(tokenizer, tmp_path, monkeypatch):
    text, held_out = TextSource(str(write("jsonl", tmp_path, sentences(100)))), HeldOut((), frozenset())
    how = {"length": 32, "seed": 0, "share": (1, 2)}
    have = len(tokens(row_stream(text, tokenizer, held_out, **how)))
    check_enough(text, tokenizer, held_out, rows=2 * have, **how)
    monkeypatch.setattr("heal.text.sources.gather", lambda count: [count - 1, count])  # the other has one row fewer
    with pytest.raises(TextError, match=f"ends after {(2 * have - 2) * 32} of the {2 * have * 32} tokens asked for"):
        check_enough(text, tokenizer, held_out, rows=2 * have, **how)


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_rows_read_ahead_go_on_behind_the_last_one_taken(tokenizer, tmp_path, taken):
    path = write("jsonl", tmp_path, sentences(120))
    text, held_out, how = TextSource(str(path)), HeldOut((), frozenset()), {"length": 32, "seed": 3}
    whole = tokens(row_stream(text, tokenizer, held_out, **how))
    plain = row_stream(text, tokenizer, held_out, **how)
    with Ahead(row_stream(text, tokenizer, held_out, **how), 10) as ahead:
        first = [row for _ in range(taken) for row in tokens(ahead.take(3))]
        if ahead._thread is not None:
            ahead._thread.join()  # the rows of the next step are read by now
        assert first == tokens(plain.take(3 * taken)) == whole[: 3 * taken]
        assert ahead.state() == plain.state()
        state = json.loads(json.dumps(ahead.state()))
    assert first + tokens(row_stream(text, tokenizer, held_out, **how, state=state)) == whole


def test_what_is_told_of_rows_ahead_is_of_those_taken(tokenizer, tmp_path):
    path = write("jsonl", tmp_path, sentences(8))
    text, held_out, how = TextSource(str(path)), HeldOut((), frozenset()), {"length": 32, "seed": 3}
    count = len(tokens(row_stream(text, tokenizer, held_out, **how))) - 1
    with Ahead(row_stream(text, tokenizer, held_out, **how), 10) as ahead:
        assert len(ahead.take(count)) == count
        ahead._thread.join()
        assert ahead.ended == ()
        with pytest.raises(ValueError, match=f"1 rows are asked for, and {count} were read ahead"):
            ahead.take(1)
        assert len(ahead.take(count)) == 1
        assert ahead.ended == (str(path),)
        assert ahead.take(count) == []


def test_what_is_wrong_with_rows_ahead_is_raised_when_they_are_taken(tokenizer, tmp_path, monkeypatch):
    path = write("jsonl", tmp_path, sentences(120))
    rows = row_stream(TextSource(str(path)), tokenizer, HeldOut((), frozenset()), length=32, seed=3)
    with Ahead(rows, 10) as ahead:
        ahead.take(2)
        ahead._thread.join()
        monkeypatch.setattr(rows, "take", lambda count: [][count])
        assert len(ahead.take(2)) == 2
        with pytest.raises(IndexError):
            ahead.take(2)


def test_nothing_is_read_ahead_of_the_last_step(tokenizer, tmp_path):
    path = write("jsonl", tmp_path, sentences(120))
    text, held_out, how = TextSource(str(path)), HeldOut((), frozenset()), {"length": 32, "seed": 3}
    rows = row_stream(text, tokenizer, held_out, **how)
    with Ahead(rows, 2) as ahead:
        ahead.take(3)
        ahead.take(3)
        assert ahead._thread is None
        assert rows.state() == ahead.state()


def test_a_stream_is_shuffled_without_being_read_to_its_end(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("heal.text.streams.BUFFER", 16)
    texts = sentences(400)
    path = write("jsonl", tmp_path, texts)
    stream = row_stream(TextSource(str(path)), tokenizer, HeldOut((), frozenset()), length=32, seed=0)
    stream.take(4)
    state = stream.state()["streams"][0]
    assert len(state["buffer"]) == 16
    assert state["documents"]["count"] < 40
    assert state["documents"]["at"] < path.stat().st_size / 5


def test_long_documents_fill_the_buffer_sooner(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("heal.text.streams._CHARACTERS", 2000)
    path = write("jsonl", tmp_path, ["word " * 200] * 30)
    stream = row_stream(TextSource(str(path)), tokenizer, HeldOut((), frozenset()), length=32, seed=0)
    stream.take(3)
    assert len(stream.state()["streams"][0]["buffer"]) == 2


def test_sources_are_mixed_in_equal_shares(tokenizer, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = write("jsonl", tmp_path / "a", ["apple " * 40] * 30)
    other = write("jsonl", tmp_path / "b", ["river " * 40] * 8)
    text = TextSource((str(one), str(other)))
    stream = row_stream(text, tokenizer, HeldOut((), frozenset()), length=32, seed=0)
    first = ["river" in tokenizer.decode(row.tokens) for row in stream.take(8)]
    state = stream.state()
    assert first == [False, True] * 4
    again = row_stream(text, tokenizer, HeldOut((), frozenset()), length=32, seed=0, state=state)
    rest = tokens(again)
    assert rest == tokens(stream)
    assert len(rest) > 20
    assert stream.ended == [str(other), str(one)]


def test_each_text_is_held_out_under_its_name(tokenizer, tmp_path):
    for name in ("news", "notes", "medicine"):
        write_jsonl(tmp_path / f"{name}.jsonl", ({"text": f"{name} {text}"} for text in sentences(300)))
    news, notes, medicine = (str(tmp_path / f"{name}.jsonl") for name in ("news", "notes", "medicine"))
    text = TextSource((news, notes), held_out_tokens=128, domains=(("medical", medicine),))
    held_out = hold_out(text, tokenizer, length=32)
    assert [(t.name, t.domain) for t in held_out.texts] == [("news", False), ("notes", False), ("medical", True)]
    assert held_out.rows == [*held_out.texts[0].rows, *held_out.texts[1].rows]
    with pytest.raises(UsageError, match="two texts would be measured as 'news'"):
        hold_out(TextSource(news, domains=(("news", medicine),)), tokenizer, length=32)
    again = HeldOut.from_json(json.loads(json.dumps(held_out.to_json())))
    assert tokens(again.rows) == tokens(held_out.rows)
    assert again.digests == held_out.digests
    identity = text.identity()
    assert [one["source"] for one in identity["text"]] == [news, notes]
    assert identity["domain_texts"]["medical"]["source"] == medicine
    trained = row_stream(TextSource(medicine, held_out=news), tokenizer, held_out, length=32, seed=0)
    seen = tokenizer.decode([token for row in trained for token in row.tokens])
    assert not any(f"medicine Text {i}:" in seen for i in range(3))  # the measured ones are never trained on
    assert sum(f"medicine Text {i}:" in seen for i in range(3, 300)) > 200


def test_text_that_is_too_short_is_told_before_training(tokenizer, tmp_path):
    path = write("jsonl", tmp_path, sentences(100))
    text, held_out = TextSource(str(path)), HeldOut((), frozenset())
    have = len(tokens(row_stream(text, tokenizer, held_out, length=32, seed=0)))
    check_enough(text, tokenizer, held_out, rows=have, length=32, seed=0)
    with pytest.raises(TextError, match=f"ends after {have * 32} of the {have * 32 + 32} tokens asked for"):
        check_enough(text, tokenizer, held_out, rows=have + 1, length=32, seed=0)
