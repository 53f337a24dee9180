"""One healing run, whatever its loss."""
