"""The sweep: many cuts of one model on the same questions, in one walk through its layers."""
