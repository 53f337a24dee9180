"""Text that a model writes itself: what it is asked, who writes, and the rows that it gives."""
