"""Latent concepts: groups of like word states in every layer, and the known labels that they line up with."""
