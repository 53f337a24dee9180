"""Hooks and batches: which states are compared, in which family, with padding on which side."""

import pytest
import torch

from prune.common.errors import RegrowthError
from prune.models.batches import plan_batches
from prune.models.walks.hooks import decoder_of, watching
from prune.scanning.angles import rows
from prune.scanning.scan import measure
from prune.scanning.states import BatchStates
from tests.support.models import tiny
from tests.support.states import LENGTHS, SCANNED, plain_distances, plain_influence, plain_states, silence, windows


@pytest.mark.parametrize("tokens", ["last", "all"])
@pytest.mark.parametrize("family", SCANNED)
def test_every_family_matches_plain_loops(family, tokens):
    model = tiny(family, layers=6)
    states = [plain_states(model, window) for window in windows()]
    got = measure(model, windows(), tokens=tokens, batch_size=2)
    for row, expected in zip(rows(got.distances.mean(), 6), plain_distances(states, tokens), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    assert got.influence / got.token_count == pytest.approx(plain_influence(states), abs=1e-5)
    assert got.token_count == sum(LENGTHS)


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_batch_size_and_sample_order_change_nothing(tokens):
    model = tiny(layers=6)
    alone = measure(model, windows(), tokens=tokens, batch_size=1)
    for size in (2, 5, 100, "auto"):
        got = measure(model, windows(), tokens=tokens, batch_size=size)
        assert got.distances.mean() == pytest.approx(alone.distances.mean(), abs=1e-6)
        assert got.distances.stderr() == pytest.approx(alone.distances.stderr(), abs=1e-6)
        assert got.influence == pytest.approx(alone.influence, abs=1e-4)
    turned = measure(model, windows()[::-1], tokens=tokens, batch_size=2)
    assert turned.distances.mean() == pytest.approx(alone.distances.mean(), abs=1e-6)


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_left_padding_gives_the_numbers_of_right_padding(tokens):
    states = torch.randn(7, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    right = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    results = []
    for mask, shift in ((right, 0), (right.flip(1), 2)):
        batch = BatchStates(mask, [0, 1], layers=6, tokens=tokens)
        for index in range(7):
            moved = states[index].clone()
            moved[0] = moved[0].roll(shift, 0)
            batch.receive(index, moved)
        results.append(batch.result())
    assert results[0].totals == pytest.approx(results[1].totals, abs=1e-12)
    assert results[0].influence == pytest.approx(results[1].influence, abs=1e-9)
    assert results[0].token_count == results[1].token_count == 8


def test_the_last_state_is_taken_before_the_final_norm():
    model = tiny(layers=6)
    torch.nn.init.uniform_(model.model.norm.weight, -2.0, 2.0)  # so that the norm turns vectors
    x = plain_states(model, windows()[0])
    with torch.no_grad():
        normed = model.model(torch.tensor([windows()[0]]), output_hidden_states=True).hidden_states[-1][0, -1].numpy()
    got = rows(measure(model, windows()[:1]).distances.mean(), 6)[0][-1]
    assert got == pytest.approx(plain_distances([x], "last")[0][-1], abs=1e-5)
    x[6, -1] = normed
    assert abs(got - plain_distances([x], "last")[0][-1]) > 1e-2


@pytest.mark.parametrize("loud", range(6))
def test_only_blocks_that_hold_the_one_loud_layer_are_apart(loud):
    model = tiny(layers=6)
    for index, layer in enumerate(model.model.layers):
        if index != loud:
            silence(layer)
    got = measure(model, windows())
    for n, row in enumerate(rows(got.distances.mean(), 6), start=1):
        for start, value in enumerate(row):
            assert (value > 1e-4) == (start <= loud < start + n), (n, start)
    assert (got.influence > 1e-4).tolist() == [index == loud for index in range(6)]


def test_bf16_states_are_compared_in_float64():
    model = tiny(layers=6).to(torch.bfloat16)
    x = plain_states(model, windows()[0])
    expected = plain_distances([x], "last")[0][2]
    assert rows(measure(model, windows()[:1]).distances.mean(), 6)[0][2] == pytest.approx(expected, abs=1e-9)


def test_large_fp16_states_do_not_overflow():
    batch = BatchStates(torch.ones(1, 3).bool(), [0], layers=1, tokens="last")
    state = torch.full((1, 3, 4096), 1500.0, dtype=torch.float16)
    batch.receive(0, state)
    state[..., :2048] *= -1
    batch.receive(1, state)
    result = batch.result()
    assert result.totals[0, 0] == pytest.approx(0.5, abs=1e-9)
    assert result.influence[0] == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("layer", "where"), [(2, "input of layer 3"), (5, "output of layer 5")])
def test_a_state_that_is_not_finite_names_layer_and_sample(bad, layer, where):
    model = tiny(layers=6)
    given = windows()
    given[2][5] = 63
    marked = torch.zeros(64, dtype=torch.bool)
    marked[63] = True
    for window in (w for i, w in enumerate(given) if i != 2):
        window[:] = [min(token, 62) for token in window]
    seen = {}
    decoder_of(model).register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.update(ids=kwargs["input_ids"]), with_kwargs=True
    )

    def spoil(_module, _args, output):
        return output.masked_fill(marked[seen["ids"]].unsqueeze(-1), bad)

    model.model.layers[layer].register_forward_hook(spoil)
    with pytest.raises(RegrowthError, match=rf"{where} is not finite .* in sample 2 "):
        measure(model, given, batch_size=5)


def test_a_zero_state_has_no_angle():
    batch = BatchStates(torch.ones(2, 1).bool(), [4, 7], layers=1, tokens="last")
    batch.receive(0, torch.ones(2, 1, 3))
    batch.receive(1, torch.tensor([[[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]]))
    with pytest.raises(RegrowthError, match=r"output of layer 0 is all zeros.* sample 7 "):
        batch.result()


def test_hooks_are_removed_and_the_head_is_not_run():
    model = tiny(layers=6)
    ran = []
    model.lm_head.register_forward_hook(lambda *_: ran.append(1))
    measure(model, windows())
    assert not ran
    with pytest.raises(ZeroDivisionError), watching(model):
        1 / 0  # noqa: B018
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in model.model.layers)


def test_a_missing_layer_is_an_error():
    batch = BatchStates(torch.ones(1, 1).bool(), [0], layers=2, tokens="last")
    batch.receive(0, torch.ones(1, 1, 3))
    with pytest.raises(RegrowthError, match="out of order"):
        batch.receive(2, torch.ones(1, 1, 3))
    with pytest.raises(RegrowthError, match="0 of its 2 layers"):
        batch.result()


def test_batches_hold_every_sample_once_and_keep_to_the_budget():
    lengths = [5, 100, 7, 64, 64, 8, 300]
    batches = plan_batches(lengths, batch_size="auto", budget=128)
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(b) * max(lengths[i] for i in b) <= 128 or len(b) == 1 for b in batches)
    assert batches[0] == [6]
    assert [len(b) for b in plan_batches(lengths, batch_size=3, budget=1)] == [3, 3, 1]
