"""The verdict on each family of transformers' causal-LM mapping: can it be cut exactly? `make families` writes them.

For each family: a small random model is saved, cut by `prune`, loaded again by stock transformers and compared with
the full model whose dropped layers are replaced by pass-throughs, their indices untouched.
"""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from prune.families.config import family_of
from prune.families.table import FAMILIES, PLAIN
from prune.models.walks.walking import PassThrough
from tests.support.every_family import (
    LAYERS,
    LENGTH,
    NOT_BUILT,
    PROMPTED,
    own_name,
    save_small_model,
    small_config_without,
)

ROOT = Path(__file__).resolve().parents[2]
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
    "xlnet": (1, 1),
    "zaya": (1, 1),
}

# Where the modules of a loaded model are not named as its tensors in the file.
MODULES = {"inkling2_text": ("model.layers.",)}

# Wrappers out of whose folder stock transformers does not load the text decoder alone.
LOADED_WHOLE = {"emu3"}

# Families from which stock transformers, uncut, generates otherwise with its cache than without it, or not at all.
# There the pruned model is compared with the reference both ways.
CACHE_DIFFERS = {"cpmant", "moshi", "prophetnet", "reformer"}
# Where a config is silent on that field, no layer has attention, which the cache of stock transformers asks for.
NO_CACHE = {("bamba", "attn_layer_indices"), ("granitemoehybrid", "layer_types")}


@dataclass(frozen=True)
class Verdict:
    """`kind` is exact, refused or not built; `words` say why, or under which condition a cut is exact."""

    family: str
    kind: str
    words: str = ""


def pass_through(layer, answer, handed_on):
    """A module that gives back the hidden states it is given, in the form in which its layer has answered."""

    def reply(*args, **kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if hasattr(answer, "attn_output"):  # Reformer: two streams, each of which goes on as it came
            stream = {"hidden_states": hidden, "attn_output": kwargs["prev_attn_output"]}
            return answer._replace(**stream, attention_probs=None, buckets=None)
        if not isinstance(answer, tuple | list):
            return hidden
        rest = [None] * (len(answer) - 1)
        if handed_on:
            place, name = handed_on
            rest[place - 1] = args[name] if isinstance(name, int) else kwargs.get(name)
        return (hidden, *rest)

    module = PassThrough(layer, reply)
    module.is_block_boundary = False  # a layer that is not there opens no block of residuals
    return module


def loaded(folder, model_type=""):
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    loader = AutoModelForMultimodalLM if model_type in LOADED_WHOLE else AutoModelForCausalLM
    model, notes = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if notes["missing_keys"]:
        raise AssertionError(f"missing after loading: {sorted(notes['missing_keys'])[:4]}")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # in the file it may lie at an odd address, by which kernels round
    return model.eval()


def layers_of(model, prefixes):
    """The list of decoder layers, found by the names of the family's tensors."""
    for prefix in prefixes:
        try:
            layers = model.get_submodule(prefix.removesuffix("."))
        except AttributeError:
            continue
        if isinstance(layers, torch.nn.ModuleList):
            return layers
    raise AssertionError(f"no list of layers under {prefixes}")


class Nothing(torch.nn.Module):
    """Adds nothing to the stream."""

    def forward(self, hidden, *_, **__):
        return torch.zeros_like(hidden)


PARTS = {
    "transformer.attentions": Nothing,
    "transformer.layer_norm1": torch.nn.Identity,
    "transformer.ffns": Nothing,
    "transformer.layer_norm2": torch.nn.Identity,
}


def parts_skipped(model, dropped):
    """XLM keeps each layer in four lists: what adds to the stream adds nothing, and norms leave it as it is."""
    undone = []
    for name, instead in PARTS.items():
        modules = model.get_submodule(name)
        for layer in dropped:
            undone.append((modules, layer, modules[layer]))
            modules[layer] = instead()
            if name.endswith("attentions"):
                modules[layer].forward = lambda hidden, *_, **__: (torch.zeros_like(hidden),)

    def undo():
        for modules, layer, module in undone:
            modules[layer] = module

    return undo


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def skipping(model, prefixes, dropped, family):
    """Replace layers by pass-throughs; gives back a function that undoes it."""
    if family == "xlm":
        return parts_skipped(model, dropped)
    layers = layers_of(model, prefixes)
    kept, answers, hooks = {layer: layers[layer] for layer in dropped}, {}, []
    for layer in dropped:
        hooks.append(layers[layer].register_forward_hook(lambda m, a, out, at=layer: answers.setdefault(at, out)))
    logits(model, torch.tensor([[1, 2, 3]]))
    for hook in hooks:
        hook.remove()
    for layer in answers:  # a layer that text alone never calls needs no replacement
        layers[layer] = pass_through(kept[layer], answers[layer], HANDED_ON.get(family))

    def undo():
        for layer, module in kept.items():
            layers[layer] = module

    return undo


def generated(model, ids, *, cached):
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    with torch.no_grad():
        return model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=cached, **options)


def check_generation(reference, pruned, ids, cache_differs):
    uncached = generated(reference, ids, cached=False)
    assert uncached.shape == (1, LENGTH + NEW_TOKENS)
    if not cache_differs:
        cached = generated(pruned, ids, cached=True)
        assert torch.equal(uncached, cached), f"generation differs: {uncached} {cached}"
        return
    assert torch.equal(uncached, generated(pruned, ids, cached=False)), "generation without a cache differs"
    try:
        cached = generated(reference, ids, cached=True)
    except (RuntimeError, IndexError, ValueError):
        return  # stock transformers cannot even do it
    assert torch.equal(cached, generated(pruned, ids, cached=True)), "generation with a cache differs"


def check_exact(model_type, full, prefixes, folder, dropped, *, generate, cache_differs=False):
    """Raise AssertionError where the pruned model does not compute what the full one does without those layers."""
    ids = torch.randint(2, PROMPTED, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    unchanged = logits(full, ids)
    pruned = loaded(folder, model_type)
    before, after = len(layers_of(full, prefixes)), len(layers_of(pruned, prefixes))
    assert after == before - len(dropped), f"{after} layers of {before} after dropping {len(dropped)}"
    undo = skipping(full, prefixes, dropped, model_type)
    try:
        wanted = logits(full, ids)
        assert (wanted - unchanged).abs().max() > 1e-3, "the dropped layers did not matter"
        off = (wanted - logits(pruned, ids)).abs().max().item()
        assert off <= 1e-5, f"logits differ by {off:.2g}"
        if generate:
            check_generation(full, pruned, ids, cache_differs)
    finally:
        undo()


def judge(model_type, folder, *, silent=None):
    """Cut a small model of a family in several places and compare.

    Args:
        silent: a field about layers that config.json leaves to its class; None: it states them all.

    Raises:
        AssertionError: a cut was made that is not exact, or the nearest block that a refusal names is not.
    """
    if model_type in NOT_BUILT:
        return Verdict(model_type, UNBUILT, NOT_BUILT[model_type])
    folder = Path(folder)
    source = folder / "full"
    row = FAMILIES.get(own_name(model_type), PLAIN)
    if row.refused:
        return Verdict(model_type, REFUSED, refusal_of(model_type, source))
    depth = save(model_type, source, row, silent)
    conditions = []
    full = prefixes = None
    differs = model_type in CACHE_DIFFERS or (model_type, silent) in NO_CACHE
    for number, drops in enumerate(DROPS):
        dropped = [layer for layer in drops if layer < depth - 1]  # a class may fill in fewer layers
        out = folder / f"cut{number}"
        try:
            plan = plan_cut(source, layers=dropped)
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{source}: ")
            nearest = re.search(r"--layers ([\d-]+)", reason)
            if nearest is None:
                return Verdict(model_type, REFUSED, reason.partition("; no block")[0])
            condition = re.sub(r" \(layer .*\)", "", reason.partition("; the nearest")[0])
            if condition not in conditions:
                conditions.append(condition)
            plan = plan_cut(source, layers=nearest[1], settings=CutSettings(allow_last="--allow-last" in reason))
        assert plan.model_type == own_name(model_type), f"saved as {plan.model_type}"
        cut(plan, out, show_progress=False)
        if full is None:
            prefixes = MODULES.get(model_type) or family_of({"model_type": own_name(model_type)}, "").prefixes
            full = loaded(source, model_type)
        check_exact(model_type, full, prefixes, out, plan.dropped, generate=number != 2, cache_differs=differs)
    conditions += [words for words in (*row.fixed, *row.links) if words not in conditions]
    return Verdict(model_type, EXACT, "; ".join(conditions))


def save(model_type, source, row, silent):
    """Save the small model that `judge` cuts, and give back how many layers it has."""
    if silent is None:
        save_small_model(model_type, source)
        return LAYERS
    config = small_config_without(model_type, row.section, silent)
    save_small_model(model_type, source, config)
    path = source / "config.json"
    saved = json.loads(path.read_text())
    del saved.get(row.section, saved)[silent]
    path.write_text(json.dumps(saved))
    return getattr(getattr(config, row.section or "", config), row.count[0])


def refusal_of(model_type, folder):
    """What is said to somebody who wants to cut such a model, whatever its weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": own_name(model_type)}))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    try:
        plan_cut(folder, layers=(1,))
    except CheckpointError as error:
        return str(error).partition("cannot be cut: ")[2]
    raise AssertionError("not refused")


def page_version():
    """The version of transformers that the page was written for."""
    return re.search(r"\(([\d.]+)\)\. For each", PAGE.read_text(encoding="utf-8"))[1]


def families():
    """All names of transformers' causal-LM mapping: a new release adds its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def quiet():
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def judge_all():
    """Every family's verdict, in the mapping's order by name; an error names its family."""
    verdicts = []
    for name in families():
        with tempfile.TemporaryDirectory() as folder:
            try:
                verdicts.append(judge(name, folder))
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    return verdicts


def page(verdicts):
    """docs/families.md."""
    import transformers

    exact = [verdict for verdict in verdicts if verdict.kind == EXACT]
    others = [verdict for verdict in verdicts if verdict.kind != EXACT]
    bound = [verdict for verdict in exact if verdict.words]
    lines = [
        "# Families that prune can cut",
        "",
        f"Written by `make families` from a run over the {len(verdicts)} names of transformers' causal-LM mapping",
        f"({transformers.__version__}). For each, a small random model of {LAYERS} layers is saved, cut in a block, in",
        "scattered places and at its beginning, loaded by stock `from_pretrained` and compared with the full model",
        "whose dropped layers are replaced by pass-throughs: the logits agree within 1e-5 in float32, and so does",
        "every token of greedy generation, the pruned model's with its cache.",
        "",
        f"- exact: {len(exact)}, of which {len(bound)} under a condition: a cut that does not meet it is refused",
        "  before anything is written, and the message names the nearest block that does (tested to be exact as well)",
        f"- refused: {sum(verdict.kind == REFUSED for verdict in verdicts)}",
        f"- not built, so not known: {sum(verdict.kind == UNBUILT for verdict in verdicts)}",
        "",
        "Encoder-decoder checkpoints (`is_encoder_decoder`) are refused; decoders alone of such families are exact.",
        "Layers for multi-token prediction, stored behind the decoder's own, follow the kept ones.",
        f"With its cache, stock transformers generates otherwise from {' and '.join(sorted(CACHE_DIFFERS))} than",
        "without it, or not at all, cut or uncut; the cut is exact both ways.",
        "",
        "## Exact",
        "",
        ", ".join(f"`{verdict.family}`" for verdict in exact if not verdict.words),
        "",
        "## Exact under a condition",
        "",
        *table(bound, "Refused where"),
        "",
        "## Refused, or not built",
        "",
        *table(others, "Why"),
    ]
    return "\n".join(lines) + "\n"


def table(verdicts, words):
    rows = [f"| `{verdict.family}` | {verdict.kind} | {verdict.words} |" for verdict in verdicts]
    return [f"| Family | Verdict | {words} |", "| --- | --- | --- |", *rows]


if __name__ == "__main__":
    quiet()
    PAGE.write_text(page(judge_all()), encoding="utf-8")
