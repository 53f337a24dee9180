"""Fast and slow thinking: what a model knows at once, and what reasoning adds."""
