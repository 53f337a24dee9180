"""A loaded model, and its layers run by us."""
