"""Text that training reads."""

import pytest

from tests.support.texts import sentences, write_jsonl


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("prose") / "text.jsonl"
    return write_jsonl(path, ({"text": text} for text in sentences(300)))
