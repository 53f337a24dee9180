"""The closed form: a patch that is solved for and not trained."""
