"""Which layers go, and the check of that choice on text."""
