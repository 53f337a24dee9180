"""Where the damage sits, and what goes first: contrasts over depth with their intervals. Pure arithmetic."""
