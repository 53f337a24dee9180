"""An adapter and its base made one ordinary checkpoint, tensor by tensor.

What an adapter was fitted to is the base as quantised: NF4 of the weights, not the weights. `dequantised` keeps what
was trained: every projection that was quantised (bitsandbytes takes all linear layers but the head, attention included)
is saved as quantisation left it, and the adapter is added to that in fp32. Added to the original weights instead, the
result is another function than the one trained. Which is better only held-out text tells, and `auto`, the default, asks
it. Quantising the sum again, as peft does on a 4-bit model, would lose the adapter in the rounding.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.cards import merged_card
from heal.lineage import carry
from heal.merging.tensors import ADAPTER_WEIGHTS, MergePlan, adapter_config, adapter_weights, merged_tensor, plan_merge
from prune.checkpoint.headers import Checkpoint, read_checkpoint
from prune.checkpoint.source import Source, locate
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.common.out_of_memory import is_out_of_memory
from prune.common.outputs import check_free, staged_directory, write_json, write_text
from prune.common.provenance import command_line, read_artefact, versions
from prune.common.terminal import progress, quiet_libraries
from prune.models.loading import pick_device

if TYPE_CHECKING:
    from heal.merging.agreement import Measure
    from heal.merging.tensors import Pairs

BASES = ("dequantised", "original", "auto")


def merge(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str = "auto",
    model: str | Path | None = None,
    compare_logits: bool = True,
    held_out: str | None = None,
    field: str = "text",
    held_out_tokens: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    shown: bool = True,
) -> dict[str, Any]:
    """Merge an adapter made by `heal` into its base and write a checkpoint that stock transformers loads.

    Writing holds one tensor in memory at a time; the checkpoint has the base's shards, names and dtypes. Measuring
    (`check`, and `base="auto"`) holds one model at a time, in the dtype of the training or as it was trained.

    Args:
        adapter: folder with adapter_config.json, adapter_model.safetensors and heal.json.
        base: `dequantised` (what the adapter was trained on), `original` (the base's own weights), or `auto`: the one
            of the two whose merged model has the lower loss on held-out text. Where the text that the adapter was
            measured on is gone, by the losses of its heal.json; without those, `dequantised`. `merge.chosen` says so.
        model: the base, where it is no longer at the place that the adapter names.
        compare_logits: run the written checkpoint, and report how far its logits are from those of the adapter as
            trained.
            Where that cannot run, out of memory say, the checkpoint stays and `merge.not_compared` says why.
        held_out: SOURCE to measure on; what the adapter itself was measured on if None.
        field: field of its rows.
        held_out_tokens: how many tokens of each text; as many as the adapter was measured on if None.
        device: what measures.

    Returns:
        The merged model's heal.json: the adapter's, with a part `merge`.

    Raises:
        UsageError: another `base`, or text to measure on that cannot be read.
        CheckpointError: no adapter of ours, a base that cannot be found, or that is not the one it was trained on; or
            logits further apart than rounding explains (the checkpoint is written all the same).
    """
    if base not in BASES:
        raise UsageError(f"--base {base} is unknown; take {', '.join(BASES)}")
    folder, document, config = open_adapter(adapter)
    out = check_free(out, overwrite=overwrite)
    quiet_libraries()
    source = base_of(adapter, document, config, model)
    if out.exists() and out.resolve() in (source.folder.resolve(), folder.resolve()):
        raise RegrowthError(f"--out {out} is what the merge reads; name another folder")
    checkpoint = read_checkpoint(source.folder)
    weights = adapter_weights(folder)
    plans = _plans(adapter, document, config, checkpoint, weights)
    measure, chosen, why = None, None, ""
    if compare_logits or (base == "auto" and plans["dequantised"].dequantised):
        from heal.merging.agreement import TextGoneError, measuring_text

        device = pick_device(device)
        try:
            measure = measuring_text(document, source, held_out=held_out, field=field, tokens=held_out_tokens)
        except TextGoneError as error:
            if base != "auto":
                raise
            why = f"{error.why}; --held-out FILE names other text"
    if base == "auto":
        base, chosen = _choose(plans, source, checkpoint, weights, document, measure, why, device, shown)
    plan = plans[base]
    facts = _facts(plan, chosen, measure)
    if compare_logits and measure is not None:
        from heal.merging.agreement import compare, kl_bound, logits_that_fit, merged_logits, trained_logits

        with progress("Running the adapter as trained", None, shown=shown):
            wanted = logits_that_fit(
                lambda: trained_logits(source, folder, measure, bits=plan.bits, compute=plan.compute, device=device)
            )
    document = {**document, **earlier(source.folder), "merge": facts}
    with staged_directory(out, overwrite=overwrite) as stage:
        _write(stage, checkpoint, plan, weights, shown)
        carry(source.folder, stage)
        _describe(stage, document)
    if compare_logits and measure is not None:  # the model stands: nothing from here on takes it away
        with progress("Running the merged model", None, shown=shown):
            found, wrong = compare(
                wanted,
                lambda: merged_logits(out, measure, compute=plan.compute, device=device),
                bound=kl_bound(plan, checkpoint),
            )
        facts |= found
        _describe(out, document, overwrite=True)
        if wrong:
            raise CheckpointError(f"{out} is written, but {wrong}: do not use it before you know why")
    return document


def _describe(folder: Path, document: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write heal.json and the model card."""
    write_json(folder / "heal.json", document, overwrite=overwrite)
    write_text(folder / "README.md", merged_card(document), overwrite=overwrite)


def open_adapter(adapter: str | Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """An adapter's folder, its heal.json and its adapter_config.json.

    Raises:
        CheckpointError: it is no adapter of ours, or not a plain one.
    """
    folder = Path(adapter)
    if not folder.is_dir():
        raise CheckpointError(f"{adapter} is not a folder with an adapter")
    if not (folder / "heal.json").is_file():
        raise CheckpointError(f"{adapter} is no adapter; name a folder that heal qlora or heal distill wrote")
    document = read_artefact(folder / "heal.json", "regrowth.heal/1")
    lacking = [name for name in ("method", "base", "settings", "provenance") if name not in document]
    if lacking:
        raise CheckpointError(f"{folder / 'heal.json'} lacks {', '.join(lacking)}: it is not what healing wrote")
    if "merge" in document:
        raise CheckpointError(f"{adapter} is a merged model already")
    if "adapter_only" in document:
        raise CheckpointError(f"{adapter} is an adapter on the full model; merge the one that it was made from")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{adapter} holds no {ADAPTER_WEIGHTS}: a {document.get('method')} run leaves no adapter")
    return folder, document, adapter_config(folder)


def base_of(adapter: str | Path, document: dict[str, Any], config: dict[str, Any], model: str | Path | None) -> Source:
    """The base that an adapter was trained on, checked by its weights.

    Raises:
        CheckpointError: it cannot be found, or is another model.
    """
    from prune.checkpoint.identity import weights_sha256

    commit = document["base"].get("commit") if model is None else None
    try:
        source = locate(model or config["base_model_name_or_path"], revision=commit)
    except CheckpointError as error:
        raise CheckpointError(f"the base of {adapter} cannot be found ({error}); give it with --model") from None
    if weights_sha256(source.folder) != document["base"]["weights_sha256"]:
        raise CheckpointError(
            f"{adapter} was trained on {document['base']['model']}, and {source.name} is another model (or has changed "
            "since); name the right one with --model"
        )
    return source


def earlier(base: Path) -> dict[str, Any]:
    """`{"earlier": [...]}`: the heal.json of a base that was itself healed (patched, or merged), oldest first."""
    if not (base / "heal.json").is_file():
        return {}
    document = read_artefact(base / "heal.json", "regrowth.heal/1")
    return {"earlier": [*document.pop("earlier", []), document]}


def _plans(
    adapter: str | Path, document: dict[str, Any], config: dict[str, Any], checkpoint: Checkpoint, weights: Pairs
) -> dict[str, MergePlan]:
    """What to do on either base; the adapter's matrices are those that its heal.json names."""
    plan = plan_merge("dequantised", document, config, checkpoint)
    if set(weights) != set(plan.deltas.values()):
        raise CheckpointError(f"{adapter} holds other matrices than its heal.json names; is it whole?")
    return {"dequantised": plan, "original": replace(plan, base="original", dequantised={})}


def _choose(
    plans: dict[str, MergePlan],
    source: Source,
    checkpoint: Checkpoint,
    weights: Pairs,
    document: dict[str, Any],
    measure: Measure | None,
    why: str,
    device: str,
    shown: bool,
) -> tuple[str, dict[str, Any] | None]:
    """The base of the lower held-out loss, and what `merge.chosen` says of it; nothing where there was no choice.

    Args:
        measure: None where there is nothing to choose, or the text to measure on is gone.
        why: what became of that text.
    """
    if not plans["dequantised"].dequantised:
        return "original", {"by": "only", "losses": None, "why": why} if why else None
    if measure is None:
        return choose_by_record(document, why)
    from heal.merging.agreement import losses

    try:
        with progress("Measuring both bases", None, shown=shown):
            found = losses(source, checkpoint, plans, weights, measure, device=device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return choose_by_record(document, "memory ran out when both bases were to be measured")
    return min(found, key=lambda name: found[name]), {"by": "measured", "losses": found, "unit": "nats per token"}


def choose_by_record(document: dict[str, Any], why: str) -> tuple[str, dict[str, Any]]:
    """The better base by what healing measured at its end, or the one that was trained on where it measured neither.

    Args:
        document: the adapter's heal.json.
        why: what kept both from being measured now.
    """
    original = document.get("unquantised", {}).get("original")
    if original is None:
        return "dequantised", {"by": "default", "losses": None, "why": why}
    found = {"dequantised": document["held_out_loss"]["after"], "original": original}
    base = min(found, key=lambda name: found[name])
    return base, {"by": "recorded", "losses": found, "unit": "nats per token", "why": why}


def _write(stage: Path, checkpoint: Checkpoint, plan: MergePlan, weights: Pairs, shown: bool) -> None:
    """Copy every shard, then write the merged tensors over their places: one tensor in memory at a time."""
    from prune.checkpoint.tensors import write_over

    changed = plan.changed
    with progress("Merging", len(changed), shown=shown) as bar:
        for shard in checkpoint.shards:
            copy = stage / shard.name
            shutil.copyfile(shard.path, copy)
            for tensor in shard.tensors:
                if tensor.name in changed:
                    write_over(copy, shard, tensor, merged_tensor(shard, tensor, plan, weights))
                    bar.advance()


def _facts(plan: MergePlan, chosen: dict[str, Any] | None, measure: Measure | None) -> dict[str, Any]:
    return {
        "base": plan.base,
        "adapted": len(plan.deltas),
        "dequantised": len(plan.dequantised),
        "scaling": plan.scaling,
        "versions": versions(),
        "command": command_line(),
        **({"chosen": chosen} if chosen else {}),
        **({"held_out": {"tokens": measure.targets, **measure.identity}} if measure else {}),
    }
