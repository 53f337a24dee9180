"""The frozen model, its adapters and its loss."""
