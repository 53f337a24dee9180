"""What the tests of healing heal, and on which text."""

import pytest

from heal import TextSource
from prune import cut, plan_cut
from tests.support.healing import heal_small
from tests.support.models import NARROW, save_tiny
from tests.support.texts import sentences, write_jsonl


@pytest.fixture(scope="session")
def text(sample_text, sample_heldout):
    return TextSource(str(sample_text), held_out=str(sample_heldout), held_out_tokens=512)


@pytest.fixture(scope="session")
def small_text(sample_text, sample_heldout):
    """The same text, of which little is measured."""
    return TextSource(str(sample_text), held_out=str(sample_heldout), held_out_tokens=128)


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("prose") / "text.jsonl"
    return write_jsonl(path, ({"text": text} for text in sentences(300)))


@pytest.fixture(scope="session")
def shallow_llama(sample_model, tmp_path_factory):
    """As `tiny_llama`, with 2 layers: for what does not hang on how many there are."""
    return save_tiny(tmp_path_factory.mktemp("shallow") / "llama", sample_model, layers=2, **NARROW)


@pytest.fixture(scope="session")
def pruned(tiny_llama, tmp_path_factory):
    """The tiny Llama without layers 4 and 5."""
    return cut(plan_cut(tiny_llama, n=2, start=4), tmp_path_factory.mktemp("cut") / "pruned", show_progress=False)


@pytest.fixture(scope="session")
def plain_adapter(tiny_llama, small_text, tmp_path_factory):
    """An adapter on the tiny Llama in 4 bits; not to be changed."""
    return heal_small(tiny_llama, small_text, tmp_path_factory.mktemp("plain") / "adapter").out
