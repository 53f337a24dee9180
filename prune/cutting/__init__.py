"""A cut: planned, written byte by byte, and proved."""
