"""What `prune verify` allows. It imports nothing, so that the command line can name it at once."""

TOLERANCE = 1e-5  # of logits, in float32
