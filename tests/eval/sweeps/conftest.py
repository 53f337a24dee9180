"""Models that the tests of sweeps share."""

import pytest

from tests.support.models import save_tiny


@pytest.fixture(scope="module")
def tiny(sample_model, tmp_path_factory):
    """Makes random models of a family with the sample's tokenizer, 8 layers."""
    folders = {}

    def make(family):
        if family not in folders:
            folder = tmp_path_factory.mktemp("tiny") / family
            shape = {"layers": 8, "hidden_size": 32, "head_dim": 8, "intermediate_size": 64}
            shape |= {"max_position_embeddings": 1024, "initializer_range": 0.25}
            folders[family] = save_tiny(folder, sample_model, family, **shape)
        return folders[family]

    return make
