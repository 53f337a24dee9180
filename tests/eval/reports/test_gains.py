"""What you gain and what it costs, in words."""

import pytest

from eval.gains.record import Gains
from eval.reports.sections.gains import cost_line, gain_line, gains_section, gains_table, measured_how, plain_lines
from tests.support.reports import planted_gains


def interval(estimate, low, high):
    return {"estimate": estimate, "low": low, "high": high}


def row(domain, accuracy, bits, *, protocol="choice", above=True, noise=None):
    versus = {
        "noise": noise,
        "accuracy_difference": interval(*accuracy),
        "answer_nll_bits_per_byte_difference": interval(*bits),
        "full_above_chance": above,
    }
    return {"domain": domain, "protocol": protocol, "model": "cut", "versus": versus}


NOTHING = (0.0, -0.02, 0.02)


def bill(*rows, prose=(), needles=(), thinking=(), gains=None):
    more = {"needles": list(needles), "thinking": list(thinking)}
    return more | {
        "models": [{"label": "full"}, {"label": "cut"}],
        "rows": list(rows),
        "prose": list(prose),
        "gains": gains,
    }


def ratios(**changes):
    speed = {"median": 1.214, "low": 1.18, "high": 1.25}
    ratio = {"parameters": 0.8, "weight_bytes": 0.753, "kv_bytes_per_token": 0.8, "peak_memory_bytes": speed}
    ratio |= {"prefill_tokens_per_second": speed, "decode_tokens_per_second": {"median": 1.0, "low": 0.9, "high": 1.1}}
    return {"models": [{"model": "full", "ratio": None}, {"model": "cut", "ratio": ratio | changes}], "notes": []}


def test_gains_are_shares_of_bytes_and_multiples_of_speed():
    assert gain_line(bill(gains=ratios()), "cut") == (
        "25 % fewer weight bytes, 20 % fewer KV-cache bytes a token, 21 % more peak memory, prompts read 1.21x as fast "
        "[1.18, 1.25], answers written at a speed that the rounds do not tell from the full model's [0.90x, 1.10x]"
    )
    small = gain_line(bill(gains=ratios(weight_bytes=0.996, kv_bytes_per_token=None, peak_memory_bytes=None)), "cut")
    assert small.startswith("0.4 % fewer weight bytes, prompts read ")
    assert gain_line(bill(gains=ratios(weight_bytes=1.0)), "cut").startswith("as many weight bytes, ")


@pytest.mark.parametrize(
    ("low", "median", "high", "told"),
    [
        (0.73, 1.15, 1.51, "prompts read at a speed that the rounds do not tell from the full model's [0.73x, 1.51x]"),
        (1.0, 1.15, 1.2, "prompts read at a speed that the rounds do not tell from the full model's [1.00x, 1.20x]"),
        (1.05, 1.15, 1.2, "prompts read 1.15x as fast [1.05, 1.20]"),
        (0.7, 0.8, 0.9, "prompts read 0.80x as fast [0.70, 0.90]"),
    ],
)
def test_a_speed_is_a_gain_only_where_all_rounds_say_so(low, median, high, told):
    speed = {"median": median, "low": low, "high": high}
    assert told in gain_line(bill(gains=ratios(prefill_tokens_per_second=speed)), "cut").replace(", answers", "; ")


def test_what_was_not_measured_is_no_line():
    assert gain_line(bill(), "cut") == gain_line(bill(gains=ratios()), "full") == ""
    assert gain_line(bill(gains=ratios()), "another") == ""
    assert plain_lines(bill()) == []
    assert gains_section(bill()) is None


def test_a_cost_is_the_worst_of_a_domain_that_is_beyond_doubt():
    rows = [
        row("math", (-0.05, -0.08, -0.02), (0.1, 0.05, 0.15)),
        row("math", (-0.09, -0.2, 0.02), (0.1, 0.05, 0.15), protocol="generation"),
        row("physics", (-0.3, -0.4, -0.2), (0.31, 0.2, 0.4), above=False),  # at chance: no accuracy to lose
        row("law", NOTHING, NOTHING),
        row("medical", (0.03, 0.01, 0.05), (-0.1, -0.2, -0.05)),
    ]
    prose = [{"text": "wiki", "model": "cut", "difference": interval(0.08, 0.03, 0.13)}]
    assert cost_line(bill(*rows, prose=prose), "cut") == (
        "math choice −5.0 points [−8.0, −2.0]; physics choice +0.310 bits per byte [+0.200, +0.400] of answer "
        "NLL; wiki prose +0.080 nats a token [+0.030, +0.130]; no loss beyond doubt in law and medical"
    )


def test_recall_and_thinking_that_are_lost_are_costs():
    def needles(length, change, **more):
        return {"model": "cut", "length": length, "recall_difference": interval(*change), **more}

    def thought(domain, fast, slow, low=0.5):
        base = {"domain": domain, "protocol": "choice", "chance": 0.25, "a_fast": interval(0.6, low, 0.7)}
        base |= {"a_slow": interval(0.6, low, 0.7)}
        versus = {"a_fast": interval(*fast), "a_slow": interval(*slow), "noise": None}
        return [{**base, "model": "full", "versus": None}, {**base, "model": "cut", "versus": versus}]

    rows = [*thought("math", NOTHING, (-0.2, -0.3, -0.1)), *thought("law", (-0.2, -0.3, -0.1), NOTHING, low=0.2)]
    found = [needles(None, (-0.1, -0.15, -0.05)), needles(1000, (-0.4, -0.5, -0.3))]
    line = cost_line(bill(needles=found, thinking=rows), "cut")
    assert line == "needle recall −10.0 points [−15.0, −5.0]; math slow thinking −20.0 points [−30.0, −10.0]"
    quiet = [needles(None, NOTHING), needles(None, (-0.1, -0.15, -0.05), noise=("recall_difference",))]
    assert cost_line(bill(needles=quiet, thinking=rows[2:]), "cut") == ""


def test_a_change_that_is_noise_is_called_so():
    every, one = ["accuracy_difference", "answer_nll_bits_per_byte_difference"], ["accuracy_difference"]
    rows = [
        row("law", (-0.05, -0.08, -0.02), (0.1, 0.05, 0.15), noise=every),
        row("history", NOTHING, NOTHING, noise=every[1:], above=False),
        row("math", NOTHING, NOTHING, noise=one),
        row("math", NOTHING, NOTHING, noise=every, protocol="generation"),
    ]
    assert cost_line(bill(*rows), "cut") == "law and history within the noise; no loss beyond doubt in math"


def test_a_cut_that_costs_nothing_says_so():
    assert plain_lines(bill(row("law", NOTHING, NOTHING))) == ["cut, what it costs: no loss beyond doubt in law."]


@pytest.mark.parametrize(("rounds", "sequences"), [(1, 1), (3, 4)])
def test_how_it_was_measured_is_said(rounds, sequences):
    gains = Gains(**{**planted_gains(["full", "cut"]).model_dump(), "rounds": rounds, "sequences": sequences})
    told = measured_how(gains.model_dump())
    assert ("one turn" in told) == (rounds == 1)
    assert ("4 prompts at once, each of 128 tokens" in told) == (sequences == 4)


def test_the_table_has_each_number_and_its_multiple():
    table = gains_table(planted_gains(["full", "cut"]).model_dump())
    full, cut = ({c.heading: cell for c, cell in zip(table.columns, row, strict=True)} for row in table.rows)
    assert str(full["Parameters, M"]) == "135.0"
    assert str(cut["Parameters, M"]) == "108.0 (0.80x)"
    assert str(cut["KV cache, bytes a token"]) == "36,864 (0.80x)"
    assert full["Writing, times full"].text == ""
    assert cut["Writing, times full"].text.endswith("x")
    assert cut["Writing, times full"].look == "better"
