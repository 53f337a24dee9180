"""The modes of --thinking, as they are typed."""

import pytest

from prune.common.errors import UsageError
from prune.common.thinking import parse_modes


@pytest.mark.parametrize(
    ("typed", "modes"),
    [
        ("fast", ("fast",)),
        ("slow", ("slow",)),
        (" slow,fast,", ("fast", "slow")),
        (["slow", "fast", "slow"], ("fast", "slow")),
        ("", ()),
    ],
)
def test_modes_come_in_one_order_without_repeats(typed, modes):
    assert parse_modes(typed) == modes


@pytest.mark.parametrize("typed", ["both", "fast,both", ["both"]])
def test_a_mode_that_is_none_is_refused_with_the_spelling_that_is_taken(typed):
    with pytest.raises(UsageError, match="^--thinking both is unknown; use fast, slow or fast,slow$"):
        parse_modes(typed)
