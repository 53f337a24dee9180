"""An adapter to merge."""

import pytest

from tests.support.healing import heal_small


@pytest.fixture(scope="session")
def plain_adapter(tiny_llama, small_text, tmp_path_factory):
    """An adapter on the tiny Llama in 4 bits; not to be changed."""
    return heal_small(tiny_llama, small_text, tmp_path_factory.mktemp("plain") / "adapter").out
