"""What several measurements have in common."""
