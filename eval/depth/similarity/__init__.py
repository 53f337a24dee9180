"""How alike the states of fast and slow prompts are, layer by layer."""
