"""Packing: every token in its place, and no document sees another, through real attention of each family."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heal.models.held_out import mean_loss
from heal.text.packing import IGNORED, collate, pack
from tests.support.models import FAMILIES, tiny


@given(
    st.lists(st.lists(st.integers(5, 99), max_size=30), max_size=20),
    st.integers(4, 17),
    st.sampled_from([None, 1]),
    st.sampled_from([None, 2]),
)
def test_rows_are_full_and_no_token_is_lost(documents, length, bos, eos):
    rows = list(pack(documents, length, bos=bos, eos=eos, keep_last=True))
    text = []
    for row in rows:
        assert len(row.tokens) == len(row.positions) == len(row.labels) == length
        assert row.positions[0] == 0
        starts = row.positions == 0
        assert (row.positions[1:][~starts[1:]] - row.positions[:-1][~starts[1:]] == 1).all()
        assert (row.labels[starts] == IGNORED).all()
        if bos is not None:
            assert (row.tokens[starts] == bos).all()
        labelled = row.labels != IGNORED
        assert (row.labels[labelled] == row.tokens[labelled]).all()
        if bos is not None:  # then all text is labelled, and text is all that is labelled
            text += [token for token in row.labels[labelled].tolist() if token != eos]
    if bos is not None:
        assert text == [token for document in documents for token in document]
    full = list(pack(documents, length, bos=bos, eos=eos))
    assert len(full) in (len(rows), len(rows) - 1)
    assert all((a.tokens == b.tokens).all() for a, b in zip(full, rows, strict=False))


def test_a_document_cut_at_a_row_goes_on_as_its_own():
    rows = list(pack([[10, 11, 12], [20, 21, 22, 23, 24]], 8, bos=1, eos=2, keep_last=True))
    assert rows[0].tokens.tolist() == [1, 10, 11, 12, 2, 1, 20, 21]
    assert rows[0].positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert rows[0].labels.tolist() == [-100, 10, 11, 12, 2, -100, 20, 21]
    assert rows[1].tokens.tolist()[:5] == [1, 22, 23, 24, 2]
    assert rows[1].labels.tolist() == [-100, 22, 23, 24, 2, -100, -100, -100]
    assert rows[1].targets == 4


def test_a_row_too_short_for_a_document_is_refused():
    with pytest.raises(ValueError, match="cannot hold"):
        list(pack([[1, 2]], 3, bos=None, eos=None))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", [None, "eager"])
def test_a_packed_row_gives_the_logits_of_its_documents_alone(family, attention):
    model = tiny(family, attention=attention)
    documents = [[7, 8, 9, 10, 11], [20, 21, 22], [30, 31, 32, 33, 34, 35]]
    (row,) = pack(documents, 20, bos=1, eos=2)
    batch = collate([row])
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=torch.tensor([[1, *d, 2]]), use_cache=False).logits[0] for d in documents])
        leaking = model(input_ids=batch["input_ids"], use_cache=False).logits[0]
    assert (packed - alone).abs().max() <= 1e-5
    assert (leaking - alone).abs().max() > 1e-4  # else the line above would prove nothing


def test_mean_loss_is_that_of_the_documents_alone():
    model = tiny("llama")
    documents = [[7, 8, 9, 10, 11], [20, 21, 22], [30, 31, 32, 33, 34, 35]]
    rows = list(pack(documents, 9, bos=1, eos=None, keep_last=True))
    losses = []
    for document in ([1, 7, 8, 9, 10, 11], [1, 20, 21], [1, 22], [1, 30, 31, 32, 33, 34, 35]):
        ids = torch.tensor([document])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    assert mean_loss(model, rows, batch_size=2) == pytest.approx(torch.cat(losses).mean().item(), abs=1e-6)
