"""What belongs to a model beside weights and config: tokenizer, templates, licence; code only on request."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

from prune.checkpoint.headers import inside
from prune.common.errors import CheckpointError

# Python files are code, and carried only on request. Adapters are not: they were trained for the uncut model, and
# their tensors are numbered as its layers are.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "*.jinja",
    "chat_template.json",
    "*processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LOADED = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.py", *COMPANIONS)
_ADAPTERS = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "adapter_model.bin")
_TEMPLATES = "additional_chat_templates"


def model_files(model: str | Path) -> tuple[Path, ...]:
    """The files of a model's folder that loading it reads; none of a hub id. Its scan.json and the like are not."""
    folder = Path(model).expanduser()
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(path for path in files if any(fnmatch(path.name, pattern) for pattern in (*_LOADED, *_ADAPTERS)))


def copy_companions(source: Path, stage: Path, *, code: bool) -> None:
    """Copy the companions of the model in `source` to the folder `stage`; `code`: its Python files too.

    Raises:
        CheckpointError: one is a link that leaves the source.
    """
    patterns = (*COMPANIONS, "*.py") if code else COMPANIONS
    for path in sorted(source.iterdir()):
        if not path.is_dir() and any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.copyfile(inside(source, path.name), stage / path.name)
    templates = source / _TEMPLATES
    if templates.is_dir():
        if not templates.resolve().is_relative_to(source.resolve()):
            raise CheckpointError(f"{templates} is a link that leaves its folder")
        (stage / _TEMPLATES).mkdir()
        for path in sorted(templates.glob("*.jinja")):
            shutil.copyfile(inside(templates, path.name), stage / _TEMPLATES / path.name)


def adapters_beside(folder: Path) -> list[str]:
    """Names of adapter files that lie beside a model's weights."""
    return [name for name in _ADAPTERS if (folder / name).exists()]
