"""What `--backend vllm` accepts: vLLM's version, its device and its options, checked before anything is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from prune.common.errors import RegrowthError, UsageError
from prune.models.loading import check_cuda

OLDEST = (0, 32)  # the oldest vLLM that this was run with
MEMORY_SHARE = 0.75  # vLLM's 0.92 leaves no room for the logits of whole prompts, which its own plan leaves out


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _share(text: str) -> float:
    if not 0 < (number := float(text)) <= 1:
        raise ValueError
    return number


def _size(text: str) -> float:
    if not 0 <= (number := float(text)) < float("inf"):
        raise ValueError
    return number


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


# Option of vLLM's engine -> what reads its value, that value in words, and whether answers hang on it.
_KNOWN: dict[str, tuple[Callable[[str], Any], str, bool]] = {
    "gpu_memory_utilization": (_share, "a share above 0, 1 at most", False),
    "max_num_batched_tokens": (_count, "a whole number, 1 or more", False),
    "max_num_seqs": (_count, "a whole number, 1 or more", False),
    "cpu_offload_gb": (_size, "a number, 0 or more", False),
    "enable_prefix_caching": (_switch, "true or false", False),
    "enforce_eager": (_switch, "true or false", True),
    "tensor_parallel_size": (_count, "a whole number, 1 or more", True),
    "pipeline_parallel_size": (_count, "a whole number, 1 or more", True),
    "kv_cache_dtype": (_name, "a name, such as fp8", True),
    "quantization": (_name, "a name, such as fp8", True),
}
_OURS = {
    "max_model_len": "--max-length", "max_length": "--max-length", "dtype": "--dtype", "seed": "--seed",
    "device": "--device",
}  # fmt: skip


def parse_engine_options(given: str | Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    """Options of vLLM's engine, sorted by name, from `name=value,name=value` or a mapping.

    Raises:
        UsageError: an option that is unknown or given twice, or a value of the wrong kind.
    """
    if isinstance(given, Mapping):
        pairs = [(str(name), str(value)) for name, value in given.items()]
    else:
        pairs = [_split(part.strip()) for part in (given or "").split(",") if part.strip()]
    options: dict[str, Any] = {}
    for name, text in pairs:
        if name in _OURS:
            raise UsageError(f"--backend-args {name}: use {_OURS[name]} for it")
        if name not in _KNOWN:
            raise UsageError(f"--backend-args {name} is unknown; use {', '.join(_KNOWN)}")
        if name in options:
            raise UsageError(f"--backend-args gives {name} twice")
        read, words, _ = _KNOWN[name]
        try:
            options[name] = read(text)
        except (ValueError, KeyError):
            raise UsageError(f"--backend-args {name}={text} must be {words}") from None
    return tuple(sorted(options.items()))


def _split(part: str) -> tuple[str, str]:
    name, mark, value = part.partition("=")
    if not mark:
        raise UsageError(f"--backend-args {part} has no value; pass name=value, as gpu_memory_utilization=0.6")
    return name.strip(), value.strip()


def altering(options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Those of the engine's options that an answer may hang on."""
    return {name: value for name, value in options if _KNOWN[name][2]}


def vllm_version() -> str:
    """The version of the vLLM that is installed.

    Raises:
        RegrowthError: there is none, or it is older than those this was run with.
    """
    try:
        version = metadata.version("vllm") if find_spec("vllm") else None
    except metadata.PackageNotFoundError:
        version = None
    if version is None:
        raise RegrowthError(
            "--backend vllm: vLLM is not installed here; `pip install vllm` in an environment of its own, "
            "or use --backend hf"
        )
    from packaging.version import InvalidVersion, Version

    try:
        parsed = Version(version)
        old = parsed.release[:2] < OLDEST and not parsed.is_devrelease  # builds from source may say 0.1.dev1
    except InvalidVersion:
        old = False
    if old:
        oldest = ".".join(map(str, OLDEST))
        raise RegrowthError(f"--backend vllm needs vLLM {oldest} or newer, and {version} is installed; update it")
    return version


def engine_device(device: str) -> str:
    """The kind of device that the installed vLLM computes on, `cpu` or `cuda`, or `cuda:N` where that is asked for.

    A build of vLLM knows one kind only: the one that is installed decides where `device` is `auto`.

    Raises:
        RegrowthError: vLLM is not installed, or this device is not there.
        UsageError: the installed vLLM cannot compute on this device.
    """
    version = vllm_version()
    built_for = "cpu" if "cpu" in version or os.environ.get("VLLM_TARGET_DEVICE") == "cpu" else "cuda"
    if device == "auto":
        return built_for
    kind, _, number = device.partition(":")
    if kind != built_for or (number and not number.isdigit()):
        raise UsageError(
            f"--device {device} cannot be used with --backend vllm: vLLM {version} computes on {built_for}; "
            f"pass --device {built_for}, or use --backend hf"
        )
    if number and kind == "cuda":
        check_cuda(device)
    return device


def visible_devices(device: str, visible: str | None) -> str | None:
    """CUDA_VISIBLE_DEVICES for the engine: of `cuda:N` the N-th of those visible now, else what it is now."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return visible
    return visible.split(",")[int(number)].strip() if visible else number
