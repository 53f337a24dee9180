"""The planted bill and sweep that all tests of reports read, made once."""

import json

import pytest

from tests.support.report_page import Page, plant


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """A folder with `bill/`, `sweep/` and the report of both, `all.html`."""
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def page(planted):
    return Page((planted / "all.html").read_text("utf-8"))


@pytest.fixture
def comparison(planted):
    """The document of a comparison, for the test to change."""
    return json.loads((planted / "bill" / "comparison.json").read_text())


@pytest.fixture
def swept(planted):
    """The document of a sweep, for the test to change."""
    return json.loads((planted / "sweep" / "sweep.json").read_text())
