"""The README.md of a pruned checkpoint: what was dropped, from what, by which numbers, and the exact command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from prune.cutting.plan import CutPlan


def model_card(plan: CutPlan, name: str, *, left: Sequence[str] = ()) -> str:
    """A model card for the hub; `left` are adapter files beside the source's weights, which were left there."""
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- regrowth", "- pruned"]
    if plan.commit:  # only a hub model has a name that others can follow
        head.insert(1, f"base_model: {json.dumps(plan.model)}")
    facts = [f"| {_cell(title)} | {_cell(value)} |" for title, value in plan.rows()]
    versions = ", ".join(f"{package} {number}" for package, number in plan.provenance.get("versions", {}).items())
    command = plan.provenance.get("command", "")
    return "\n".join(
        [
            *head,
            "---",
            "",
            f"# {_line(name)}",
            "",
            f"{_line(Path(plan.model).name if not plan.commit else plan.model)} with layers removed: {plan.words}.",
            "",
            "The kept tensors are bit for bit those of the source. Nothing was trained after the cut: expect a loss "
            "of quality until the model is healed (`heal qlora`), and measure it on your own domain "
            "(`evaluate compare`).",
            "",
            "| | |",
            "|---|---|",
            *facts,
            "",
            "Layer i of this model is layer `kept[i]` of the source; `prune_plan.json` holds the list, the hashes of "
            "the source, and the changed config fields. The source model's licence applies.",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"model = AutoModelForCausalLM.from_pretrained({json.dumps(name)})",
            f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})",
            "```",
            "",
            "Made with:",
            "",
            "```sh",
            _line(command),
            "```",
            "",
            f"({_line(versions)})",
            "",
            *(
                [f"Left behind: {', '.join(left)}, an adapter that was trained for the uncut model.", ""]
                if left
                else []
            ),
        ]
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
