"""The divergence taken in pieces, against torch's own in double precision and against autograd on the whole matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div

from heal.models import losses as chunks
from heal.models.divergence import chunked_divergence, state_distance

WIDTH, VOCABULARY = 6, 11


def _case(seed, rows=2, length=9, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(rows, length, WIDTH, generator=generator) for _ in range(2))
    labels = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    labels[torch.rand(rows, length, generator=generator) < 0.3] = -100
    heads = [torch.randn(VOCABULARY, WIDTH, generator=generator) for _ in range(2)]
    return student, teacher, labels, heads


def _dense(student, teacher, labels, heads, temperature, plain):
    """The same by torch's own functions, all logits at once, in float64."""
    kept = labels[:, 1:] != -100
    ours = student.double()[:, :-1][kept] @ heads[0].double().T
    theirs = teacher.double()[:, :-1][kept] @ heads[1].double().T
    kl = kl_div(
        (ours / temperature).log_softmax(-1), (theirs / temperature).log_softmax(-1), reduction="sum", log_target=True
    )
    return (1 - plain) * temperature**2 * kl + plain * cross_entropy(ours, labels[:, 1:][kept], reduction="sum")


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.3, 5.0),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([64, 70 * VOCABULARY, 1 << 24]),
)
def test_pieces_sum_to_the_whole(seed, temperature, plain, at_once):
    student, teacher, labels, heads = _case(seed, rows=8, length=20)
    patched = pytest.MonkeyPatch()
    patched.setattr(chunks, "LOGITS", {"cpu": at_once})
    patched.setattr(chunks, "FLOATS", {"cpu": at_once // 3})
    try:
        leaf, goal = student.clone().requires_grad_(), teacher.clone().requires_grad_()
        how = {"vocabulary": VOCABULARY, "temperature": temperature, "plain": plain, "places": None}
        project, theirs = (lambda states, head=head: states @ head.T for head in heads)
        found = chunked_divergence(leaf, goal, labels, project, teacher_project=theirs, **how)
    finally:
        patched.undo()
    (0.25 * found).backward()
    same = student.clone().requires_grad_()
    dense = _dense(same, teacher, labels, heads, temperature, plain)
    dense.backward()
    assert found.item() == pytest.approx(dense.item(), rel=1e-4, abs=1e-3)
    assert torch.allclose(4 * leaf.grad, same.grad, rtol=1e-3, atol=1e-3)
    assert goal.grad is None  # the teacher gets no gradient


def test_no_chunk_makes_more_logits_than_it_may(monkeypatch):
    student, teacher, labels, heads = _case(4, rows=8, length=65)
    labels = labels.clamp_min(0)
    monkeypatch.setattr(chunks, "LOGITS", {"cpu": 100 * VOCABULARY})
    seen = []

    def project(states):
        seen.append(len(states))
        return states @ heads[0].T

    how = {"teacher_project": None, "temperature": 1.0, "plain": 0.0, "places": None}
    chunked_divergence(student.requires_grad_(), teacher, labels, project, vocabulary=VOCABULARY, **how)
    assert max(seen) == 100
    assert sum(seen) == 2 * 8 * 64  # the student's and the teacher's, each position once


def test_state_distance_is_relative_to_each_token():
    labels = torch.tensor([[-100, 1, 1, -100]])
    teacher = torch.ones(1, 4, 4)
    teacher[0, 1] *= 1000  # a massive activation
    student = teacher.clone()
    student[0, 0] *= 1.5
    student[0, 1] *= 1.5
    student[0, 3] *= 99  # predicts nothing
    assert state_distance(student, teacher, labels, None).item() == pytest.approx(0.5)
