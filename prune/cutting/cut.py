"""The cut: a plan's shards, config and companions into a new folder, whole or not at all. The source is only read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prune.checkpoint.companions import adapters_beside, copy_companions
from prune.checkpoint.copying import link_file, shared_block, write_layout
from prune.checkpoint.headers import INDEX, WEIGHTS, Checkpoint, Shard, read_shard
from prune.checkpoint.hub import fetch
from prune.checkpoint.layout import Layout, aligned
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError, RegrowthError
from prune.common.files.outputs import free_folder, staged_directory
from prune.common.files.room import free_bytes
from prune.common.screen.terminal import progress
from prune.cutting.card import model_card
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.families.subject import Remainder, Subject, open_subject, remainder


@checks_arguments
def cut(
    plan: CutPlan, out: str | Path, *, overwrite: bool = False, link: bool = False, show_progress: bool = True
) -> Path:
    """Write the pruned checkpoint that `plan` describes, and return its folder.

    Stock `AutoModelForCausalLM.from_pretrained` loads it. Beside weights, config, tokenizer, generation config and
    chat template it holds prune_plan.json, a README.md, and scan.json where the plan made its own scan.

    Args:
        plan: from `prune.cutting.planning.plan_cut`, or read from a prune_plan.json.
        overwrite: replace `out` if it exists.
        link: hard-link the shards that do not change. Such a shard is then one file with the source's (or with the
            blob of the hub's cache): an edit to one changes both.

    Raises:
        CheckpointError: the source is no longer the model that was planned on.
        RegrowthError: `out` exists, or lies in the source; there is no room; or it cannot be linked.
    """
    out = free_folder(out, overwrite=overwrite)
    left = _remainder(plan)
    source, layouts = left.subject.source, left.shards
    _check_beside(out, source.folder)
    if source.commit:
        fetch(source, [shard.name for shard, _ in layouts])
        _check_fetched(plan, [shard for shard, _ in layouts])
    with staged_directory(out, overwrite=overwrite) as stage:
        block = shared_block(layouts[0][0].path, stage)
        if block is None:
            _check_room(stage, layouts, link)
        else:
            layouts = [(shard, aligned(layout, block)) for shard, layout in layouts]
        total = sum(layout.size for _, layout in layouts)
        with progress("Writing the pruned model (MB)", total / 1e6, shown=show_progress) as bar:

            def advance(count: int) -> None:
                bar.advance(count / 1e6)

            _write_weights(stage, layouts, left.subject.checkpoint, advance, block=block, link=link)
        _write_json(stage / "config.json", left.config)
        copy_companions(source.folder, stage, code=plan.carry_code)
        _write_json(stage / PLAN_FILE, plan.to_json())
        if plan.scan is not None:
            _write_json(stage / "scan.json", plan.scan.to_json())
        card = model_card(plan, out.name, left=adapters_beside(source.folder))
        (stage / "README.md").write_text(card, encoding="utf-8")
    return out


def _remainder(plan: CutPlan) -> Remainder:
    """What the plan handed on; read anew where it came from a file, or where a shard was touched since."""
    left = plan.remainder
    if left is not None and left.subject.unchanged():
        _check_same(plan, left.subject)
        return left
    subject = open_subject(plan.model, revision=plan.commit, carry_code=plan.carry_code)
    _check_same(plan, subject)
    return remainder(subject, plan.kept, carry_code=plan.carry_code)


def _check_same(plan: CutPlan, subject: Subject) -> None:
    for key, value in subject.identity().items():
        if value != plan.identity[key]:
            raise CheckpointError(f"{plan.model} has changed since the plan was made (its {key}); plan the cut again")


def _check_fetched(plan: CutPlan, shards: list[Shard]) -> None:
    for shard in shards:
        if read_shard(shard.path).header_sha256 != plan.identity["shards"][shard.name]:
            raise CheckpointError(f"{shard.path} is not the file whose header the hub gave; plan the cut again")


def _check_beside(out: Path, source: Path) -> None:
    """Neither in the other: the source's folder stays as it is."""
    target, source = out.resolve(), source.resolve()
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise RegrowthError(f"--out {out} and the source {source} lie in one another; use a folder elsewhere")


def _check_room(stage: Path, layouts: list[tuple[Shard, Layout]], link: bool) -> None:
    """A disk that is too small shows before an hour of writing."""
    wanted = sum(layout.size for _, layout in layouts if not (link and layout.whole))
    free = free_bytes(stage)
    if wanted > free:
        raise RegrowthError(
            f"{stage.parent}: the pruned model takes {wanted / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free; "
            "make room or use an --out elsewhere"
        )


def _write_weights(
    stage: Path,
    layouts: list[tuple[Shard, Layout]],
    source: Checkpoint,
    advance: Callable[[int], None],
    *,
    block: int | None,
    link: bool,
) -> None:
    """All shards, and their index where there are several."""
    names = shard_names(len(layouts))
    jobs = list(zip(names, layouts, strict=True))
    for name, (shard, layout) in sorted(jobs, key=lambda job: not job[1][1].whole):  # what can be linked goes first
        if link and layout.whole:
            link_file(shard.path, stage / name)
            advance(layout.size)
        else:
            write_layout(shard.path, stage / name, layout, advance, block=block)
    if len(names) > 1:
        _write_index(stage / INDEX, source, layouts, names)


def _write_index(path: Path, source: Checkpoint, layouts: list[tuple[Shard, Layout]], names: list[str]) -> None:
    tensors = {t.name: name for name, (_, layout) in zip(names, layouts, strict=True) for t in layout.tensors}
    kept_tensors = [t for _, layout in layouts for t in layout.tensors]
    metadata: dict[str, Any] = {**source.index_metadata, "total_size": sum(t.size for t in kept_tensors)}
    if type(metadata.get("total_parameters")) is int:
        gone = sum(t.elements for t in source.tensors()) - sum(t.elements for t in kept_tensors)
        metadata["total_parameters"] -= gone
    _write_json(path, {"metadata": metadata, "weight_map": dict(sorted(tensors.items()))})


def shard_names(count: int) -> list[str]:
    """File names for `count` shards, as transformers expects them."""
    if count == 1:
        return [WEIGHTS]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _write_json(path: Path, document: Any) -> None:
    # Infinity is no JSON, but some families' configs hold it (time-step limits), and transformers reads it back.
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
