"""What the scores of documents say: by domain, by groups of documents, and on published claims. Pure arithmetic."""
