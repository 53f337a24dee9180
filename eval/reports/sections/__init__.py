"""The sections of a page, each made of one document."""
