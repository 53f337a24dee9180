"""What a cut gives: bytes, KV cache, memory and speed of every model, each measured in a process of its own."""
