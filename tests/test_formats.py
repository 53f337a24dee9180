"""docs/formats.md is what the artefacts' classes say."""

from tests.support.formats import PAGE, page


def test_the_page_of_formats_is_made_of_the_code():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make formats`"
