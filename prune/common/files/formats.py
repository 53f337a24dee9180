"""Formats that more than one folder names, each with its version. All others stand in the class that writes them."""

from typing import Final

HEAL: Final = "regrowth.heal/2"  # heal.json: written by `heal`, read by `evaluate sweep` too
