"""The cut and the healing as one small adapter on the full model, by peft's `layer_replication`.

peft builds a model of any of its layers, in any order, before it puts a LoRA adapter on it: the list of ranges
[[0, l], [l + n, L]] is a cut. The layers' modules stay those of the full model, made for their old places; only what
the decoder itself looks up by a layer's number (which mask, which kind of cache) is read at the new place. So a cut
that changes such a list is refused, and so are families whose layers peft does not find.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from heal.cards import adapter_only_card
from heal.merging.merge import Adapter, base_of, open_adapter
from heal.result import RECORD_FILE, HealResult, ShipFacts
from heal.settings import Measuring
from prune.checkpoint.companions import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from prune.checkpoint.source import Source, locate
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError
from prune.common.files.outputs import check_apart, free_folder, staged_directory, write_json, write_text
from prune.common.files.provenance import command_line, versions
from prune.common.layers import runs
from prune.common.screen.terminal import progress, quiet_libraries
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.cutting.verify import verify_cut
from prune.families.config import family_of
from prune.models.loading import pick_device

# vLLM before 0.32 reads past `layer_replication`, and would serve the full model with the adapter on wrong layers. All
# of its versions refuse an adapter that says it has biases; peft then only lets the model's own biases be trained.
REFUSED_BIAS = "lora_only"


@checks_arguments
def adapter_only(
    adapter: str | Path,
    out: str | Path,
    *,
    full: str | Path | None = None,
    model: str | Path | None = None,
    measuring: Measuring | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> HealResult:
    """Write an adapter that `PeftModel.from_pretrained(full model, folder)` makes the healed pruned model of.

    On the full model in the precision of the training (NF4 or int8) that is the trained function; on its original
    weights it is what `merge(base="original")` gives.

    Args:
        adapter: folder that `heal qlora` or `heal distill` wrote.
        full: the model that was cut, where it is no longer at the place that the plan of the cut names.
        model: the pruned model that the adapter was trained on, where it has moved.
        measuring: whether and on what both are run, one at a time, to report how far their logits are apart.

    Returns:
        Its record is the adapter's, with a part `adapter_only`.

    Raises:
        CheckpointError: the base was not cut by `prune cut`, was changed since, or is of a family that peft's
            `layer_replication` does not give exactly; the message says which.
        UsageError: text to check on cannot be read.
    """
    measuring = measuring or Measuring()
    out = free_folder(out, overwrite=overwrite)
    check_apart(out, adapter, model, full, *measuring.files_read)
    opened = open_adapter(adapter)
    quiet_libraries()
    pruned = base_of(opened, model)
    plan = _plan(pruned)
    try:
        whole = locate(full or plan.model, revision=None if full else plan.commit)
    except CheckpointError as error:
        raise CheckpointError(f"the model that was cut cannot be found ({error}); give it with --full") from None
    check_apart(out, pruned.folder, whole.folder)
    _refuse_changed(whole, pruned, show_progress)
    refuse_layout(whole, pruned, plan)
    facts = ShipFacts(
        full={"model": whole.name, "commit": whole.commit, **plan.identity},
        words=plan.words,
        layer_replication=ranges(plan.kept),
        versions=versions(),
        command=command_line(),
    )
    measure, record = None, opened.record
    if measuring.compare_logits:
        from heal.merging.agreement import (
            FLOAT32_BOUND,
            compare,
            files_measured_on,
            logits_that_fit,
            measuring_text,
            trained_logits,
        )

        check_apart(out, *files_measured_on(record, measuring))
        device = pick_device(measuring.device)
        measure = measuring_text(record, pruned, measuring)
        with progress("Running the pruned model with the adapter", None, shown=show_progress):
            wanted = logits_that_fit(lambda: trained_logits(pruned, opened.folder, measure, record, device=device))
    shipped = record.with_part(adapter_only=facts)
    with staged_directory(out, overwrite=overwrite) as stage:
        _write_adapter(stage, opened, whole, pruned, plan)
        shipped.write(stage / RECORD_FILE)
        write_text(stage / "README.md", adapter_only_card(shipped))
    if measure is not None:
        with progress("Running the full model with the new adapter", None, shown=show_progress):
            comparison = compare(
                wanted, lambda: trained_logits(whole, out, measure, record, device=device), bound=FLOAT32_BOUND
            )
        shipped = shipped.with_part(adapter_only=facts.model_copy(update=comparison.facts()))
        shipped.write(out / RECORD_FILE, overwrite=True)
        comparison.refuse(out)
    return HealResult(out, shipped)


def _write_adapter(stage: Path, adapter: Adapter, whole: Source, pruned: Source, plan: CutPlan) -> None:
    """The adapter's weights as they are, and a config that puts them on the full model's kept layers."""
    name = whole.name if whole.commit else str(whole.folder.resolve())
    base = {"base_model_name_or_path": name, "revision": whole.commit, "layer_replication": ranges(plan.kept)}
    write_json(stage / ADAPTER_CONFIG, {**adapter.config, **base, "bias": REFUSED_BIAS})
    shutil.copyfile(adapter.folder / ADAPTER_WEIGHTS, stage / ADAPTER_WEIGHTS)
    shutil.copyfile(pruned.folder / PLAN_FILE, stage / PLAN_FILE)


def ranges(kept: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Kept layers as peft's ranges, first included, last not: (0, 1, 2, 6, 7) -> ((0, 3), (6, 8))."""
    return tuple((start, start + count) for start, count in runs(kept))


def refuse_layout(full: Source, pruned: Source, plan: CutPlan) -> None:
    """Raise CheckpointError where peft's `layer_replication` does not give this cut of this model exactly.

    Told from the model's skeleton (no weights) and both configs, as their classes fill them.
    """
    import torch

    from prune.models.loading import decoder_layers, read_config, text_config
    from prune.models.memory.skeleton import skeleton

    config = read_config(full.folder, full.name)
    empty = skeleton(config, torch.float32, full.name)
    decoder = empty
    while hasattr(decoder, "model"):  # the way that peft takes
        decoder = decoder.model
    if getattr(decoder, "layers", None) is not decoder_layers(empty):
        raise CheckpointError(
            f"peft's layer_replication does not find the layers of {type(empty).__name__} "
            "(it looks for model.layers); merge the adapter instead, without --adapter-only"
        )
    family = family_of({"model_type": plan.model_type}, full.name)
    if family.links:
        raise CheckpointError(
            f"{plan.model_type} layers read what other layers computed, by number, and peft's layer_replication leaves "
            "those numbers; merge the adapter instead, without --adapter-only"
        )
    whole, rest = text_config(config), text_config(read_config(pruned.folder, pruned.name))
    changed = {name.rpartition(".")[2] for name in plan.config} - set(family.count)
    if isinstance(getattr(whole, "layer_types", None), list):
        changed -= {*family.counts, *family.periods}  # the classes read these to fill the list, and nothing else does
        changed.add("layer_types")
    for name in sorted(changed):
        before, after = getattr(whole, name, None), getattr(rest, name, None)
        same = hasattr(whole, name) and before == after
        if isinstance(before, list) and isinstance(after, list):
            same = before[: len(after)] == after
        if not same:  # the decoder looks layers up by their new place
            raise CheckpointError(
                f"this cut changes {name} in the config, which peft's layer_replication leaves as it is: the decoder "
                "would treat layers as the ones that stood in their places; merge the adapter instead, without "
                "--adapter-only"
            )


def _plan(pruned: Source) -> CutPlan:
    if not (pruned.folder / PLAN_FILE).is_file():
        raise CheckpointError(f"{pruned.name} holds no {PLAN_FILE}, so there is no cut to ship with the adapter")
    return CutPlan.read(pruned.folder / PLAN_FILE)


def _refuse_changed(whole: Source, pruned: Source, show_progress: bool) -> None:
    """An adapter can carry a cut, but no other change of the weights, such as a patch's: that is no low rank."""
    verdict = verify_cut(
        whole.name if whole.commit else whole.folder, pruned.folder, revision=whole.commit, show_progress=show_progress
    )
    if not verdict.sound:
        healed = (pruned.folder / RECORD_FILE).is_file()
        why = "it was patched or merged since it was cut" if healed else verdict.faults[0]
        raise CheckpointError(
            f"{pruned.name} is not {whole.name} with layers dropped ({why}), and an adapter on the full model cannot "
            "say the rest; merge the adapter instead, without --adapter-only"
        )
