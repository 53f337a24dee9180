"""A model's tokenizer, the loaded model, and its decoder layers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError, first_line, one_line
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.common.machine.processes import local_device
from prune.models.attention import AUTO

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prune.checkpoint.headers import Checkpoint


# One of these holds a tokenizer's words, whatever its kind.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_BOUNDS = ("max_position_embeddings", "n_positions", "max_seq_len")
CACHES = ("cache", "past_key_values", "cache_params")  # names that the cache goes by, the newest first
_ROPES = ("rope_parameters", "rope_scaling")  # of a kind of layer each, or of all


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, or a clear error where its folder has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=trust_remote_code)
    except (MemoryError, RegrowthError):
        raise
    except Exception as error:  # of a damaged file tokenizers raises the bare class, and transformers whatever comes
        if not any((source.folder / name).is_file() for name in TOKENIZER_FILES):
            raise CheckpointError(
                f"{source.name} has no tokenizer: none of {', '.join(TOKENIZER_FILES)} is in its folder"
            ) from error
        if damage := _tokenizer_damage(source.folder):
            raise CheckpointError(f"{source.name}: {damage}; copy it anew from where the model is from") from error
        raise CheckpointError(
            f"{source.name} has no tokenizer that transformers can load ({first_line(error)})"
        ) from error


def _tokenizer_damage(folder: Path) -> str | None:
    """Which of a tokenizer's files is damaged, and how it shows; None where each can be read alone."""
    from tokenizers import Tokenizer

    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{name} is damaged ({first_line(error)})"
    if (path := folder / "tokenizer.json").is_file():
        try:
            Tokenizer.from_file(str(path))
        except Exception as error:  # the bare class
            return f"{path.name} is damaged, or of a newer tokenizers ({first_line(error)})"
    return None


def pick_device(device: str = "auto") -> str:
    """`auto` is the first CUDA device, then Apple's, then the CPU; anything else is checked and returned.

    Where several processes share a machine, each has a CUDA device of its own. A CUDA device that is picked by its
    number becomes torch's current one: libraries that say `cuda` mean that.

    Raises:
        RegrowthError: torch has no such device here.
        UsageError: one CUDA device for several processes.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = local_device(device)
    if device.partition(":")[0] == "cuda":
        check_cuda(device)
        if ":" in device:
            torch.cuda.set_device(device)
        return device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RegrowthError(
            f"--device {device} cannot be used here ({first_line(error)}); use auto, cpu, or cuda for a GPU"
        ) from error
    return device


def check_cuda(device: str) -> None:
    """Refuse `cuda`, or `cuda:N`, where torch has no such GPU.

    Raises:
        RegrowthError: it has none, or not so many.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise RegrowthError(f"--device {device}: torch {torch.__version__} has no GPU here; use --device cpu or auto")
    number = device.partition(":")[2]
    if number and not (number.isdigit() and int(number) < count):
        have = "is cuda:0 alone" if count == 1 else f"are cuda:0 to cuda:{count - 1}"
        raise RegrowthError(f"--device {device} is not on this machine: there {have}; use --device cuda or one of them")


def load_model(
    source: Source,
    *,
    dtype: torch.dtype | str = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
    attention: str = AUTO,
    **options: Any,
) -> PreTrainedModel:
    """Load a causal language model in eval mode; `options` go to `from_pretrained`.

    On a CUDA device every tensor is read straight to it: a model that fits there needs no room in memory beside it.

    Args:
        attention: what computes it; checked by `prune.models.attention.check_attention`.

    Raises:
        CheckpointError: transformers cannot load the folder as a causal language model, or not with that attention; or
            weights are missing or of another shape, which transformers would fill with random numbers.
        torch.OutOfMemoryError: it does not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from prune.common.screen.terminal import quiet_libraries

    quiet_libraries()
    if device.startswith("cuda"):
        options.setdefault("device_map", {"": device})
    if attention != AUTO:
        options["attn_implementation"] = attention
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_check_filled` names them
            **options,
        )
    except StrictDataclassError as error:  # of the config, of which the class checks the fields
        raise CheckpointError(f"{source.name}: transformers cannot read its config.json ({one_line(error)})") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if is_out_of_memory(error):  # no fault of the checkpoint
            raise
        if attention != AUTO and "attention" in str(error).lower():
            raise CheckpointError(
                f"{source.name} cannot be loaded with --attention {attention} ({first_line(error)})"
            ) from error
        raise CheckpointError(
            f"{source.name} cannot be loaded as a causal language model ({first_line(error)})"
        ) from error
    _check_filled(source.name, found)
    if "device_map" not in options and "quantization_config" not in options:
        model = model.to(device)
    _multiply_as_asked(model)
    return model.eval()


def _check_filled(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a model of which not every weight came from its files.

    Args:
        found: what `from_pretrained` tells of the loading: `missing_keys`, `unexpected_keys` that the files hold and it
            does not ask for, and `mismatched_keys` with both shapes.
    """
    if lacking := sorted(found["missing_keys"]):
        more = f" (and {len(lacking) - 1} more)" if lacking[1:] else ""
        others = sorted(found["unexpected_keys"])
        held = f" (they hold {others[0]}, which it does not ask for)" if others else ""
        raise CheckpointError(
            f"{name}: config.json asks for {lacking[0]}{more}, which none of its files holds{held}; get the file "
            "again, or correct config.json"
        )
    if wrong := sorted(found["mismatched_keys"]):
        weight, stored, wanted = wrong[0]
        raise CheckpointError(
            f"{name}: {weight} has the shape {list(stored)}, and config.json asks for {list(wanted)}; get the files "
            "again, or correct config.json"
        )


def _multiply_as_asked(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit layers, as it does on CPUs with AVX512-bf16.

    It would repack each layer for good at its first forward pass in eval mode. A repacked layer multiplies in bf16 with
    scales in bf16, even where float32 was asked for. It passes no gradient on, so a held-out loss that is measured
    before training would silently end all learning.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False


def read_config(folder: Path, name: str, *, trust_remote_code: bool = False) -> Any:
    """The config of a model's folder, as its class reads it.

    Args:
        name: of the model, for the message.

    Raises:
        CheckpointError: transformers cannot read it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # a class may raise anything over fields that make no sense
        raise CheckpointError(f"{name}: transformers cannot read its config.json ({one_line(error)})") from error


def text_config(config: Any) -> Any:
    """The part of a config that describes the text decoder (a multimodal wrapper nests it)."""
    return config.get_text_config(decoder=True)


def stored_dtype(checkpoint: Checkpoint, config: Any) -> torch.dtype:
    """The dtype in which transformers loads a checkpoint that is not told otherwise: the config's, else the files'."""
    import torch

    from prune.checkpoint.tensors import FLOATS, torch_dtype

    named = config.dtype or text_config(config).dtype
    if isinstance(named, torch.dtype):
        return named
    first = next((t for t in checkpoint.tensors() if t.dtype in FLOATS), None)
    return torch.float32 if first is None else torch_dtype(first)


def longest_context(config: Any) -> int | None:
    """How many tokens the model of this config was made to read; None where the config sets no bound."""
    text = text_config(config)
    return longest_stated({name: getattr(text, name, None) for name in (*_BOUNDS, *_ROPES)})


def longest_stated(settings: Mapping[str, Any]) -> int | None:
    """As `longest_context`, of the decoder's fields as they stand in config.json; stretched rope counts."""
    bound = next((value for name in _BOUNDS if type(value := settings.get(name)) is int and value > 0), None)
    stretched = []
    for rope in (settings.get(name) for name in _ROPES):
        for part in (rope, *rope.values()) if isinstance(rope, Mapping) else ():
            if isinstance(part, Mapping) and part.get("factor") and part.get("original_max_position_embeddings"):
                stretched.append(int(part["factor"] * part["original_max_position_embeddings"]))
    return None if bound is None else max([bound, *stretched])


def context_length(source: Source, *, trust_remote_code: bool) -> int | None:
    """Positions that the model was made for, or None where its config sets no bound."""
    from prune.common.screen.terminal import quiet_libraries

    quiet_libraries()
    return longest_context(read_config(source.folder, source.name, trust_remote_code=trust_remote_code))


def forward_takes(module: Any, name: str) -> bool:
    """Whether a module's forward pass has a parameter of that name."""
    return name in inspect.signature(module.forward).parameters


def cache_argument(model: Any) -> str:
    """By which name a forward pass takes what is kept of the tokens before; since transformers 5.24 mostly `cache`."""
    return next((name for name in CACHES if forward_takes(model, name)), CACHES[-1])


def answered_cache(answer: Any) -> Any:
    """What a forward pass, or `generate`, has kept of the tokens, to be handed to the next; None for nothing."""
    return next((held for name in CACHES if (held := getattr(answer, name, None)) is not None), None)


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The decoder's list of layers: the one ModuleList as long as the config's number of layers.

    Raises:
        RegrowthError: there is none, or more than one at the same depth.
    """
    import torch

    wanted = text_config(model.config).num_hidden_layers
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    for root in (decoder, model):
        lists = [
            (name.count("."), module)
            for name, module in root.named_modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == wanted
        ]
        if lists:
            top = min(depth for depth, _ in lists)
            highest = [module for depth, module in lists if depth == top]
            if len(highest) == 1:
                return highest[0]
    raise RegrowthError(f"{type(model).__name__}: cannot tell which of its modules are the {wanted} decoder layers")
