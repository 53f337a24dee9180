"""How alike the inputs of a model's layers are."""
