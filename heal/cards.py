"""Model cards of what healing leaves: plain words, and the numbers of the run."""

from __future__ import annotations

import json
from typing import Any

from heal.result import Candidate, HealRecord

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


def adapter_card(record: HealRecord) -> str:
    settings = record.settings
    return ADAPTER.format(
        **_common(record),
        rank=settings["rank"],
        alpha=settings["alpha"],
        targets=settings["targets"],
        taught=_taught(record),
        fit="" if settings["bits"] == 16 else _FIT.format(bits=_precision(record)),
    )


def merged_card(record: HealRecord) -> str:
    merged = record.merge
    assert merged is not None
    how = (DEQUANTISED if merged.base == "dequantised" else ORIGINAL).format(
        quantised=merged.dequantised, adapted=merged.adapted, bits=record.settings["bits"]
    )
    measured = ""
    if merged.chosen is not None and merged.chosen.losses:
        measured += CHOSEN.format(dtype=record.computed_in, **merged.chosen.losses)
    if merged.not_compared is not None:
        measured += NOT_COMPARED.format(why=merged.not_compared)
    if merged.agreement is not None:
        measured += AGREEMENT.format(**merged.agreement.model_dump())
    return MERGED.format(**_common(record), how=how, measured=measured)


def adapter_only_card(record: HealRecord) -> str:
    shipped = record.adapter_only
    assert shipped is not None
    full = shipped.full
    return ADAPTER_ONLY.format(
        **{**_common(record), "named": _named(full["model"], hub=bool(full["commit"]))},
        full=full["model"],
        layers=shipped.words,
        fit="" if record.settings["bits"] == 16 else _FIT_ONLY.format(bits=_precision(record)),
    )


def patch_card(record: HealRecord) -> str:
    return PATCHED.format(
        **_common(record),
        cut=record.cut,
        full=record.held_out_loss.full,
        folds="\n".join(
            f"- {', '.join(f'`{name}`' for name in fold.tensors)}: {candidate_words(fold.chosen)}"
            for fold in record.folds or ()
            if fold.chosen is not None
        ),
    )


def _common(record: HealRecord) -> dict[str, Any]:
    name = record.base["model"]
    return {
        "base": name,
        "named": _named(name, hub="commit" in record.base),
        "tokens": record.tokens,
        "text": "`, `".join(record.texts),
        "bits": _precision(record),
        "before": record.held_out_loss.before,
        "after": record.held_out_loss.after,
    }


def _named(model: str, *, hub: bool) -> str:
    """The line that names the base; none for a folder, as the hub takes only its own ids."""
    return f"base_model: {json.dumps(model)}\n" if hub else ""


def _precision(record: HealRecord) -> str:
    """In what the base was held while training."""
    return _PRECISION.get(record.settings.get("bits", 16), record.settings.get("dtype", ""))


def _taught(record: HealRecord) -> str:
    """How a distilled adapter came by what it knows; nothing for one trained on plain text."""
    if record.teacher is None:
        return ""
    wrote = ", on responses that it wrote to prompts" if record.responses is not None else ""
    return f", taught by the predictions of `{record.teacher['model']}`{wrote} (`heal distill`)"


def candidate_words(candidate: Candidate) -> str:
    """`matrix, capped, ridge 0.3, massive tokens 0.3`: a candidate in words."""
    words = f"{candidate.kind}, {candidate.objective}, ridge {candidate.ridge:g}"
    return words if candidate.share is None else f"{words}, massive tokens {candidate.share:g}"
