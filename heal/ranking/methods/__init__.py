"""How documents are scored: gradients, EK-FAC and BM25, each by its name."""
