"""What a model takes: bytes of weights, of keys and values, of what comes and goes while it runs."""
