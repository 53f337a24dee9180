"""Steps that need no model: the machine, NF4 on both devices, attention by a mask."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from importlib import metadata

import torch

from bench.gpu_steps.measuring import GIB, Machine, measured, row
from prune.models.nf4 import TENSOR

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "lm_eval", "datasets", "safetensors")


def machine(machine: Machine) -> None:
    """Versions, the card, and what products and a copy reach: the ceilings that shares refer to."""
    versions = [f"python {sys.version.split()[0]}"]
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    row("versions", note=", ".join(versions))
    size = machine.pick(64, 8192)
    if machine.cuda:
        free, whole = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_properties(0).name
        row("card", note=f"{name}, {free / GIB:.1f} of {whole / GIB:.1f} GiB free, {os.cpu_count()} cores")
    for rows, inner, columns, dtype in (
        (size, size, size, torch.bfloat16),
        (size // 4, size // 2, size * 7 // 4, torch.bfloat16),
        (size // 2, size // 2, size // 2, torch.float32),
    ):
        a = torch.randn(rows, inner, device=machine.device, dtype=dtype)
        b = torch.randn(inner, columns, device=machine.device, dtype=dtype)
        what = f"product {rows} x {inner} x {columns}, {str(dtype).removeprefix('torch.')}"
        with measured(machine, what, flops=2.0 * rows * inner * columns) as facts:
            facts["seconds"] = machine.mean_seconds(lambda a=a, b=b: a @ b, 10)
    with measured(machine, "copy on the device, read and written") as facts:
        values = torch.empty(machine.pick(1 << 16, GIB), device=machine.device, dtype=torch.bfloat16)
        facts["seconds"] = machine.mean_seconds(values.clone, 3)
        facts["note"] = f"{4 * values.numel() / facts['seconds'] / 1e12:.2f} TB/s"


def nf4(machine: Machine) -> None:
    """Whether NF4 made on the GPU and on the CPU is the same bytes, and how fast each makes it."""
    from bitsandbytes import functional

    torch.manual_seed(0)
    rows, columns = machine.pick((256, 512), (14336, 4096))
    weight = torch.randn(rows, columns, dtype=torch.bfloat16).mul_(0.02)

    def there_and_back(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        packed, state = functional.quantize_4bit(tensor, **TENSOR)
        return packed, state.absmax, functional.dequantize_4bit(packed, state)

    parts = {}
    for device in dict.fromkeys(("cpu", machine.device)):
        moved = weight.to(device)
        there_and_back(moved)
        with measured(machine, f"NF4 there and back on {device}, {rows} x {columns}") as facts:
            began = time.monotonic()
            parts[device] = there_and_back(moved)
            machine.wait()
            facts["seconds"] = time.monotonic() - began
            facts["note"] = f"{facts['seconds'] / weight.numel() * 1e9:.3g} ns a value"
    if len(parts) == 2:
        shares = [float((a.cpu() != b.cpu()).float().mean()) for a, b in zip(*parts.values(), strict=True)]
        words = ", ".join(f"{share:.2g}" for share in shares)
        row("NF4 of CPU and GPU apart", note=f"share of codes, scales, values that differ: {words}")


def masks(machine: Machine) -> None:
    """Attention forward and backward, by length: with the mask of packed rows, and by the causal kernel."""
    heads, keys, width = machine.pick((4, 2, 16), (32, 8, 128))
    attend = torch.nn.functional.scaled_dot_product_attention
    for length in machine.pick((64,), (512, 2048, 8192, 16384)):
        rows = machine.pick(1, max(1, 4096 // length))

        def random(count: int, rows: int = rows, length: int = length) -> torch.Tensor:
            return torch.randn(rows, count, length, width, device=machine.device, dtype=torch.bfloat16)

        q, k, v = random(heads).requires_grad_(), random(keys), random(keys)
        order = torch.arange(length, device=machine.device)
        document = order // max(1, length // 4)
        seen = (document[:, None] == document[None]) & (order[:, None] >= order[None])
        mask = seen[None, None].expand(rows, 1, -1, -1).contiguous()
        wide = [part.repeat_interleave(heads // keys, 1) for part in (k, v)]
        ways = {
            "packed mask": lambda q=q, wide=wide, mask=mask: attend(q, *wide, attn_mask=mask),
            "causal kernel": lambda q=q, k=k, v=v: attend(q, k, v, is_causal=True, enable_gqa=True),
        }
        for what, run in ways.items():
            with measured(machine, f"{what}, {rows} x {length}") as facts:
                facts["seconds"] = machine.mean_seconds(lambda run=run: run().sum().backward(), 5)
