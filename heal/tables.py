"""What the commands show people of a heal.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.common.tables import Table


def curve(document: dict[str, Any], out: Path) -> Table:
    """Losses over the steps, and what the run cost."""
    loss, peak = document["held_out_loss"], document["peak_memory"]
    caption = (
        f"{out}: held-out loss {loss['before']:.3f} -> {loss['after']:.3f}; {document['tokens']:,} tokens at "
        f"{document['tokens_per_second']:.0f} a second; peak memory {peak['resident_bytes'] / 2**30:.1f} GiB resident"
    )
    if "cuda_bytes" in peak:
        caption += f", {peak['cuda_bytes'] / 2**30:.1f} GiB on the GPU"
    ended = document["ended"]
    if ended["by"] != "budget":
        why = "the text ended" if ended["by"] == "text" else "no better loss came"
        caption += f"; ended at step {ended['step']}, for {why}"
    if ended["kept_step"] != ended["step"]:
        caption += f"; the adapter is that of step {ended['kept_step']}"
    texts = [one["name"] for one in document["held_out"]["texts"]]
    several = texts if len(texts) > 1 else []
    rows = []
    for point in document["curve"]:
        trained = "" if point["loss"] is None else f"{point['loss']:.4f}"
        losses = (f"{loss:.4f}" for loss in (point["held_out_loss"], *(point["texts"][name] for name in several)))
        rows.append([str(point["step"]), f"{point['tokens']:,}", trained, *losses])
    head = ("step", "tokens", "training loss", "held-out loss", *several)
    return Table.of("Healing: loss in nats per token", head, rows, caption=caption)


def patched(document: dict[str, Any], out: Path) -> Table:
    """The candidates of a patch, and which of them were kept."""
    loss, won = document["held_out_loss"], document["won_back"]
    share = "" if won is None else f", {won:.0%} of the loss won back"
    caption = (
        f"{out}: held-out loss {loss['before']:.3f} -> {loss['after']:.3f} (full model {loss['full']:.3f}){share}; "
        f"{document['seconds']:.0f} s"
    )
    head = ("layer", "kind", "objective", "ridge", "massive tokens", "loss", "squares left", "")
    rows = []
    for fold in document["folds"]:
        rows.append([str(fold["layer"]), "none", "", "", "", f"{fold['loss_without']:.4f}", "", ""])
        for tried in fold["candidates"]:
            ridge, share = ("" if tried[name] is None else f"{tried[name]:g}" for name in ("ridge", "share"))
            named = (str(tried["layer"]), tried["kind"], tried["objective"], ridge, share)
            kept = "kept" if tried == fold["chosen"] else ""
            rows.append([*named, f"{tried['loss']:.4f}", f"{tried['left_over']:.1%}", kept])
    title = "Patch: candidates, loss on text apart in nats per token"
    return Table.of(title, head, rows, words=("kind", "objective", ""), caption=caption)


def merged(document: dict[str, Any], out: Path) -> str:
    """What a merge wrote, and which base it chose, by what losses."""
    facts = document["merge"]
    words = (
        f"{out}: {facts['adapted']} projections carry the adapter; {facts['dequantised']} saved as quantisation left "
        f"them; all else as in {document['base']['model']}"
    )
    if "chosen" in facts:
        words += "\n" + _choice(facts)
    return words + _apart(facts)


def _choice(facts: dict[str, Any]) -> str:
    """Which base `auto` kept, and why."""
    chosen = facts["chosen"]
    why = f"\n{chosen['why']}" if "why" in chosen else ""
    if chosen["by"] == "only":
        return "the base has no other weights to choose" + why
    if chosen["by"] == "default":
        return f"kept the {facts['base']} base, which the adapter was trained on; neither base was measured" + why
    losses = chosen["losses"]
    how = f"{facts['held_out']['tokens']:,} tokens" if chosen["by"] == "measured" else "as healing measured them"
    return (
        f"kept the {facts['base']} base: held-out loss {losses['dequantised']:.4f} dequantised, "
        f"{losses['original']:.4f} original (nats per token, {how})"
    ) + why


def shipped(document: dict[str, Any], out: Path) -> str:
    """What the one adapter for the full model holds."""
    facts = document["adapter_only"]
    return f"{out}: one adapter for {facts['full']['model']}: {facts['words']}; healed" + _apart(facts)


def _apart(facts: dict[str, Any]) -> str:
    if "not_compared" in facts:
        return (
            f"\nits logits were not compared with those of the adapter as trained ({facts['not_compared']}); it is "
            "written all the same"
        )
    if "agreement" not in facts:
        return ""
    found = facts["agreement"]
    return (
        f"\nagainst the adapter as trained, on {found['tokens']} held-out tokens: KL {found['kl']:.2g} nats, logits "
        f"apart by {found['mean_abs']:.2g} in the mean and {found['max_abs']:.2g} at most"
    )
