"""Text made of a few words."""

import random

WORDS = ["the", "cut", "takes", "layers", "and", "healing", "gives", "back", "what", "was", "lost", "in", "them"]


def sentences(count, seed=0):
    rng = random.Random(seed)
    return [f"Text {i}: " + " ".join(rng.choices(WORDS, k=rng.randint(4, 60))) for i in range(count)]
