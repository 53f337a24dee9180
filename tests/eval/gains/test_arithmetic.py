"""Medians, ranges and ratios of turns, by hand."""

import pytest

from eval.gains.arithmetic import all_gains, in_turn, model_gains, ratio_spread, spread
from eval.gains.orders import Turn
from eval.gains.record import Spread

SIZES = {"context": 100, "new_tokens": 20, "sequences": 2}


def turn(prefill=1.0, decode=1.0, peak=1000, share=1.0):
    return Turn(
        parameters=int(1000 * share),
        weight_bytes=int(4000 * share),
        cache_bytes=int(4800 * share),
        peak_memory_bytes=peak,
        prefill_seconds=prefill,
        decode_seconds=decode,
    )


def test_models_have_their_turns_in_order_round_after_round():
    assert list(in_turn(["full", "cut"], 3)) == ["full", "cut", "full", "cut", "full", "cut"]


def test_a_spread_is_the_median_and_the_range():
    assert spread([3, 1, 2]) == Spread(median=2, low=1, high=3)
    assert spread([4, 1, 2, 8]) == Spread(median=3, low=1, high=8)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_ratios_are_of_the_same_round():
    """A machine that is slow in the second round slows both: the ratio does not see it."""
    full, cut = [10.0, 5.0, 10.0], [12.0, 6.0, 13.0]
    assert ratio_spread(cut, full) == Spread(median=1.2, low=1.2, high=1.3)
    with pytest.raises(ValueError, match="zip"):
        ratio_spread(cut, full[:2])


def test_rates_and_bytes_follow_from_the_turns():
    full = [turn(4.0, 2.0, peak=1000), turn(5.0, 4.0, peak=2000)]
    cut = [turn(2.0, 1.0, peak=600, share=0.75), turn(4.0, 2.0, peak=1000, share=0.75)]
    first, second = all_gains({"full": full, "cut": cut}, "full", **SIZES)
    assert (first.model, second.model, first.ratio) == ("full", "cut", None)
    assert first.prefill_tokens_per_second == Spread(median=45, low=40, high=50)  # 200 tokens in 4 s and in 5 s
    assert first.decode_tokens_per_second == Spread(median=15, low=10, high=20)  # 40 tokens in 2 s and in 4 s
    assert first.kv_bytes_per_token == 4800 / 240
    assert first.peak_memory_bytes == Spread(median=1500, low=1000, high=2000)
    ratio = second.ratio
    assert (ratio.parameters, ratio.weight_bytes, ratio.kv_bytes_per_token) == (0.75, 0.75, 0.75)
    assert ratio.prefill_tokens_per_second == Spread(median=1.625, low=1.25, high=2)
    assert ratio.decode_tokens_per_second == Spread(median=2, low=2, high=2)
    assert ratio.peak_memory_bytes == Spread(median=0.55, low=0.5, high=0.6)


def test_what_was_not_measured_is_none():
    assert model_gains("cut", [turn(peak=None)], [turn()], **SIZES).ratio.peak_memory_bytes is None
    assert model_gains("cut", [turn()], [turn(peak=None)], **SIZES).ratio.peak_memory_bytes is None
    stateless = turn(share=0.0)
    lonely = all_gains({"cut": [turn()]}, "full", **SIZES)
    assert [row.ratio for row in lonely] == [None]
    full = Turn(**{**vars(turn()), "cache_bytes": stateless.cache_bytes})
    assert model_gains("cut", [full], [full], **SIZES).ratio.kv_bytes_per_token is None
