"""An adapter and its base made one ordinary checkpoint, tensor by tensor.

What an adapter was fitted to is the base as quantised: NF4 of the weights, not the weights. `dequantised` keeps what
was trained: every projection that was quantised (bitsandbytes takes all linear layers but the head, attention included)
is saved as quantisation left it, and the adapter is added to that in fp32. Added to the original weights instead, the
result is another function than the one trained. Which is better only held-out text tells, and `auto`, the default, asks
it. Quantising the sum again, as peft does on a 4-bit model, would lose the adapter in the rounding.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.cards import merged_card
from heal.lineage import carry
from heal.merging.tensors import MergePlan, adapter_config, adapter_weights, merged_tensor, plan_merges
from heal.result import NATS, RECORD_FILE, Base, Chosen, HealRecord, HealResult, MergeFacts
from heal.settings import Measuring
from prune.checkpoint.companions import ADAPTER_WEIGHTS
from prune.checkpoint.headers import Checkpoint, read_checkpoint
from prune.checkpoint.source import Source, locate
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError, UsageError
from prune.common.files.outputs import check_apart, free_folder, staged_directory, write_text
from prune.common.files.provenance import command_line, versions
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.common.screen.terminal import progress, quiet_libraries, screen
from prune.models.loading import pick_device

if TYPE_CHECKING:
    from heal.merging.agreement import Measure
    from heal.models.dressing import Pairs
    from prune.models.walks.layerwise import Layerwise

BASES = ("dequantised", "original", "auto")


@dataclass(frozen=True)
class Adapter:
    """An adapter of ours: its folder, its heal.json, and its adapter_config.json."""

    folder: Path
    record: HealRecord
    config: dict[str, Any]


@dataclass(frozen=True)
class _Parts:
    """All that a merge reads, and what would be done on either base."""

    adapter: Adapter
    source: Source
    checkpoint: Checkpoint
    weights: Pairs
    plans: dict[Base, MergePlan]


@checks_arguments
def merge(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str = "auto",
    model: str | Path | None = None,
    measuring: Measuring | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> HealResult:
    """Merge an adapter made by `heal` into its base and write a checkpoint that stock transformers loads.

    Writing holds one tensor in memory at a time; the checkpoint has the base's shards, names and dtypes. Measuring
    holds one model at a time, in the dtype of the training or as it was trained; a base that does not fit is run layer
    by layer from its files, to the same numbers. Where measuring cannot run, the checkpoint stays and
    `merge.not_compared` says why.

    Args:
        adapter: folder with adapter_config.json, adapter_model.safetensors and heal.json.
        base: `dequantised` (what the adapter was trained on), `original` (the base's own weights), or `auto`: the one
            of the two whose merged model has the lower loss on held-out text. Where the text that the adapter was
            measured on is gone, by the losses of its heal.json; without those, `dequantised`. `merge.chosen` says so.
        model: the base, where it is no longer at the place that the adapter names.

    Returns:
        Its record is the adapter's, with a part `merge`.

    Raises:
        UsageError: another `base`, or text to measure on that cannot be read.
        CheckpointError: no adapter of ours, a base that cannot be found, or that is not the one it was trained on; or
            logits further apart than rounding explains (the checkpoint is written all the same).
    """
    if base not in BASES:
        raise UsageError(f"--base {base} is unknown; use {', '.join(BASES)}")
    measuring = measuring or Measuring()
    out = free_folder(out, overwrite=overwrite)
    check_apart(out, adapter, model, *measuring.files_read)
    opened = open_adapter(adapter)
    quiet_libraries()
    source = base_of(opened, model)
    check_apart(out, source.folder)
    parts = _read(opened, source)
    measuring = replace(measuring, device=pick_device(measuring.device))
    measure, chosen, why = None, None, ""
    if measuring.compare_logits or (base == "auto" and parts.plans["dequantised"].dequantised):
        from heal.merging.agreement import TextGoneError, files_measured_on, measuring_text

        check_apart(out, *files_measured_on(opened.record, measuring))
        try:
            measure = measuring_text(opened.record, source, measuring)
        except TextGoneError as error:
            if base != "auto":
                raise
            why = f"{error.why}; --held-out FILE gives other text"
    files = _files(parts, measuring, show_progress) if measure is not None else None
    if base == "auto":
        base, chosen = _choose(parts, measure, why, measuring.device, files, show_progress)
    plan = parts.plans["original" if base == "original" else "dequantised"]
    compared = measure if measuring.compare_logits else None
    if compared is not None:
        from heal.merging.agreement import compare, kl_bound, logits_that_fit, merged_logits, trained_logits

        device = measuring.device
        with progress("Running the adapter as trained", None, shown=show_progress):
            wanted = logits_that_fit(
                lambda: trained_logits(source, opened.folder, compared, opened.record, device=device, files=files)
            )
    facts = _facts(plan, chosen, measure)
    if measuring.compare_logits and measure is None:
        facts = facts.model_copy(update={"not_compared": why})
    record = opened.record.with_part(earlier=earlier(source.folder), merge=facts)
    with staged_directory(out, overwrite=overwrite) as stage:
        _write(stage, parts, plan, measuring.device, show_progress)
        carry(source.folder, stage)
        _describe(stage, record)
    if compared is not None:  # the model stands: nothing from here on takes it away
        with progress("Running the merged model", None, shown=show_progress):
            comparison = compare(
                wanted,
                lambda: merged_logits(out, compared, compute=plan.compute, device=device, base=files),
                bound=kl_bound(plan, parts.checkpoint),
            )
        record = record.with_part(merge=facts.model_copy(update=comparison.facts()))
        _describe(out, record, overwrite=True)
        comparison.refuse(out)
    return HealResult(out, record)


def _files(parts: _Parts, measuring: Measuring, show_progress: bool) -> Layerwise | None:
    """The base as it is run layer by layer where it does not fit, which a line says; None where it is loaded."""
    from heal.merging.agreement import files_to_walk

    plan = parts.plans["dequantised"]
    device, cap = measuring.device, measuring.max_memory
    files = files_to_walk(parts.source, plan, parts.weights, device=device, max_memory=cap)
    if files is not None and show_progress:
        screen().print("The weights do not fit in memory: measuring and comparing layer by layer, from the files.")
    return files


def _describe(folder: Path, record: HealRecord, *, overwrite: bool = False) -> None:
    record.write(folder / RECORD_FILE, overwrite=overwrite)
    write_text(folder / "README.md", merged_card(record), overwrite=overwrite)


def open_adapter(adapter: str | Path) -> Adapter:
    """Read an adapter's heal.json and adapter_config.json.

    Raises:
        CheckpointError: it is no adapter of ours, or not a plain one.
    """
    folder = Path(adapter)
    if not folder.is_dir():
        raise CheckpointError(f"{adapter} is not a folder with an adapter")
    if not (folder / RECORD_FILE).is_file():
        raise CheckpointError(f"{adapter} is no adapter; give a folder that heal qlora or heal distill wrote")
    record = HealRecord.read(folder / RECORD_FILE)
    if record.merge is not None:
        raise CheckpointError(f"{adapter} is a merged model already")
    if record.adapter_only is not None:
        raise CheckpointError(f"{adapter} is an adapter on the full model; merge the one that it was made from")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{adapter} holds no {ADAPTER_WEIGHTS}: a {record.method} run leaves no adapter")
    return Adapter(folder, record, adapter_config(folder))


def base_of(adapter: Adapter, model: str | Path | None) -> Source:
    """The base that an adapter was trained on, checked by its weights; `model`: where it is now.

    Raises:
        CheckpointError: it cannot be found, or is another model.
    """
    from prune.checkpoint.identity import weights_sha256

    trained_on = adapter.record.base
    commit = trained_on.get("commit") if model is None else None
    try:
        source = locate(model or adapter.config["base_model_name_or_path"], revision=commit)
    except CheckpointError as error:
        raise CheckpointError(f"the base of {adapter.folder} cannot be found ({error}); give it with --model") from None
    if weights_sha256(source.folder) != trained_on["weights_sha256"]:
        raise CheckpointError(
            f"{adapter.folder} was trained on {trained_on['model']}, and {source.name} is another model (or has "
            "changed since); give the right one with --model"
        )
    return source


def earlier(base: Path) -> tuple[HealRecord, ...] | None:
    """The heal.json of a base that was itself healed (patched, or merged), oldest first."""
    if not (base / RECORD_FILE).is_file():
        return None
    record = HealRecord.read(base / RECORD_FILE)
    return (*(record.earlier or ()), record.with_part(earlier=None))


def _read(adapter: Adapter, source: Source) -> _Parts:
    """The checkpoint and the adapter's matrices, which must be those that its heal.json names."""
    checkpoint, weights = read_checkpoint(source.folder), adapter_weights(adapter.folder)
    plans = plan_merges(adapter.record, adapter.config, checkpoint)
    if set(weights) != set(plans["dequantised"].deltas.values()):
        raise CheckpointError(f"{adapter.folder} holds other matrices than its heal.json names; is it whole?")
    return _Parts(adapter, source, checkpoint, weights, plans)


def _choose(
    parts: _Parts, measure: Measure | None, why: str, device: str, files: Layerwise | None, show_progress: bool
) -> tuple[Base, Chosen | None]:
    """The base of the lower held-out loss, and what `merge.chosen` says of it; nothing where there was no choice.

    Args:
        measure: None where there is nothing to choose, or the text to measure on is gone.
        files: the base as it is run layer by layer; None to load it.
        why: what became of that text.
    """
    if not parts.plans["dequantised"].dequantised:
        return "original", Chosen(by="only", why=why) if why else None
    if measure is None:
        return choose_by_record(parts.adapter.record, why)
    from heal.merging.agreement import measure_bases

    try:
        with progress("Measuring both bases", None, shown=show_progress):
            losses = measure_bases(
                parts.source, parts.checkpoint, parts.plans, parts.weights, measure, device=device, files=files
            )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return choose_by_record(parts.adapter.record, "memory ran out when both bases were to be measured")
    return _least(losses), Chosen(by="measured", losses=losses, unit=NATS)


def choose_by_record(record: HealRecord, why: str) -> tuple[Base, Chosen]:
    """The better base by what healing measured at its end, or the one that was trained on where it measured neither.

    Args:
        record: the adapter's heal.json.
        why: what kept both from being measured now.
    """
    original = None if record.unquantised is None else record.unquantised.original
    if original is None:
        return "dequantised", Chosen(by="default", why=why)
    losses: dict[Base, float] = {"dequantised": record.held_out_loss.after, "original": original}
    return _least(losses), Chosen(by="recorded", losses=losses, unit=NATS, why=why)


def _least(losses: dict[Base, float]) -> Base:
    return min(losses, key=lambda base: losses[base])


def _write(stage: Path, parts: _Parts, plan: MergePlan, device: str, show_progress: bool) -> None:
    """Copy every shard, then write the merged tensors over their places: one tensor in memory at a time.

    Args:
        device: that quantises and adds; the CPU, from where its memory runs out.
    """
    from prune.checkpoint.tensors import write_over

    changed = plan.changed
    with progress("Merging", len(changed), shown=show_progress) as bar:
        for shard in parts.checkpoint.shards:
            copy = stage / shard.name
            shutil.copyfile(shard.path, copy)
            for tensor in shard.tensors:
                if tensor.name in changed:
                    try:
                        value = merged_tensor(shard, tensor, plan, parts.weights, device=device)
                    except Exception as error:
                        if device == "cpu" or not is_out_of_memory(error):
                            raise
                        device = "cpu"  # the card is full: slower, and no reason to write nothing
                        value = merged_tensor(shard, tensor, plan, parts.weights)
                    write_over(copy, shard, tensor, value.cpu())
                    bar.advance()


def _facts(plan: MergePlan, chosen: Chosen | None, measure: Measure | None) -> MergeFacts:
    return MergeFacts(
        base=plan.base,
        adapted=len(plan.deltas),
        dequantised=len(plan.dequantised),
        scaling=plan.scaling,
        versions=versions(),
        command=command_line(),
        chosen=chosen,
        held_out=None if measure is None else {"tokens": measure.targets, **measure.identity},
    )
