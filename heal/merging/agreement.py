"""Merged models against what was trained: held-out loss of each base, and logits on a few held-out rows.

One model is in memory at a time, or where it does not fit one layer. What an adapter was trained to do is told by the
adapter on the base in the precision of its training (4, 8 or 16 bits); candidates are the base's own model with the
merged tensors written over its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heal.defaults import HELD_OUT_TOKENS
from heal.merging.tensors import MergePlan, as_trained, merged_tensor
from heal.models.dressing import Dressing, Pairs
from heal.models.from_files import layer_files, logits_from_files, losses_from_files
from heal.models.held_out import mean_loss
from heal.models.quantise import compute_dtype, load_frozen
from heal.result import Agreement, Base, HealRecord
from heal.settings import Measuring
from heal.text.packing import collate
from heal.text.sources import HeldOut, TextSource, hold_out
from prune.checkpoint.headers import Checkpoint
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, TextError, UsageError, first_line
from prune.common.machine.memory import give_back
from prune.common.machine.out_of_memory import is_out_of_memory
from prune.models.loading import load_model, load_tokenizer
from prune.models.walks.layerwise import Layerwise
from prune.text.windows import text_identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS, _TOKENS = 4, 64  # on which logits are compared: with a vocabulary of 128k, 131 MB in fp32
# Mean KL in nats that rounding explains: in float32, in 16 bits, and in int8, which rounds the inputs of products too.
# About ten times what was measured on SmolLM2-135M: less than 1e-6, 0.011 and 0.023.
FLOAT32_BOUND, _SHORT_BOUND, _INT8_BOUND = 1e-3, 0.1, 0.2


@dataclass(frozen=True)
class Comparison:
    """What was written beside what was trained, or why they could not be compared; and what is wrong, in words."""

    agreement: Agreement | None = None
    not_compared: str | None = None
    wrong: str = ""

    def facts(self) -> dict[str, Any]:
        """The two parts of heal.json."""
        return {"agreement": self.agreement, "not_compared": self.not_compared}

    def refuse(self, out: Path) -> None:
        """Raise CheckpointError where something is wrong with what was written to `out`."""
        if self.wrong:
            raise CheckpointError(f"{out} is written, but {self.wrong}: do not use it before you know why")


@dataclass(frozen=True)
class Measure:
    """Text to measure on, as tokens, and what says which text that was."""

    held_out: HeldOut
    batch_size: int
    identity: dict[str, Any]

    @property
    def targets(self) -> int:
        return sum(row.targets for row in self.held_out.rows)


class TextGoneError(UsageError):
    """The text that an adapter was measured on is gone or changed. `why`: what became of it."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"{why}; give other text with --held-out FILE, or leave measuring out with --no-compare-logits"
        )
        self.why = why


def measuring_text(record: HealRecord, source: Source, measuring: Measuring) -> Measure:
    """The rows that an adapter was measured on while it was trained, or rows of other text.

    Of text that the run held out of its own, only the part that was measured is read.

    Args:
        record: the adapter's heal.json, which tells the text, its field, and the length of a row.
        source: the base, whose tokenizer reads the text.

    Raises:
        TextGoneError: the text that heal.json names cannot be read, or has changed; the message names the options.
        TextError: the text of `measuring` cannot be read.
    """
    held_out, tokens = measuring.held_out, measuring.held_out_tokens
    tokenizer, length, batch = load_tokenizer(source), record.settings["length"], record.settings["batch_size"]
    limit = record.held_out.limit or HELD_OUT_TOKENS
    if held_out:
        other = TextSource(held_out, measuring.field, held_out, tokens or limit, loss_on=record.loss_on or "answers")
        rows = hold_out(other, tokenizer, length=length)
        return Measure(rows, batch, {"held_out": text_identity(held_out, measuring.field)})
    text, identity = _recorded(record, limit)
    why = "has changed since"
    try:
        rows = hold_out(text, tokenizer, length=length)
        if record.held_out.sha256 == rows.sha256:
            if tokens:
                rows = hold_out(replace(text, held_out_tokens=tokens), tokenizer, length=length)
            return Measure(rows, batch, identity)
    except TextError as error:
        why = f"cannot be read ({error})"
    raise TextGoneError(f"the text that the adapter was measured on, {' and '.join(text.measured)}, {why}")


def files_measured_on(record: HealRecord, measuring: Measuring) -> tuple[Path, ...]:
    """The files of this machine that `measuring_text` reads."""
    text = None if measuring.held_out else _recorded(record, HELD_OUT_TOKENS)[0]
    return measuring.files_read if text is None else text.files_read


def files_to_walk(
    source: Source, plan: MergePlan, weights: Pairs, *, device: str, max_memory: int | None
) -> Layerwise | None:
    """The base as it is run layer by layer, where it does not fit; None where it is loaded.

    Args:
        max_memory: bytes that count as the memory there is; what the machine has if None.
    """
    files = layer_files(source, compute_dtype(plan.compute), device, max_memory)
    return files if files is not None and _merged(files, plan, weights).fits(files) else None


def measure_bases(
    source: Source,
    checkpoint: Checkpoint,
    plans: dict[Base, MergePlan],
    weights: Pairs,
    measure: Measure,
    *,
    device: str,
    files: Layerwise | None = None,
) -> dict[Base, float]:
    """Held-out loss in nats per token of every plan's merged model, run in the dtype of the training.

    Args:
        files: the base as it is run from its files, both plans in one walk; None to load it.
    """
    losses: dict[Base, float] = {}
    if files is not None:
        versions: dict[str, Dressing] = {name: _merged(files, plan, weights) for name, plan in plans.items()}
        found = losses_from_files(files, measure.held_out.rows, versions, batch_size=measure.batch_size)
        return {name: found[name] for name in plans}
    compute = compute_dtype(next(iter(plans.values())).compute)
    with _loaded(lambda: load_model(source, dtype=compute, device=device)) as model:
        written: dict[str, str] = {}  # by one plan, and so to be written anew by the next
        for plan in plans.values():
            written |= plan.changed
        for name, plan in plans.items():
            _swap(model, checkpoint, plan, weights, written)
            losses[name] = mean_loss(model, measure.held_out.rows, batch_size=measure.batch_size)
    return losses


def trained_logits(
    source: Source,
    adapter: Path,
    measure: Measure,
    record: HealRecord,
    *,
    device: str,
    files: Layerwise | None = None,
) -> torch.Tensor:
    """(rows * tokens, V) logits in fp32 of the adapter on the base in the precision of its training.

    Args:
        files: the base as it is run from its files; None to load it.
    """
    from peft import PeftModel

    bits, compute = record.settings["bits"], record.computed_in
    if files is not None:
        return logits_from_files(files, _batches(measure), as_trained(adapter, bits, record.quantised or ()))
    with _loaded(lambda: load_frozen(source, bits=bits, device=device, dtype=compute)) as base:
        try:
            adapted = PeftModel.from_pretrained(base, str(adapter)).eval()
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(f"peft cannot load {adapter} on {source.name} ({first_line(error)})") from None
        return _logits(adapted, measure)


def merged_logits(
    folder: Path, measure: Measure, *, compute: str, device: str, base: Layerwise | None = None
) -> torch.Tensor:
    """(rows * tokens, V) logits in fp32 of the checkpoint in `folder`, run in the dtype of the training.

    Args:
        base: where the base was run from its files; then this is, too.
    """
    source, dtype = Source(folder, "the merged model"), compute_dtype(compute)
    if base is not None:
        return logits_from_files(Layerwise(source, cap=base.cap, dtype=dtype, device=device), _batches(measure))
    with _loaded(lambda: load_model(source, dtype=dtype, device=device)) as model:
        return _logits(model, measure)


def kl_bound(plan: MergePlan, checkpoint: Checkpoint) -> float | None:
    """The mean KL in nats that rounding explains between a merged model and the adapter as trained.

    None where the base is not the one that was trained on: that is another function.
    """
    if plan.base == "original" and plan.bits != 16:
        return None
    if plan.bits == 8:
        return _INT8_BOUND
    stored = {tensor.dtype for tensor in checkpoint.tensors() if tensor.name in plan.changed}
    return FLOAT32_BOUND if plan.compute == "float32" and stored == {"F32"} else _SHORT_BOUND


def logits_that_fit(run: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """What `run` gives, or None where memory runs out."""
    try:
        return run()
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise


def compare(wanted: torch.Tensor | None, run: Callable[[], torch.Tensor], *, bound: float | None) -> Comparison:
    """Compare what was written with what was trained. No failure is raised: what was written is whole.

    Args:
        wanted: logits as trained, or None where memory ran out for them.
        run: gives the logits of what was written.
        bound: the largest mean KL in nats that is no error; None: any.
    """
    if wanted is None:
        return Comparison(not_compared="out of memory")
    try:
        written = run()
    except CheckpointError as error:
        return Comparison(not_compared=first_line(error), wrong=str(error))
    except Exception as error:
        return Comparison(not_compared="out of memory" if is_out_of_memory(error) else first_line(error))
    if not written.isfinite().all():
        return Comparison(not_compared="its logits are not finite", wrong="its logits are not finite")
    facts = agreement(wanted, written, bound)
    if bound is None or facts.kl <= bound:
        return Comparison(facts)
    kl = f"KL {facts.kl:.2g} nats"
    return Comparison(
        facts, wrong=f"its logits are {kl} from those of the adapter as trained, beyond the bound of {bound:g}"
    )


def agreement(wanted: torch.Tensor, written: torch.Tensor, bound: float | None = None) -> Agreement:
    """How far two sets of logits are apart: (N, V) each, fp32. Its KL is KL(wanted || written)."""
    largest = total = divergence = 0.0
    same = 0
    for ours, theirs in zip(wanted.split(_TOKENS), written.split(_TOKENS), strict=True):  # float64 takes twice the room
        apart = (ours.double() - theirs.double()).abs()
        p, q = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
        largest = max(largest, apart.max().item())
        total += apart.mean(-1).sum().item()
        divergence += (p.exp() * (p - q)).sum().item()
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    count = len(wanted)
    return Agreement(
        tokens=count,
        max_abs=largest,
        mean_abs=total / count,
        kl=max(0.0, divergence / count),
        same_first=same / count,
        bound=bound,
    )


def _recorded(record: HealRecord, tokens: int) -> tuple[TextSource, dict[str, Any]]:
    """The text of heal.json that was measured, and its identity there: one entry a source, or a list of several."""
    name = "held_out" if "held_out" in record.provenance else "text"
    identity = record.provenance[name]
    texts = identity if isinstance(identity, list) else [identity]
    sources = tuple(text["source"] for text in texts)
    loss_on = record.loss_on or "answers"
    text = TextSource(sources, texts[0]["field"], sources if name == "held_out" else None, tokens, loss_on=loss_on)
    return text, {name: identity}


def _swap(
    model: PreTrainedModel, checkpoint: Checkpoint, plan: MergePlan, weights: Pairs, names: dict[str, str]
) -> None:
    """Write the plan's values of the tensors in `names` (tensor -> module) into the model."""
    with torch.no_grad():
        for shard in checkpoint.shards:
            for tensor in shard.tensors:
                if tensor.name in names:
                    weight = model.get_submodule(names[tensor.name]).weight
                    weight.copy_(merged_tensor(shard, tensor, plan, weights, device=str(weight.device)))


@torch.no_grad()
def _logits(model: Any, measure: Measure) -> torch.Tensor:
    device = next(model.parameters()).device
    logits = []
    for batch in _batches(measure):
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        logits.append(model(**inputs, use_cache=False).logits[0].float().cpu())
    return torch.cat(logits)


def _batches(measure: Measure) -> list[dict[str, torch.Tensor]]:
    """The rows on which logits are compared, one a batch."""
    rows = measure.held_out.rows[:_ROWS]
    return [{name: t[:, :_TOKENS] for name, t in collate([row]).items() if name != "labels"} for row in rows]


def _merged(files: Layerwise, plan: MergePlan, weights: Pairs) -> Dressing:
    """The model that a plan makes, of layers as they are stored."""

    def value(name: str) -> torch.Tensor:
        return merged_tensor(*files.weights.places[name], plan, weights, device=files.device)

    return Dressing(values=value, changed=plan.changed)


@contextmanager
def _loaded(load: Any) -> Iterator[Any]:
    """A model for the time of a block; its memory is given back at the end, before the next one comes."""
    held = [load()]
    try:
        yield held[0]
    finally:
        held.clear()
        give_back()
