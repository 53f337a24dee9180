"""Which weights were judged, and what NF4 alone costs, in one line. Pure text work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.reports.wording.text import bounds
from prune.common.screen.numbers import signed
from prune.models.whole import AS_STORED, NF4

Document = Mapping[str, Any]
_WORDS = {NF4: "NF4 (4 bits)"}


def weights_line(document: Document) -> str:
    """One line on the weights of comparison.json, run.json or sweep.json."""
    judged = _judged(document)
    kinds = set(judged.values())
    named = {kind: _WORDS.get(kind, kind) for kind in kinds}
    if len(kinds) == 1:
        told = f"Weights judged: {named[kinds.pop()]}."
    else:
        told = f"Weights judged: {', '.join(f'{named[kind]} ({label})' for label, kind in judged.items())}."
    return " ".join([told, *_own_loss(document, judged)])


def all_as_stored(document: Document) -> bool:
    """Whether no model was judged on other weights than its own."""
    return set(_judged(document).values()) == {AS_STORED}


def _judged(document: Document) -> dict[str, str]:
    """Label -> weights; what was written before there was a choice is as stored."""
    if "models" in document:
        return {model["label"]: model["settings"].get("weights", AS_STORED) for model in document["models"]}
    return {"": document["settings"].get("weights", AS_STORED)}


def _own_loss(document: Document, judged: Mapping[str, str]) -> list[str]:
    first = next(iter(judged))
    if judged[first] != NF4 or "nf4_loss" not in document:
        return []
    rows = [row for row in document["nf4_loss"] if row["difference"]]
    if not rows:
        return ["What NF4 alone costs was not measured" + ("." if document.get("prose") else "; --text measures it.")]
    texts = [
        f"{signed(row['difference']['estimate'], 3)} nats a token {bounds(row['difference'], 1, 3)} on {row['text']}"
        for row in rows
    ]
    return [f"NF4 alone changes the loss of {rows[0]['model']} by {', '.join(texts)}."]
