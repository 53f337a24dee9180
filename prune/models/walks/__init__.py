"""A model's layers run by us: of a loaded model, or one after the other from its files."""
