"""The top of the report: whether the loss stays within its limit, where it is worst, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eval.reports.model import ModelTop, PageTop, Tile
from eval.reports.sections.gains import both_lines
from eval.reports.sections.noise import noise_line, nothing_lost
from eval.reports.sections.sweep import sweep_sentence
from eval.reports.wording.tables import change, within
from eval.reports.wording.text import NONE, PER_BYTE, nll_change, task_name, worst_accuracy, worst_loss, worst_nll
from eval.reports.wording.weights import all_as_stored, weights_line
from prune.common.screen.tables import Cell

Record = Mapping[str, Any]


def comparison_top(comparison: Record) -> PageTop:
    """What a reader in a hurry needs, in plain words and three numbers a model."""
    rows, verdict = comparison["rows"], comparison["verdict"]
    others = [model["label"] for model in comparison["models"][1:]]
    same = (nothing_lost(comparison, label) for label in others)
    sentences = tuple(filter(None, (*same, noise_line(comparison))))
    sentences += () if all_as_stored(comparison) else (weights_line(comparison),)
    models = tuple(
        ModelTop(label, gain, cost, tuple(_tiles(comparison, label))) for label, gain, cost in both_lines(comparison)
    )
    if verdict is not None:
        return PageTop(verdict["decision"].lower(), _judged(verdict), sentences, models, tuple(comparison["warnings"]))
    headline = worst_loss(rows) or "No domain was compared; the tables below have all that was measured."
    return PageTop("open", headline, sentences, models, tuple(comparison["warnings"]))


def _judged(verdict: Record) -> str:
    """The sentence without the decision, which the heading says."""
    sentence = str(verdict["sentence"]).removeprefix(f"{verdict['decision']}: ")
    label = f"{(verdict['worst'] or {}).get('model')} on "
    if sentence.startswith(label):  # a model's name stays as it is, and stands within the sentence
        task, verb, rest = re.split(r"( loses | changes by )", sentence.removeprefix(label), maxsplit=1)
        sentence = f"on {task}, {verdict['worst']['model']}{verb}{rest}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _tiles(comparison: Record, label: str) -> list[Tile]:
    tiles = []
    rows = [row for row in comparison["rows"] if row["model"] == label and row["versus"]]
    if rows:
        tiles.append(_accuracy_tile([row for row in rows if row["versus"]["full_above_chance"]]))
        if (worst := worst_nll(rows)) is not None:
            noise = within(worst["versus"], PER_BYTE)
            cell = change(nll_change(worst["versus"]), 1, 3, worse_above=True, noise=noise)
            tiles.append(_tile("Answer NLL, worst domain, bits per byte", cell, task_name(worst)))
    texts = [row for row in comparison["prose"] if row["model"] == label and row["difference"]]
    if texts:
        worst = max(texts, key=lambda row: row["difference"]["estimate"])
        title = f"Prose loss{', worst text' if len(texts) > 1 else ''}, nats per token"
        cell = change(worst["difference"], 1, 3, worse_above=True, noise=within(worst, "difference"))
        tiles.append(_tile(title, cell, worst["text"]))
    return tiles


def _accuracy_tile(rows: Sequence[Record]) -> Tile:
    """The largest loss of accuracy of the rows, all of them such that the full model has accuracy to lose."""
    title = "Accuracy, worst domain, points"
    if not rows:
        return Tile(title, NONE, "the full model is at chance", "and has none to lose")
    worst = worst_accuracy(rows)
    lost, noise = worst["versus"]["accuracy_difference"], within(worst["versus"], "accuracy_difference")
    return _tile(title, change(lost, 100, 1, worse_above=False, noise=noise), task_name(worst))


def _tile(title: str, cell: Cell, note: str) -> Tile:
    return Tile(title, cell.text, note, cell.note, cell.look)


def sweep_top(sweep: Record) -> PageTop:
    """The top of a sweep's own report."""
    headline = sweep_sentence(sweep) or "Every cut of the model on the same questions."
    sentences = () if all_as_stored(sweep) else (weights_line(sweep),)
    return PageTop("open", headline, sentences, warnings=tuple(sweep["notes"]))
