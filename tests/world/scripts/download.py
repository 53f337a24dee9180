"""REPO OUT: the SHA-256 of each file of a repository that HF_ENDPOINT has, downloaded by the stock client."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

repo, out = sys.argv[1:]
assert all(importlib.util.find_spec(name) is None for name in ("prune", "heal", "recipes"))
folder = Path(snapshot_download(repo))
sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
Path(out).write_text(json.dumps(sums))
