"""What tests of several kinds of healing share."""

import pytest

from tests.support.healing import sentences, write_texts


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("prose") / "text.jsonl", sentences(300))
