"""Gradients by LoRA weights against torch's own, and scores against what a step really does."""

import numpy as np
import pytest
import torch

from heal.ranking.methods.gradients import LoraGradients, gradient_scores, second_moments, update_direction, with_own
from heal.text.packing import IGNORED, Row
from prune.common.errors import RegrowthError
from prune.common.files.resume import FinishedParts
from tests.support.ranking import adapted, rows


def scores(model, documents, queries, *, dimensions=1 << 14, moments=6, parts=None, advance=lambda _: None):
    parts = parts or FinishedParts()
    how = {"dimensions": dimensions, "moments": moments, "seed": 0, "parts": parts, "advance": advance}
    return gradient_scores(model, documents, queries, **how)


def loss_of(model, row):
    tokens, labels = (torch.from_numpy(part).long() for part in (row.tokens, row.labels))
    return torch.nn.functional.cross_entropy(model(input_ids=tokens[None]).logits[0, :-1], labels[1:])


def test_a_gradient_is_that_of_the_mean_loss_by_every_lora_weight():
    plain, ready = adapted(loss=False), adapted()
    gradients = LoraGradients(ready)
    assert len(gradients.weights) == 2 * 7 * 2  # A and B of seven projections in two layers
    assert all(".lora_" in name for name in gradients.weights)
    for row in rows(3):
        by_hand = torch.autograd.grad(loss_of(plain, row), [w for w in plain.parameters() if w.requires_grad])
        for part, wanted in zip(gradients(row), by_hand, strict=True):
            torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-6)


def test_second_moments_are_the_mean_of_squares_and_scale_the_step():
    first, second = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 0.0])]
    moments = second_moments([first, second])
    torch.testing.assert_close(moments[0], torch.tensor([5.0, 2.0]))
    torch.testing.assert_close(update_direction(first, moments)[0], torch.tensor([5**-0.5, 2**0.5]))
    torch.testing.assert_close(with_own(second_moments([first]), second, 1)[0], moments[0])
    with pytest.raises(ValueError, match="no gradients"):
        second_moments([])


def test_a_score_is_the_cosine_of_the_whole_vectors_to_within_the_sketch():
    model, documents, queries = adapted(), rows(6), rows(3, seed=1)
    gradients = LoraGradients(model)
    moments = second_moments(map(gradients, documents))
    steps = [torch.cat([p.reshape(-1) for p in update_direction(gradients(row), moments)]) for row in documents]
    towards = [torch.cat([part.reshape(-1) for part in gradients(row)]) for row in queries]
    exact = [[float(torch.cosine_similarity(step, query, dim=0)) for query in towards] for step in steps]
    np.testing.assert_allclose(scores(model, documents, queries), exact, atol=5 / (1 << 14) ** 0.5)


def test_a_step_on_a_document_changes_a_querys_loss_as_its_score_says():
    plain, model, documents, queries = adapted(loss=False), adapted(), rows(8), rows(4, seed=1)
    found = scores(model, documents, queries, moments=8, dimensions=1 << 20)
    gradients = LoraGradients(model)
    moments = second_moments(map(gradients, documents))
    weights = [weight for weight in plain.parameters() if weight.requires_grad]
    changes = np.zeros_like(found)
    for number, row in enumerate(documents):
        step = update_direction(gradients(row), moments)
        length = float(torch.cat([part.reshape(-1) for part in step]).norm())
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, part in zip(weights, step, strict=True):
                    weight.sub_(sign * 1e-2 / length * part)
                losses.append([float(loss_of(plain, query)) for query in queries])
                for weight, part in zip(weights, step, strict=True):
                    weight.add_(sign * 1e-2 / length * part)
        changes[number] = np.subtract(*losses)
    for query in range(4):  # a query's scores leave out the length of its own gradient
        assert np.corrcoef(found[:, query], -changes[:, query])[0, 1] > 0.9


def test_a_document_that_holds_the_answer_is_the_first():
    model, documents = adapted(), rows(20)
    for query in rows(3, seed=2):
        held = Row(query.tokens, query.positions, np.where(query.positions == 0, IGNORED, query.tokens))
        found = scores(model, [*documents, held], [query])
        assert found[:, 0].argmax() == 20


def test_a_document_that_stands_there_twice_has_one_score():
    model, documents, queries = adapted(), rows(5), rows(2, seed=1)
    found = scores(model, [*documents, documents[1]], queries)
    assert (found[5] == found[1]).all()
    assert (found[:5] == scores(model, documents, queries)).all()
    gradients = LoraGradients(model)  # and measured a second time, it is the same one
    assert all(map(torch.equal, gradients(documents[1]), gradients(documents[1])))


def test_finished_documents_are_not_measured_again(monkeypatch):
    model, documents, queries = adapted(), rows(20), rows(3, seed=1)
    parts, told = FinishedParts(), []
    whole = scores(model, documents, queries, parts=parts, advance=told.append)
    assert sum(told) == 20 + 3 + 6
    # it would be called for a missing document
    monkeypatch.setattr("heal.ranking.methods.gradients.update_direction", None)
    assert (scores(model, documents, queries, parts=parts) == whole).all()


def test_a_gradient_that_says_nothing_is_an_error():
    model = adapted()
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data.zero_()
    with pytest.raises(RegrowthError, match="query 1 is zero"):
        scores(model, rows(2), rows(1))
    model.base_model.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(RegrowthError, match="query 1 is not finite"):
        scores(model, rows(2), rows(1))
