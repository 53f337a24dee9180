"""`heal`: train back what a cut took, and merge. Each command is one public function away."""

from __future__ import annotations

from prune.terminal import make_app

app = make_app("heal", "Train back what a cut took.")


def main() -> None:
    """Entry point of the console command."""
    app()
