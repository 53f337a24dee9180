"""How far a model can be cut: the frontier of several cuts, and the cliff of a sweep."""
