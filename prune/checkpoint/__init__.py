"""Weights as bytes, on disk and on the hub; no tensor is loaded."""
