"""The check and the greedy removal of a plan's evidence as (name, value) rows, for its table and the model card."""

from __future__ import annotations

from typing import Any

from prune.common.layers import spell_layers


def evidence_rows(evidence: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of what was measured on held-out text, if anything was; KeyError or TypeError where a part is missing."""
    rows = []
    removal = evidence.get("removal")
    if removal:
        steps = [f"{layer} ({loss:.3f})" for layer, loss in zip(removal["order"], removal["loss"], strict=True)]
        rows.append((f"removed in turn (loss after, nats, {removal['tokens']} tokens)", ", ".join(steps)))
    check = evidence.get("verification")
    if check:
        rows += _check_rows(check)
    return rows


def _check_rows(check: dict[str, Any]) -> list[tuple[str, str]]:
    where = "held-out text" if check["held_out"] else "text of the scan itself (it has no other documents)"
    cost = f"{check['passes']:.2f} plain passes over {check['text_tokens']} tokens"
    rows = [("checked on", f"{where}: {check['screened']} candidates tried, {cost}")]
    own, chosen = check["own"], check["chosen"]
    for finalist in check["finalists"]:
        layers = finalist["dropped"]
        mark = " (taken)" if layers == chosen else " (the criterion's own)" if layers == own else ""
        if layers == own == chosen:
            mark = " (taken, the criterion's own)"
        value = f"loss {finalist['loss']:.3f}, KL {finalist['kl']:.3f} ± {finalist['kl_stderr']:.3f}{mark}"
        rows.append((f"without {spell_layers(layers)}", value))
    rows.append(("full model", f"loss {check['full_loss']:.3f} (nats a token, {check['tokens']} tokens)"))
    if own != chosen:
        gain = f"{check['gain']:.3f} ± {check['gain_stderr']:.3f} nats less KL"
        rows.append(
            (
                "the check overrules",
                f"{spell_layers(own)} was the criterion's choice; {spell_layers(chosen)} has {gain}",
            )
        )
    return rows
