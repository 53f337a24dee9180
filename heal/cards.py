"""Model cards of what healing leaves: plain words, and the numbers of the run."""

from __future__ import annotations

import json
from typing import Any

from heal.result import computed_in

ADAPTER = """---
library_name: peft
{named}tags: [regrowth, healing]
---

# A healing adapter

A LoRA adapter (rank {rank}, alpha {alpha:g}, on {targets}) that heals `{base}`, trained by
Regrowth on {tokens:,} tokens of `{text}` with the base in {bits}{taught}.

| | loss on held-out text, nats per token |
|---|---|
| before | {before:.4f} |
| after | {after:.4f} |

`heal merge THIS_FOLDER --out DIR` makes it one ordinary checkpoint. `heal.json` holds the settings and the whole curve.
{fit}"""

_FIT = """
The adapter was fitted to the base **as quantised** ({bits}): on other weights than those it does not do
quite what it was trained to do. By default the merge measures both and keeps the better; see `heal merge --help`.
"""

MERGED = """---
library_name: transformers
{named}tags: [regrowth, healing]
---

# A healed model

`{base}` with its healing adapter merged in by Regrowth: an ordinary checkpoint
for `AutoModelForCausalLM.from_pretrained`. Trained on {tokens:,} tokens of `{text}`; loss on held-out text (nats per
token, adapter on the base in {bits}): {before:.4f} before, {after:.4f} after.

{how}{measured}
All other tensors are those of `{base}`, bit for bit. `heal.json` tells the rest.
"""

DEQUANTISED = (
    "The adapter was added to the weights it was trained on: every projection that was held in {bits} bits while\n"
    "training ({quantised} of them) is saved as quantisation made it, not as it was before, and {adapted} of them\n"
    "carry the adapter.\n"
)
ORIGINAL = "The adapter was added to {adapted} original weights of the base.\n"
ADAPTER_ONLY = """---
library_name: peft
{named}tags: [regrowth, pruning, healing]
---

# A cut and its healing, as one adapter

On `{full}` this adapter makes the cut ({layers}) and heals it: peft builds the model of the layers that stay
(`layer_replication`) and puts a LoRA adapter on them. Trained on {tokens:,} tokens of `{text}`; loss on held-out text
(nats per token, in {bits}): {before:.4f} before, {after:.4f} after.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{full}")
model = PeftModel.from_pretrained(model, "THIS_FOLDER")
```
{fit}
The full model has to be loaded; what stays in memory is the pruned one. peft cannot merge such an adapter: merge the
one that it was made from, with `heal merge`. vLLM cannot serve it and refuses it: serve the merged model. Its config
says `bias: lora_only` so that older versions of vLLM refuse it too; it holds no biases. `heal.json` tells the rest.
"""
_FIT_ONLY = """
It was fitted to weights in {bits}: load the full model so, and it does what it was trained to do. On the model's
original weights it is another function, whose loss may be better or worse.
"""
CHOSEN = (
    "Both bases were measured on held-out text (nats per token, in {dtype}), and the better was kept:\n"
    "{dequantised:.4f} on the dequantised weights, {original:.4f} on the original ones.\n"
)
AGREEMENT = (
    "Against the adapter on the base as trained, on {tokens} held-out tokens: KL {kl:.2g} nats, logits apart by\n"
    "{mean_abs:.2g} in the mean and {max_abs:.2g} at most, the same first choice for {same_first:.1%} of the tokens.\n"
)
NOT_COMPARED = "Its logits were not compared with those of the adapter as trained: {why}.\n"
_PRECISION = {4: "4 bits (NF4, double quantised)", 8: "8 bits (int8)"}


PATCHED = """---
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


def adapter_card(document: dict[str, Any]) -> str:
    """README.md of an adapter, from its heal.json."""
    settings = document["settings"]
    return ADAPTER.format(
        **_common(document),
        rank=settings["rank"],
        alpha=settings["alpha"],
        targets=settings["targets"],
        taught=_taught(document),
        fit="" if settings["bits"] == 16 else _FIT.format(bits=_precision(document)),
    )


def _precision(document: dict[str, Any]) -> str:
    """In what the base was held while training."""
    return _PRECISION.get(document["settings"]["bits"], computed_in(document))


def _taught(document: dict[str, Any]) -> str:
    """How a distilled adapter came by what it knows; nothing for one trained on plain text."""
    if "teacher" not in document:
        return ""
    wrote = ", on responses that it wrote to prompts" if "responses" in document else ""
    return f", taught by the predictions of `{document['teacher']['model']}`{wrote} (`heal distill`)"


def merged_card(document: dict[str, Any]) -> str:
    """README.md of a merged model, from its heal.json."""
    merged = document["merge"]
    how = (DEQUANTISED if merged["base"] == "dequantised" else ORIGINAL).format(
        quantised=merged["dequantised"], adapted=merged["adapted"], bits=document["settings"]["bits"]
    )
    measured = ""
    losses = merged.get("chosen", {}).get("losses")
    if losses:
        measured += CHOSEN.format(dtype=computed_in(document), **losses)
    if "not_compared" in merged:
        measured += NOT_COMPARED.format(why=merged["not_compared"])
    if "agreement" in merged:
        measured += AGREEMENT.format(**merged["agreement"])
    return MERGED.format(**_common(document), how=how, measured=measured)


def adapter_only_card(document: dict[str, Any]) -> str:
    """README.md of an adapter on the full model, from its heal.json."""
    full, bits = document["adapter_only"]["full"], document["settings"]["bits"]
    return ADAPTER_ONLY.format(
        **{**_common(document), "named": f"base_model: {full['model']}\n" if full["commit"] else ""},
        full=full["model"],
        layers=document["adapter_only"]["words"],
        fit="" if bits == 16 else _FIT_ONLY.format(bits=_precision(document)),
    )


def _common(document: dict[str, Any]) -> dict[str, Any]:
    read = document["provenance"]["text"]
    return {
        "base": document["base"]["model"],
        # the hub takes only its own ids there
        "named": f"base_model: {document['base']['model']}\n" if "commit" in document["base"] else "",
        "tokens": document["tokens"],
        "text": "`, `".join(text["source"] for text in (read if isinstance(read, list) else [read])),
        "bits": _precision(document),
        "before": document["held_out_loss"]["before"],
        "after": document["held_out_loss"]["after"],
    }


def patch_card(document: dict[str, Any]) -> str:
    """README.md of a patched model, from its heal.json."""
    base, loss, read = document["base"], document["held_out_loss"], document["provenance"]["text"]
    return PATCHED.format(
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
