"""Which transformers runs: the oldest that is allowed does a few things otherwise."""

import pytest
import transformers
from packaging.version import Version

MEASURED = Version("5.23")  # the first version that everything here was measured with


def needs_newer_transformers(why):
    """Skip the test where transformers is older than 5.23."""
    if Version(transformers.__version__) < MEASURED:
        pytest.skip(f"transformers {transformers.__version__} {why}")
