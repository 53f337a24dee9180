"""The README.md of a patched model."""

from __future__ import annotations

import json
from typing import Any

_CARD = """---
library_name: transformers
{named}tags: [regrowth, pruning, healing]
---

# A patched model

`{base}` ({cut}) with a closed-form patch by Regrowth: an ordinary checkpoint for
`AutoModelForCausalLM.from_pretrained`. Nothing was trained: least squares on {tokens:,} tokens of `{text}`.

| | loss on held-out text, nats per token |
|---|---|
| full model | {full:.4f} |
| cut | {before:.4f} |
| patched | {after:.4f} |

Changed, with what was solved for each:

{folds}

All other tensors are those of `{base}`, bit for bit. `heal.json` tells the rest.
"""


def patch_card(document: dict[str, Any]) -> str:
    """README.md of a patched model, from its heal.json."""
    base, loss, read = document["base"], document["held_out_loss"], document["provenance"]["text"]
    return _CARD.format(
        named=f"base_model: {json.dumps(base['model'])}\n" if "commit" in base else "",
        base=base["model"],
        cut=document["cut"],
        tokens=document["tokens"],
        text="`, `".join(text["source"] for text in (read if isinstance(read, list) else [read])),
        full=loss["full"],
        before=loss["before"],
        after=loss["after"],
        folds="\n".join(_line(fold) for fold in document["folds"] if fold["chosen"]),
    )


def candidate_words(candidate: dict[str, Any]) -> str:
    """`matrix, capped, ridge 0.3, massive tokens 0.3`: a candidate of heal.json in words."""
    found = f"{candidate['kind']}, {candidate['objective']}"
    if candidate["ridge"] is not None:
        found += f", ridge {candidate['ridge']:g}"
    if candidate["share"] is not None:
        found += f", massive tokens {candidate['share']:g}"
    return found


def _line(fold: dict[str, Any]) -> str:
    return f"- {', '.join(f'`{name}`' for name in fold['tensors'])}: {candidate_words(fold['chosen'])}"
