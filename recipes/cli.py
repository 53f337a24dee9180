"""`recipe`: run scan, cut, heal and compare as one reproducible whole."""

from __future__ import annotations

from prune.terminal import make_app

app = make_app("recipe", "Run scan, cut, heal and compare as one reproducible whole.")


def main() -> None:
    """Entry point of the console command."""
    app()
