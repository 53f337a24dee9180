"""Every cut of a model scored in one walk."""
