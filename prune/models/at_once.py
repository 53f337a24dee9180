"""How much is computed at once on each kind of device: tokens of a batch, logits of a chunk. Pure arithmetic.

A processor is busy with few tokens, short batches pad less, and what stays in its caches is fast. A GPU first reads the
weights of a product: an H100 (600 TFLOP/s and 2.8 TB/s reached) reads a matrix in 16 bits in the time that it takes to
multiply 200 rows with it, and begins some dozen kernels a layer. So batches there are of many thousand tokens, and
chunks of the head are of many hundred. The numbers for CUDA are reckoned (bench/gpu.py measures them). Changing those
for a CPU would change the last digits of its results.
"""

from __future__ import annotations

from typing import Any

# Of the free memory: what weights may take to be loaded whole, and what hidden states may that wait between two layers
# of a model that is run from its files. These go to the next place then: from the card to memory, and on to a file.
WEIGHTS_SHARE, STATES_SHARE = 0.9, 0.25
# Tokens of one batch of a scan, which keeps the last tokens' states alone.
SCAN_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}
# Tokens of one batch of a walk through many variants (check, sweep, depth), which keeps states of several at a time.
WALK_TOKENS = {"cpu": 1024, "mps": 1024, "cuda": 8192}
# Logits of one chunk and matrix when a loss is taken, in the head's own dtype: a thousand rows of a vocabulary of 128k.
LOGITS = {"cpu": 1 << 24, "mps": 1 << 24, "cuda": 1 << 27}
# Of these, so many at a time go through the arithmetic in fp32: some three copies of them stand at once.
FLOATS = {"cpu": 1 << 19, "mps": 1 << 24, "cuda": 1 << 25}
# Bytes of one chunk of logits in fp32 when variants are compared, of which four stand at once, and when answers are
# looked up in them.
COMPARED_BYTES = {"cpu": 1 << 27, "mps": 1 << 27, "cuda": 1 << 28}
ANSWERED_BYTES = {"cpu": 1 << 26, "mps": 1 << 26, "cuda": 1 << 28}


def at_once(table: dict[str, int], device: Any) -> int:
    """The number for a device: its name, such as "cuda:1", or a torch.device. Unknown kinds are taken for a CPU."""
    return table.get(str(device).partition(":")[0], table["cpu"])
