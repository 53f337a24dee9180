"""What the commands show people of what they did."""

from __future__ import annotations

from heal.result import Chosen, HealResult, MergeFacts, ShipFacts
from prune.common.screen.tables import Table


def curve(result: HealResult) -> Table:
    record, peak, ended = result.record, result.record.peak_memory, result.record.ended
    assert ended is not None
    caption = (
        f"{result.out}: held-out loss {result.before:.3f} -> {result.after:.3f}; {record.tokens:,} tokens at "
        f"{record.tokens_per_second:.0f} a second; peak memory {peak['resident_bytes'] / 2**30:.1f} GiB resident"
    )
    if "cuda_bytes" in peak:
        caption += f", {peak['cuda_bytes'] / 2**30:.1f} GiB on a GPU at most"
    if record.chats is not None and record.loss_tokens is not None:
        caption += f"; {record.loss_tokens:,} of the tokens bore loss"
    if ended.by != "budget":
        why = "the text ended" if ended.by == "text" else "no better loss came"
        caption += f"; ended at step {ended.step}, for {why}"
    if ended.kept_step != ended.step:
        caption += f"; the adapter is that of step {ended.kept_step}"
    texts = [text.name for text in record.held_out.texts or ()]
    several = texts if len(texts) > 1 else []
    rows = []
    for point in record.curve or ():
        trained = "" if point.loss is None else f"{point.loss:.4f}"
        losses = (f"{loss:.4f}" for loss in (point.held_out_loss, *(point.texts[name] for name in several)))
        rows.append([str(point.step), f"{point.tokens:,}", trained, *losses])
    head = ("step", "tokens", "training loss", "held-out loss", *several)
    return Table.of("Healing: loss in nats per token", head, rows, caption=caption)


def patched(result: HealResult) -> Table:
    record, won = result.record, result.record.won_back
    share = "" if won is None else f", {won:.0%} of the loss won back"
    caption = (
        f"{result.out}: held-out loss {result.before:.3f} -> {result.after:.3f} (full model "
        f"{record.held_out_loss.full:.3f}){share}; {record.seconds:.0f} s"
    )
    head = ("layer", "kind", "objective", "ridge", "massive tokens", "loss", "squares left", "")
    rows = []
    for fold in record.folds or ():
        rows.append([str(fold.layer), "none", "", "", "", f"{fold.loss_without:.4f}", "", ""])
        for tried in fold.candidates:
            share = "" if tried.share is None else f"{tried.share:g}"
            cells = [str(tried.layer), tried.kind, tried.objective, f"{tried.ridge:g}", share, f"{tried.loss:.4f}"]
            rows.append([*cells, f"{tried.left_over:.1%}", "kept" if tried == fold.chosen else ""])
    title = "Patch: candidates, loss on text apart in nats per token"
    return Table.of(title, head, rows, words=("kind", "objective", ""), caption=caption)


def merged(result: HealResult) -> str:
    facts = result.record.merge
    assert facts is not None
    words = (
        f"{result.out}: {facts.adapted} projections carry the adapter; {facts.dequantised} saved as quantisation left "
        f"them; all else as in {result.record.base['model']}"
    )
    if facts.chosen is not None:
        words += f"\n{_choice(facts, facts.chosen)}"
    return words + _apart(facts)


def _choice(facts: MergeFacts, chosen: Chosen) -> str:
    """Which base `auto` kept, and why."""
    why = "" if chosen.why is None else f"\n{chosen.why}"
    if chosen.by == "only":
        return "the base has no other weights to choose" + why
    if chosen.losses is None:
        return f"kept the {facts.base} base, which the adapter was trained on; neither base was measured" + why
    measured = facts.held_out if chosen.by == "measured" else None
    how = "as healing measured them" if measured is None else f"{measured['tokens']:,} tokens"
    return (
        f"kept the {facts.base} base: held-out loss {chosen.losses['dequantised']:.4f} dequantised, "
        f"{chosen.losses['original']:.4f} original (nats per token, {how})"
    ) + why


def shipped(result: HealResult) -> str:
    facts = result.record.adapter_only
    assert facts is not None
    return f"{result.out}: one adapter for {facts.full['model']}: {facts.words}; healed" + _apart(facts)


def _apart(facts: MergeFacts | ShipFacts) -> str:
    if facts.not_compared is not None:
        return (
            f"\nits logits were not compared with those of the adapter as trained ({facts.not_compared}); it is "
            "written all the same"
        )
    if facts.agreement is None:
        return ""
    apart = facts.agreement
    return (
        f"\nagainst the adapter as trained, on {apart.tokens} held-out tokens: KL {apart.kl:.2g} nats, logits "
        f"apart by {apart.mean_abs:.2g} in the mean and {apart.max_abs:.2g} at most"
    )
