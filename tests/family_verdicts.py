"""The verdict on each family of transformers' causal-LM mapping: can it be cut exactly? `make families` writes them.

For each family: a small random model is saved, cut by `prune`, loaded again by stock transformers and compared with
the full model whose dropped layers are replaced by pass-throughs, their indices untouched.
"""

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from prune.configs import family_of
from prune.errors import CheckpointError
from prune.planning import plan_cut
from prune.surgery import cut
from tests.small_models import LENGTH, NOT_BUILT, own_name, save_small_model, vocabulary

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
# Odd sizes, so that whatever alternates comes out of step; a block, a scattered set, and one with the first layer.
DROPS = [(2, 3, 4), (1, 4), (0, 5, 6)]
NEW_TOKENS = 8
EXACT, REFUSED, UNBUILT = "exact", "refused", "not built"

# What a layer hands on beside its hidden states: (place in its answer, name or position of the argument it came by).
HANDED_ON = {
    "glm_moe_dsa": (1, "prev_topk_indices"),
    "hy_v4": (1, "prev_topk_indices"),
    "rwkv": (1, "state"),
    "zaya": (1, 1),
}

# Where the modules of a loaded model are not named as its tensors in the file.
MODULES = {"inkling2_text": ("model.layers.",)}

# Families that stock transformers itself, uncut, generates from otherwise with its cache than without it. There the
# pruned model is compared with the reference both ways.
CACHE_DIFFERS = {"cpmant"}


@dataclass(frozen=True)
class Verdict:
    """`kind` is exact, refused or not built; `words` say why, or under which condition a cut is exact."""

    family: str
    kind: str
    words: str = ""


class PassThrough(torch.nn.Module):
    """Gives back the hidden states it is given, in the form in which its layer would answer."""

    def __init__(self, layer, answer, handed_on):
        super().__init__()
        self.__dict__["layer"] = layer  # not a submodule: only its plain attributes are asked for
        self.answer, self.handed_on = answer, handed_on
        self.is_block_boundary = False  # a layer that is not there opens no block of residuals

    def forward(self, *args, **kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if not isinstance(self.answer, tuple | list):
            return hidden
        rest = [None] * (len(self.answer) - 1)
        if self.handed_on:
            place, name = self.handed_on
            rest[place - 1] = args[name] if isinstance(name, int) else kwargs.get(name)
        return (hidden, *rest)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)


def loaded(folder):
    from transformers import AutoModelForCausalLM

    model, notes = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if notes["missing_keys"]:
        raise AssertionError(f"missing after loading: {sorted(notes['missing_keys'])[:4]}")
    return model.eval()


def layers_of(model, prefixes):
    """The list of decoder layers, found by the names of the family's tensors."""
    for prefix in prefixes:
        try:
            found = model.get_submodule(prefix.removesuffix("."))
        except AttributeError:
            continue
        if isinstance(found, torch.nn.ModuleList):
            return found
    raise AssertionError(f"no list of layers under {prefixes}")


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def skipping(model, prefixes, dropped, family):
    """Replace layers by pass-throughs; gives back a function that undoes it."""
    layers = layers_of(model, prefixes)
    kept, answers, hooks = {layer: layers[layer] for layer in dropped}, {}, []
    for layer in dropped:
        hooks.append(layers[layer].register_forward_hook(lambda m, a, out, at=layer: answers.setdefault(at, out)))
    logits(model, torch.tensor([[1, 2, 3]]))
    for hook in hooks:
        hook.remove()
    for layer in answers:  # a layer that text alone never calls needs no replacement
        layers[layer] = PassThrough(kept[layer], answers[layer], HANDED_ON.get(family))

    def undo():
        for layer, module in kept.items():
            layers[layer] = module

    return undo


def prompt(model_type):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, vocabulary(model_type), (1, LENGTH), generator=generator)


def check_exact(model_type, full, prefixes, folder, dropped, *, generate):
    """Raise AssertionError where the pruned model does not compute what the full one does without those layers."""
    ids = prompt(model_type)
    unchanged = logits(full, ids)
    pruned = loaded(folder)
    before, after = len(layers_of(full, prefixes)), len(layers_of(pruned, prefixes))
    assert after == before - len(dropped), f"{after} layers of {before} after dropping {len(dropped)}"
    undo = skipping(full, prefixes, dropped, model_type)
    try:
        wanted = logits(full, ids)
        assert (wanted - unchanged).abs().max() > 1e-3, "the dropped layers did not matter"
        off = (wanted - logits(pruned, ids)).abs().max().item()
        assert off <= 1e-5, f"logits differ by {off:.2g}"
        if generate:
            options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW_TOKENS, "do_sample": False}
            with torch.no_grad():
                by_pruned = pruned.generate(ids, use_cache=True, **options)
                if model_type in CACHE_DIFFERS:
                    by_reference = full.generate(ids, use_cache=True, **options)
                    uncached = [model.generate(ids, use_cache=False, **options) for model in (full, pruned)]
                    assert torch.equal(*uncached), "generation without a cache differs"
                    assert not torch.equal(uncached[0], by_reference), "the cache has come to agree: strike it here"
                else:
                    by_reference = full.generate(ids, use_cache=False, **options)
            assert by_reference.shape[1] == LENGTH + NEW_TOKENS
            assert torch.equal(by_reference, by_pruned), f"generation differs: {by_reference} {by_pruned}"
    finally:
        undo()


def judge(model_type, folder):
    """Cut a small model of a family in several places and compare.

    Raises:
        AssertionError: a cut was made that is not exact, or the nearest block that a refusal names is not.
    """
    if model_type in NOT_BUILT:
        return Verdict(model_type, UNBUILT, NOT_BUILT[model_type])
    folder = Path(folder)
    source = folder / "full"
    save_small_model(model_type, source)
    conditions = []
    full = prefixes = None
    for number, dropped in enumerate(DROPS):
        out = folder / f"cut{number}"
        try:
            plan = plan_cut(source, layers=dropped)
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{source}: ")
            nearest = re.search(r"--layers ([\d-]+)", reason)
            if nearest is None:
                return Verdict(model_type, REFUSED, reason)
            condition = re.sub(r" \(layer .*\)", "", reason.partition("; the nearest")[0])
            if condition not in conditions:
                conditions.append(condition)
            plan = plan_cut(source, layers=nearest[1], allow_last="--allow-last" in reason)
        assert plan.model_type == own_name(model_type), f"saved as {plan.model_type}"
        cut(plan, out, show_progress=False)
        if full is None:
            prefixes = MODULES.get(model_type) or family_of({"model_type": own_name(model_type)}, "").prefixes
            full = loaded(source)
        check_exact(model_type, full, prefixes, out, plan.dropped, generate=number != 2)
    return Verdict(model_type, EXACT, "; ".join(conditions))


def families():
    """All names of transformers' causal-LM mapping: a new release adds its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def quiet():
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def judged(name):
    """The verdict, with a failure as a string: for the command below, which shows all of them."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            return judge(name, folder)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def main():
    import time

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    quiet()
    for name in options.names or families():
        start = time.time()
        v = judged(name)
        print(name, v if isinstance(v, str) else (v.kind, v.words), f"{time.time() - start:.1f}s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
