"""The cut: a plan's shards, config and companions into a new folder, whole or not at all. The source is only read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from prune.byteranges import Layout
from prune.card import model_card
from prune.checkpoint import INDEX, WEIGHTS, Checkpoint, Shard, inside
from prune.copying import write_layout
from prune.cut_plan import PLAN_FILE, CutPlan
from prune.errors import CheckpointError, RegrowthError
from prune.outputs import check_free, staged_directory
from prune.planning import Subject, new_config, open_subject
from prune.provenance import model_identity
from prune.terminal import progress

# What belongs to a model beside weights and config. Python files are code, and carried only on request.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "chat_template.json",
    "*processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
_TEMPLATES = "additional_chat_templates"


def cut(plan: CutPlan, out: str | Path, *, overwrite: bool = False, show_progress: bool = True) -> Path:
    """Write the pruned checkpoint that `plan` describes, and return its folder.

    Stock `AutoModelForCausalLM.from_pretrained` loads it. Beside weights, config, tokenizer, generation config and
    chat template it holds prune_plan.json, a README.md, and scan.json where the plan made its own scan.

    Args:
        plan: from `prune.planning.plan_cut`, or read from a prune_plan.json.
        out: the new folder.
        overwrite: replace `out` if it exists.
        show_progress: on stderr.

    Raises:
        CheckpointError: the source is no longer the model that was planned on.
        RegrowthError: `out` exists, or stands in the source.
    """
    out = check_free(out, overwrite=overwrite)
    subject = open_subject(plan.model, revision=plan.commit)
    _check_same(plan, subject)
    _check_apart(out, subject.source.folder)
    layouts = subject.layouts(plan.kept)
    total = sum(layout.size for _, layout in layouts)
    with staged_directory(out, overwrite=overwrite) as stage:
        with progress("Writing the pruned model (MB)", total / 1e6, shown=show_progress) as bar:
            _write_weights(stage, subject.checkpoint, layouts, lambda count: bar.advance(count / 1e6))
        _write_json(stage / "config.json", new_config(subject, plan.kept, carry_code=plan.carry_code))
        _copy_companions(subject.source.folder, stage, code=plan.carry_code)
        _write_json(stage / PLAN_FILE, plan.to_json())
        if plan.scan is not None:
            _write_json(stage / "scan.json", plan.scan.to_json())
        (stage / "README.md").write_text(model_card(plan, out.name), encoding="utf-8")
    return out


def _check_same(plan: CutPlan, subject: Subject) -> None:
    found = model_identity(subject.source.folder)
    for key in ("config_sha256", "shards"):
        if found.get(key) != plan.identity.get(key):
            raise CheckpointError(f"{plan.model} has changed since the plan was made (its {key}); plan the cut again")


def _check_apart(out: Path, source: Path) -> None:
    target, source = out.resolve(), source.resolve()
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise RegrowthError(f"--out {out} and the source {source} lie in one another; name a folder elsewhere")


def _write_weights(
    stage: Path, checkpoint: Checkpoint, layouts: list[tuple[Shard, Layout]], advance: Callable[[int], None]
) -> None:
    names = shard_names(len(layouts))
    for name, (shard, layout) in zip(names, layouts, strict=True):
        write_layout(shard.path, stage / name, layout, advance)
    if len(names) > 1:
        tensors = {t.name: name for name, (_, layout) in zip(names, layouts, strict=True) for t in layout.tensors}
        kept = [t for _, layout in layouts for t in layout.tensors]
        metadata: dict[str, Any] = {**checkpoint.index_metadata, "total_size": sum(t.size for t in kept)}
        if type(metadata.get("total_parameters")) is int:
            gone = sum(t.elements for t in checkpoint.tensors()) - sum(t.elements for t in kept)
            metadata["total_parameters"] -= gone
        _write_json(stage / INDEX, {"metadata": metadata, "weight_map": dict(sorted(tensors.items()))})


def shard_names(count: int) -> list[str]:
    """File names for `count` shards, as transformers expects them."""
    if count == 1:
        return [WEIGHTS]
    return [f"model-{place:05d}-of-{count:05d}.safetensors" for place in range(1, count + 1)]


def _copy_companions(source: Path, stage: Path, *, code: bool) -> None:
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


def _write_json(path: Path, document: Any) -> None:
    # Infinity is no JSON, but some families' configs hold it (time-step limits), and transformers reads it back.
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
