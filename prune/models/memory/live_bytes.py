"""Bytes of tensors as they come and go: what torch's allocator would hold, on any device, values or none."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALIGN = 512  # the allocator of CUDA hands out multiples of that


class LiveBytes(TorchDispatchMode):
    """While it is on, counts the storages that operations make, until they die.

    What was there before is not counted. `now` and `peak` are bytes; `peak` is since the last `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def restart(self) -> None:
        """Forget the peak."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in given and id(storage) not in self._known:
                    self._count(storage)
        return made

    def _count(self, storage: Any) -> None:
        size, key = -(-storage.nbytes() // _ALIGN) * _ALIGN, id(storage)

        def gone(_: Any) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
