"""Whether a file of measurements, such as scan.json or heads.json, is of the model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prune.common.errors import CheckpointError

if TYPE_CHECKING:
    from prune.choosing.costs import Costs
    from prune.choosing.heads import Heads
    from prune.choosing.times import Times
    from prune.scanning.result import Scan


def check_measured_on(
    measured: Scan | Heads | Times | Costs,
    where: str,
    *,
    name: str,
    identity: Mapping[str, Any],
    layers: int | None = None,
) -> None:
    """See that a file is of a model, by its layers, its config and the headers of its weights.

    Args:
        where: the file.
        name: of the model, in the error.
        identity: the model's `config_sha256` and `shards`.
        layers: how many it has; None if that is not known.

    Raises:
        CheckpointError: it is of another model.
    """
    if layers is not None and measured.layers != layers:
        raise CheckpointError(f"{where} is of a model of {measured.layers} layers, but {name} has {layers}")
    made_of = measured.provenance.get("model")
    if isinstance(made_of, dict):
        theirs = made_of.get("shards")
        other = None
        if made_of.get("config_sha256", identity.get("config_sha256")) != identity.get("config_sha256"):
            other = "another config.json"
        elif isinstance(theirs, dict) and any(theirs.get(shard) != sha for shard, sha in identity["shards"].items()):
            other = "other weights"  # a scan also lists safetensors files beside the model's own; those have no say
        if other:
            raise CheckpointError(
                f"{where} was made on {made_of.get('model')}, with {other} than {name}; {measured.AGAIN}"
            )
