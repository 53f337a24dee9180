"""Which code computes attention: its names on the command line, and whether what is installed here can serve them."""

from __future__ import annotations

from importlib.util import find_spec

from prune.common.errors import UsageError

AUTO = "auto"
HELP = "auto (transformers' choice: SDPA for most), sdpa, eager, flash_attention_2, flash_attention_3, or a hub id."
_PLAIN = ("sdpa", "eager", "flex_attention")
_PACKAGES = {  # a name -> the module that serves it, and what installs that
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
    "flash_attention_4": ("flash_attn", "flash-attn-4"),
}


def check_attention(name: str, *, device: str, dtype: str) -> None:
    """Refuse an attention that cannot run here.

    Args:
        device: what it is to run on.
        dtype: what the model computes in, such as "bfloat16".

    Raises:
        UsageError: an unknown name, one whose package is not installed, or FlashAttention on another device than a GPU
            or in float32.
    """
    if name == AUTO or name in _PLAIN:
        return
    if name not in _PACKAGES and "/" not in name:
        raise UsageError(f"--attention {name} is unknown; use {', '.join((AUTO, *_PLAIN, *_PACKAGES))}, or a hub id")
    if not device.startswith("cuda"):
        raise UsageError(f"--attention {name} runs on a GPU alone, and this is {device}; use auto")
    module, package = _PACKAGES.get(name, ("kernels", "kernels"))
    if find_spec(module) is None:
        raise UsageError(
            f"--attention {name} needs a package that is not installed: pip install {package}; or use auto"
        )
    if is_flash(name) and dtype == "float32":
        raise UsageError(f"--attention {name} does not multiply float32; use --dtype bfloat16, or --attention auto")


def is_flash(name: str | None) -> bool:
    """Whether it is a kind of FlashAttention, by transformers' own rule."""
    return name is not None and "flash" in name
