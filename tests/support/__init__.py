"""Helpers and tiny models that the tests share."""
