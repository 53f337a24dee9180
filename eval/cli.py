"""`evaluate`: bill what a cut costs, domain by domain. Each command is one public function away."""

from __future__ import annotations

from prune.terminal import make_app

app = make_app("evaluate", "Bill what a cut costs, domain by domain.")


def main() -> None:
    """Entry point of the console command."""
    app()
