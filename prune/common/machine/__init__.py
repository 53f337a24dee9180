"""The machine beneath: memory, when it runs out, processes of one job, processes of our own."""
