"""`prune`: scan a model's layers, choose a block, cut it. Each command is one public function away."""

from __future__ import annotations

from prune.terminal import make_app

app = make_app("prune", "Find the layers that a language model does not need, and cut them.")


def main() -> None:
    """Entry point of the console command."""
    app()
