"""Which healing text brings back which domain."""
