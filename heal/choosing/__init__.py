"""Which of the cuts that a check left over heals best."""
