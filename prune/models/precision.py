"""In which number format a device computes: its names on the command line, and what `auto` and `fast` stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prune.common.errors import UsageError

if TYPE_CHECKING:
    import torch

HELP = (
    "auto (the checkpoint's own; float32 where the device has no bf16 products), fast (bfloat16 where it has them), "
    "float32, bfloat16 or float16."
)
_NAMES = {
    "float32": "float32", "bfloat16": "bfloat16", "float16": "float16",
    "fp32": "float32", "bf16": "bfloat16", "fp16": "float16",
}  # fmt: skip


def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether the device has products in bfloat16 that are faster than those in float32.

    Without them torch falls back to something slow. On an x86 CPU before AVX-512 these are plain loops: measured on one
    with AVX2, a product of a head's size is 6 times slower than in float32, and the one of its backward pass more than
    100 times. A GPU before 2020 (T4, V100, RTX 20) emulates them. A GPU that is not here is taken for a newer one.
    """
    import torch

    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            return True
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not device.startswith("cpu"):
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False


def check_dtype(dtype: str) -> None:
    """Raise UsageError for a name that stands for no number format."""
    if dtype not in ("auto", "fast", *_NAMES):
        raise UsageError(f"--dtype {dtype} is unknown; use auto, fast, float32, bfloat16 or float16")


def pick_dtype(dtype: str = "auto", *, device: str = "cpu") -> torch.dtype | str:
    """What a name on the command line stands for: a dtype of torch, or "auto", the checkpoint's own.

    `auto` is float32 on a device without fast products in bfloat16; `fast` is bfloat16 where it has them, and float32
    where not. Neither is ever float16, whose range is too small for the states of some models.

    Raises:
        UsageError: another name.
    """
    import torch

    check_dtype(dtype)
    if dtype in ("auto", "fast"):
        if not multiplies_bfloat16(device):
            return torch.float32
        return "auto" if dtype == "auto" else torch.bfloat16
    named: torch.dtype = getattr(torch, _NAMES[dtype])
    return named


@contextmanager
def tensor_float32(wanted: bool = True) -> Iterator[None]:
    """While it lasts, a GPU rounds the factors of float32 products to TF32 (10 bits of 23), which is up to ten times as
    fast; without `wanted` it rounds none. A CPU is not touched.
    """
    import torch

    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = wanted
    try:
        yield
    finally:
        matmul.allow_tf32 = before
