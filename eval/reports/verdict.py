"""The top of the report: whether the loss stays within its limit, where it is worst, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.billing.bill import FEW
from eval.reports.model import PageTop, Tile
from eval.reports.sweep import sweep_sentence
from eval.reports.text import (
    NONE,
    bounds,
    nll_change,
    signed,
    summary,
    task_name,
    worst_accuracy,
    worst_loss,
    worst_nll,
)


def comparison_top(comparison: Mapping[str, Any]) -> PageTop:
    """What a reader in a hurry needs, in plain words and three numbers a model."""
    rows = comparison.get("rows") or []
    others = [model["label"] for model in comparison["models"][1:]]
    sentences = tuple(told for label in others if (told := summary(rows, label)))
    tiles = tuple((label, tuple(_tiles(comparison, label))) for label in others)
    limit = comparison.get("verdict")
    if limit is not None:
        return PageTop(limit["decision"].lower(), _judged(limit), sentences, tiles, _warnings(comparison))
    headline = worst_loss(rows) or "No domain was compared; the tables below have all that was measured."
    return PageTop("open", headline, sentences, tiles, _warnings(comparison))


def _judged(told: Mapping[str, Any]) -> str:
    """The sentence without the decision, which the heading says."""
    sentence = str(told["sentence"]).removeprefix(f"{told['decision']}: ")
    label = f"{(told['worst'] or {}).get('model')} on "
    if sentence.startswith(label):  # a model's name stays as it is, and stands within the sentence
        place, loses, rest = sentence.removeprefix(label).partition(" loses ")
        sentence = f"on {place}, {told['worst']['model']}{loses}{rest}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _tiles(comparison: Mapping[str, Any], label: str) -> list[Tile]:
    own = [row for row in comparison.get("rows") or [] if row["model"] == label and row["versus"]]
    found = []
    if own:
        found.append(_accuracy_tile([row for row in own if row["versus"]["full_above_chance"]]))
        worst = worst_nll(own)
        change = nll_change(worst["versus"])
        note = (task_name(worst), bounds(change, 1, 3))
        name = "Answer NLL, worst domain, bits per byte"
        found.append(Tile(name, signed(change["estimate"], 3), *note, _look(change, True)))
    texts = [row for row in comparison.get("prose") or [] if row["model"] == label and row["difference"]]
    if texts:
        worst = max(texts, key=lambda row: row["difference"]["estimate"])
        change = worst["difference"]
        title = f"Prose loss{', worst text' if len(texts) > 1 else ''}, nats per token"
        note = (str(worst.get("text") or "held-out text"), bounds(change, 1, 3))
        found.append(Tile(title, signed(change["estimate"], 3), *note, _look(change, True)))
    return found


def _accuracy_tile(rows: Sequence[Mapping[str, Any]]) -> Tile:
    """The largest loss of accuracy of the rows, all of them such that the full model has accuracy to lose."""
    title = "Accuracy, worst domain, points"
    if not rows:
        return Tile(title, NONE, "the full model is at chance", "and has none to lose")
    worst = worst_accuracy(rows)
    change = worst["versus"]["accuracy_difference"]
    value, interval = signed(100 * change["estimate"], 1), bounds(change, 100, 1)
    return Tile(title, value, task_name(worst), interval, _look(change, False))


def _look(change: Mapping[str, float], worse_above: bool) -> str:
    worse, better = change["low"] > 0, change["high"] < 0
    if not worse_above:
        worse, better = better, worse
    return "worse" if worse else "better" if better else ""


def _warnings(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    few = dict.fromkeys(
        f"{task_name(row)} has {row['n']} questions; below {FEW} an interval says little"
        for row in comparison.get("rows") or []
        if row["n"] < FEW
    )
    told = [str(warning) for warning in comparison.get("warnings") or []]
    return tuple(told or few)


def sweep_top(sweep: Mapping[str, Any]) -> PageTop:
    """The top of a sweep's own report."""
    headline = sweep_sentence(sweep) or "Every cut of the model on the same questions."
    return PageTop("open", headline, warnings=tuple(map(str, sweep.get("notes") or [])))
