"""A scan made by hand, so that tests of the choice need no model's pass."""

from prune.checkpoint.identity import model_identity
from prune.scanning.result import Scan


def hand_made_scan(folder=None, *, layers=8, **identity) -> Scan:
    """d(l, n) falls towards layer 2 and influence alternates, so that every criterion finds another place."""
    distance = [
        [0.1 + 0.05 * abs(start - 2) + 0.01 * n for start in range(layers - n + 1)] for n in range(1, layers + 1)
    ]
    distance[1][layers - 2] = 0.01  # the best block of two would take the last layer
    influence = [0.9 if layer % 2 else 0.1 + 0.01 * layer for layer in range(layers)]
    model = {**model_identity(folder), **identity} if folder else None
    return Scan(
        layers=layers,
        tokens="last",
        samples=3,
        length=64,
        distance=tuple(map(tuple, distance)),
        stderr=tuple(tuple(0.0 for _ in row) for row in distance),
        influence=tuple(influence),
        provenance={"model": model, "seed": 0},
    )
