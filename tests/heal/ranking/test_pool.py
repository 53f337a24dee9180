"""The pool: drawn by the seed, from several sources in turns, with what rows say of themselves."""

import numpy as np
import pytest

from heal.ranking.pool import read_pool, reading
from heal.ranking.settings import RankSettings
from heal.text.packing import IGNORED
from prune.checkpoint.source import locate
from prune.common.errors import TextError
from prune.models.loading import load_tokenizer
from tests.support.ranking import write_pool
from tests.support.texts import sentences, write_jsonl


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(locate(tiny_llama))


def settings(*paths, **changes):
    return RankSettings(text=tuple(map(str, paths)), **changes)


def test_the_seed_settles_which_documents_there_are_and_their_order(tmp_path, tokenizer):
    pool = write_pool(tmp_path / "pool.jsonl", sentences(60))
    first = read_pool(settings(pool, documents=20), tokenizer)
    assert first.documents == read_pool(settings(pool, documents=20), tokenizer).documents
    assert first.documents == read_pool(settings(pool, documents=40), tokenizer).documents[:20]
    other = read_pool(settings(pool, documents=20, seed=1), tokenizer)
    assert set(other.texts) != set(first.texts)
    assert other.sha256 != first.sha256


def test_sources_come_in_turns_and_rows_say_what_they_are(tmp_path, tokenizer):
    told = write_pool(tmp_path / "told.jsonl", sentences(30), source="books", topic="law", kind="prose")
    silent = write_pool(tmp_path / "silent.jsonl", sentences(4, seed=1))
    pool = read_pool(settings(told, silent, documents=12), tokenizer)
    bins = [document.bin for document in pool.documents]
    assert bins[:4] == [("books", "law", "prose"), ("silent.jsonl", "", "")] * 2
    assert bins.count(("silent.jsonl", "", "")) == 4
    assert len(bins) == 12


def test_a_document_is_read_from_its_beginning_and_counted_whole(tmp_path, tokenizer):
    texts = ["one two three four five six seven eight nine ten " * 20, "a b c", *sentences(5)]
    pool = read_pool(settings(write_pool(tmp_path / "p.jsonl", texts), length=16), tokenizer)
    assert "a b c" not in pool.texts  # fewer than 8 tokens
    row = pool.rows[pool.texts.index(texts[0])]
    ids = tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    assert row.tokens.tolist() == [tokenizer.bos_token_id, *ids[:15]]
    assert row.labels.tolist() == [IGNORED, *ids[:15]]
    assert pool.tokens[pool.texts.index(texts[0])] == len(ids)


def test_tokens_bound_the_pool(tmp_path, tokenizer):
    pool = read_pool(settings(write_pool(tmp_path / "p.jsonl", sentences(60)), pool_tokens=200), tokenizer)
    assert 200 <= sum(pool.tokens) < 300


def test_chats_and_empty_pools_are_refused_in_one_line(tmp_path, tokenizer):
    chat = [{"messages": [{"role": "user", "content": "hi"}]}]
    with pytest.raises(TextError, match="is a chat"):
        read_pool(settings(write_jsonl(tmp_path / "chat.jsonl", chat)), tokenizer)
    with pytest.raises(TextError, match="1 document of 8 tokens or more is nothing to rank"):
        read_pool(settings(write_pool(tmp_path / "one.jsonl", ["x", *sentences(1)])), tokenizer)


@pytest.mark.parametrize(
    ("before", "bearing", "kept"),
    [
        (3, 4, (3, 4)),
        (3, 20, (3, 7)),  # a document is cut at its end
        (20, 3, (7, 3)),  # a prompt at its beginning
        (20, 20, (5, 5)),
        (0, 20, (0, 10)),
    ],
)
def test_a_reading_keeps_to_its_length(before, bearing, kept):
    row = reading(range(100, 100 + before), range(200, 200 + bearing), 10)
    head, tail = kept
    assert row.tokens.tolist() == [*range(100 + before - head, 100 + before), *range(200, 200 + tail)]
    assert np.flatnonzero(row.labels != IGNORED).tolist() == list(range(max(1, head), head + tail))
