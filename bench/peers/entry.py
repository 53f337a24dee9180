"""What the comparisons of whole jobs share: `--quick`, what their commands see, and how a comparison ends."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from bench.peers.record import write


def asked_quick(about: str, arguments: Sequence[str] | None) -> bool:
    """Whether the command line has `--quick`. `about`: what its help says."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "--quick", action="store_true", help="two steps on one thread, to see that all runs; writes no result"
    )
    return bool(parser.parse_args(arguments).quick)


def offline(threads: int) -> dict[str, str]:
    """Variables of a command that reaches for no network."""
    return {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def conclude(
    name: str, job: str, table: Sequence[Mapping[str, object]], settings: Mapping[str, object], *, quick: bool
) -> None:
    """Print the rows, and write the result unless it was a quick run. Settings that are lists are told as words."""
    for row in table:
        print(json.dumps(row))
    if not quick:
        told = {one: ", ".join(value) if isinstance(value, tuple) else value for one, value in settings.items()}
        write(name, job, table, settings=told | {"model": "SmolLM2-135M-Instruct", "dtype": "float32"})
