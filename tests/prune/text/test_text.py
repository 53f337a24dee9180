"""Text sources of each kind, their errors, and the windows drawn from them."""

import gzip
import json
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prune.common.errors import TextError
from prune.text.documents import Document, Documents, read_documents
from prune.text.windows import (
    draw_held_out,
    draw_samples,
    draw_windows,
    encode,
    iter_windows,
    shares,
    source_sha256,
    text_identity,
)
from tests.support.texts import write_jsonl

ROWS = ["The first document.", "The second one, longer.", "Third."]


@pytest.fixture(scope="module")
def tokenizer(sample_model):
    return AutoTokenizer.from_pretrained(sample_model)


def _write(folder, kind, field="text"):
    path = folder / f"a.{kind}"
    lines = "".join(json.dumps({field: row}) + "\n" for row in ROWS)
    if kind == "jsonl":
        path.write_text(lines)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        pq.write_table(pa.table({field: ROWS}), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_rows_of_each_kind(tmp_path, kind):
    path = _write(tmp_path, kind)
    assert list(read_documents(str(path))) == [
        Document(row, f"{path.name}:{i}", field="text") for i, row in enumerate(ROWS)
    ]
    assert [d.text for d in read_documents(str(_write(tmp_path, kind, "body")), field="body")] == ROWS


def test_txt_is_split_at_blank_lines_and_short_paragraphs_are_joined(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\nstill one\n\n" + "two " * 400 + "\n\n\nthree")
    assert [d.text for d in read_documents(str(path))] == ["one\nstill one\n\n" + ("two " * 400), "three"]


def test_a_txt_without_blank_lines_is_split_at_its_lines(tmp_path):
    path = tmp_path / "dump.txt"
    lines = [f"Line {i} of a dump, " + "word " * (i % 90) for i in range(400)]
    path.write_text("\n".join(lines) + "\n\nA short end.\n")
    texts = [d.text for d in read_documents(str(path))]
    assert len(texts) > 40
    assert all(1200 <= len(text) < 1200 + 500 for text in texts[:-1])
    assert "\n".join(texts).replace("\n\n", "\n").split("\n") == [*lines, "A short end."]
    long = "\n".join(["A paragraph with lines of its own."] * 500)  # 17,000 characters
    path.write_text(f"{long}\n\n{long}")
    assert [d.text for d in read_documents(str(path))] == [long, long]


def test_a_folder_is_read_in_order_of_names(tmp_path):
    _write(tmp_path, "jsonl")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "last"}))
    assert [d.text for d in read_documents(str(tmp_path))] == [*ROWS, "last"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "holds no text"),
        ("a.jsonl", b"   \n\n", "holds no text"),
        ("a.txt", b"\n \n", "holds no text"),
        ("a.jsonl", b'{"text": "a"}\nnot json\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "line 1 is not JSON"),
        ("a.jsonl", b'{"body": "a"}\n', r"no text field 'text' \(it has: body\)"),
        ("a.jsonl", b"[1]\n", "line 1 is a list, not an object"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.parquet", b"nothing", "not a whole parquet file"),
        ("a.jsonl.gz", b"nothing", "not a whole gzip file"),
        ("a.csv", b"a,b", "is none of .txt"),
    ],
)
def test_bad_sources_are_named(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError, match=words) as error:
        list(read_documents(str(path)))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet"])
def test_a_file_that_is_damaged_inside_is_named(tmp_path, kind):
    path = _write(tmp_path, kind)
    content = bytearray(path.read_bytes())
    middle = 12 if kind == "jsonl.gz" else len(content) // 8  # behind the header, and in the first column's page
    content[middle : middle + 12] = b"\xff" * 12
    path.write_bytes(content)
    with pytest.raises(TextError, match=f"not a whole {'gzip' if kind == 'jsonl.gz' else kind} file") as error:
        list(read_documents(str(path)))
    assert str(path) in str(error.value)


def test_missing_source_and_missing_column(tmp_path):
    with pytest.raises(TextError, match="does not exist"):
        list(read_documents(str(tmp_path / "none.txt")))
    with pytest.raises(TextError, match="holds no .txt"):
        list(read_documents(str(tmp_path)))
    with pytest.raises(TextError, match=r"no column 'text' \(it has: body\)"):
        list(read_documents(str(_write(tmp_path, "parquet", "body"))))


def test_hub_without_a_network_names_the_option(monkeypatch):
    import datasets
    import huggingface_hub

    # the environment was read when they were imported; without a network and not offline they try for half a minute
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(TextError, match="--text FILE"):
        list(read_documents("hub:regrowth/none"))
    with pytest.raises(TextError, match="form hub:repo"):
        list(read_documents("hub:"))


def test_hash_follows_content_and_name(tmp_path):
    path = _write(tmp_path, "jsonl")
    first = source_sha256(str(path))
    assert source_sha256(str(tmp_path)) == first
    path.write_text("x")
    assert source_sha256(str(path)) != first
    assert text_identity("hub:a/b")["sha256"] is None


def _documents(texts):
    return [Document(text, str(i)) for i, text in enumerate(texts)]


def test_short_documents_are_taken_whole_and_tiny_ones_passed_over(tokenizer):
    text = "Nine words are enough to make a document here."
    windows = draw_windows(_documents(["no", text, ""]), tokenizer, samples=8, length=512, seed=3)
    assert windows == [[1, *encode(tokenizer, text)]]
    with pytest.raises(TextError, match="8 tokens or more"):
        draw_windows(_documents(["no"]), tokenizer, samples=1, length=64, seed=0)


class Numbers:
    """A tokenizer of whole numbers."""

    def __init__(self, bos):
        self.bos_token_id = bos

    def __call__(self, text, **_):
        return {"input_ids": [int(word) for word in text.split()]}


@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=6),
    st.integers(9, 40),
    st.integers(9, 40),
    st.integers(0, 12),
    st.integers(0, 3),
    st.sampled_from([None, 0]),
)
def test_further_windows_never_overlap_and_leave_little(sizes, length, other, count, seed, bos):
    """Of documents of distinct tokens: first as one window each, then on; and beside windows of another length."""
    texts = [" ".join(str(1000 * k + i) for i in range(1, size + 1)) for k, size in enumerate(sizes)]
    how = {"tokenizer": Numbers(bos), "seed": seed}
    read = list(islice(iter_windows(_documents(texts), length=other, **how), count))
    rest = list(iter_windows(_documents(texts), length=length, read=read, **how))
    head = [] if bos is None else [bos]
    tokens = []
    for window in [*read, *rest]:
        body = window.ids[len(head) :]
        assert window.ids[: len(head)] == head
        assert body == list(range(body[0], body[0] + len(body)))
        assert (body[0] // 1000, body[0] % 1000 - 1) == (window.document, window.start)
        assert len(body) == window.stop - window.start >= 8
        assert window.whole == (len(body) == sizes[window.document])
        tokens += body
    assert all(len(window.ids) <= length for window in rest)
    assert len(tokens) == len(set(tokens))
    firsts = [window.document for window in rest if window.document not in {w.document for w in read}]
    longs = [k for k, size in enumerate(sizes) if size >= 8]
    alone = [k for k in longs if k not in {w.document for w in read}]
    assert sorted(firsts[: len(alone)]) == alone  # one window of every document comes before a second of any
    left = sum(sizes[k] for k in longs) - len(tokens)
    assert left <= 7 * (len(longs) + len(read) + len(rest) + 1)  # stretches under 8 tokens


def numbers(folder, name, documents):
    return str(write_jsonl(folder / name, ({"text": " ".join(map(str, tokens))} for tokens in documents)))


def test_sources_give_equal_shares_in_turns_and_held_out_text_is_not_what_was_read(tmp_path):
    first = numbers(tmp_path, "a.jsonl", [[100 + i] * 10 for i in range(20)])
    second = numbers(tmp_path, "b.jsonl", [[200 + i] * 30 for i in range(20)])
    assert shares(7, 3) == [3, 2, 2]
    drawn = draw_samples([first, second], Numbers(1), samples=10, length=16, seed=0)
    assert [s.source for s in drawn] == [0, 1] * 5
    assert all(s.whole == (s.source == 0) for s in drawn)
    assert max(len(s.ids) for s in drawn) == 16
    held, apart = draw_held_out([first, second], Numbers(1), tokens=100, length=16, seed=0, skip=10)
    assert apart
    assert {s.ids[1] for s in held}.isdisjoint({s.ids[1] for s in drawn})
    assert 100 <= sum(len(s.ids) for s in held) <= 132
    again, apart = draw_held_out([first], Numbers(1), tokens=50, length=16, seed=0, skip=20)
    assert not apart
    assert again


def test_held_out_text_of_one_long_document_is_what_the_scan_left(tmp_path):
    path = numbers(tmp_path, "a.jsonl", [range(10, 2010)])
    drawn = draw_samples([path], Numbers(1), samples=30, length=33, seed=0)
    assert len(drawn) == 30
    held, apart = draw_held_out([path], Numbers(1), tokens=400, length=65, seed=0, skip=30, skip_length=33)
    assert apart
    assert 400 <= sum(len(sample.ids) for sample in held) <= 465
    spent = {token for sample in drawn for token in sample.ids[1:]}
    assert spent.isdisjoint(token for sample in held for token in sample.ids[1:])
    held, apart = draw_held_out([path], Numbers(1), tokens=400, length=65, seed=0, skip=60, skip_length=33)
    assert not apart  # 80 tokens are left, which say little: the first are taken again
    assert sum(len(sample.ids) for sample in held) >= 400
    with pytest.raises(TextError, match="8 tokens or more"):
        draw_held_out([numbers(tmp_path, "b.jsonl", [[5, 6]])], Numbers(1), tokens=50, length=16, seed=0)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_other_fields_of_a_row_come_with_its_text(tmp_path, suffix):
    rows = [
        {"text": "one", "source": "books", "topic": None, "year": 1999},
        {"text": "two", "source": None, "topic": "law", "year": 2000},
    ]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    documents = list(read_documents(str(path), also=("source", "topic", "year", "kind")))
    assert [document.also for document in documents] == [{"source": "books"}, {"topic": "law"}]
    assert [document.also for document in read_documents(str(path))] == [{}, {}]
    assert [type(document.text) for document in documents] == [str, str]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_first_of_several_fields_and_lists_of_a_row(tmp_path, suffix):
    rows = [
        {"question": "How many?", "choices": ["one", "two"], "text": "a"},
        {"question": "How so?", "choices": None, "text": "b"},
    ]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        rows.append({"question": None, "choices": [1, 2], "text": "c"})
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = list(Documents(str(path), ("prompt", "question", "text"), lists=["choices"]))
    told = [(row.text, row.field, dict(row.also)) for row in found]
    assert told[:2] == [("How many?", "question", {"choices": ["one", "two"]}), ("How so?", "question", {})]
    assert told[2:] == ([("c", "text", {})] if suffix == "jsonl" else [])  # a parquet file has its columns in all rows
    with pytest.raises(TextError, match=r"no (text field|column) 'prompt' or 'answer'"):
        list(Documents(str(path), ("prompt", "answer")))


def test_each_line_of_a_txt_file_is_a_document_where_that_is_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One.\n\n  Two.  \nThree.\n")
    reader = Documents(str(path), lines=True)
    assert [next(reader).text, next(reader).text] == ["One.", "Two."]
    (last,) = Documents(str(path), lines=True, state=reader.state())
    assert (last.text, last.place) == ("Three.", "a.txt:3")
