"""What heads and layers of a model do."""
