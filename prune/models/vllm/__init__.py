"""A model on vLLM: its options, and the process it runs in."""
