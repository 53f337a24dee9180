"""Model cards of what healing leaves: plain words, and the numbers of the run."""

from __future__ import annotations

from typing import Any

ADAPTER = """---
library_name: peft
{named}tags: [regrowth, healing]
---

# A healing adapter

A LoRA adapter (rank {rank}, alpha {alpha:g}, on {targets}) that heals `{base}`, trained by
Regrowth on {tokens:,} tokens of `{text}` with the base in {bits}.

| | loss on held-out text, nats per token |
|---|---|
| before | {before:.4f} |
| after | {after:.4f} |

`heal merge THIS_FOLDER --out DIR` makes it one ordinary checkpoint. `heal.json` holds the settings and the whole curve.
{fit}"""

_FIT_4 = """
The adapter was fitted to the base **as quantised** (NF4, double quantised): on other weights than those it does not do
quite what it was trained to do. The default merge keeps them; see `heal merge --help`.
"""

MERGED = """---
library_name: transformers
{named}tags: [regrowth, healing]
---

# A healed model

`{base}` with its healing adapter merged in by Regrowth: an ordinary checkpoint
for `AutoModelForCausalLM.from_pretrained`. Trained on {tokens:,} tokens of `{text}`; loss on held-out text (nats per
token, adapter on the base in {bits}): {before:.4f} before, {after:.4f} after.

{how}
All other tensors are those of `{base}`, bit for bit. `heal.json` tells the rest.
"""

DEQUANTISED = (
    "The adapter was added to the weights it was trained on: every projection that was held in 4 bits while training\n"
    "({quantised} of them) is saved as NF4 made it, not as it was before, and {adapted} of them carry the adapter.\n"
)
ORIGINAL = "The adapter was added to {adapted} original weights of the base.\n"


def adapter_card(document: dict[str, Any]) -> str:
    """README.md of an adapter, from its heal.json."""
    settings = document["settings"]
    return ADAPTER.format(
        **_common(document),
        rank=settings["rank"],
        alpha=settings["alpha"],
        targets=settings["targets"],
        fit=_FIT_4 if settings["bits"] == 4 else "",
    )


def merged_card(document: dict[str, Any]) -> str:
    """README.md of a merged model, from its heal.json."""
    merged = document["merge"]
    how = DEQUANTISED if merged["base"] == "dequantised" else ORIGINAL
    return MERGED.format(
        **_common(document), how=how.format(quantised=merged["dequantised"], adapted=merged["adapted"])
    )


def _common(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "base": document["base"]["model"],
        # the hub takes only its own ids there
        "named": f"base_model: {document['base']['model']}\n" if "commit" in document["base"] else "",
        "tokens": document["tokens"],
        "text": document["provenance"]["text"]["source"],
        "bits": "4 bits (NF4, double quantised)" if document["settings"]["bits"] == 4 else "bf16",
        "before": document["held_out_loss"]["before"],
        "after": document["held_out_loss"]["after"],
    }
