"""A pruned checkpoint against its source: every kept tensor's bytes, the config, and on request a few logits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.headers import Shard, Tensor, read_checkpoint
from prune.checkpoint.hub import fetch
from prune.common.errors import CheckpointError
from prune.common.terminal import progress
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.families.config import changes
from prune.families.subject import Subject, new_config, open_subject

if TYPE_CHECKING:
    import torch

FORMAT = "regrowth.verification/1"
TOLERANCE = 1e-5  # of logits, in float32
_BUFFER = 1 << 20
_SHOWN = 20  # faults that the table names


@dataclass(frozen=True)
class Verification:
    """What was compared, and what was found to differ.

    Args:
        model, folder: the full model and the pruned one.
        tensors, bytes: how many were hashed on both sides.
        faults: one sentence each; none if the pruned model is what its plan says.
        logits: largest absolute difference of the logits; None if they were not asked for.
        tolerance: what that difference may be.
    """

    model: str
    folder: str
    tensors: int
    bytes: int
    faults: tuple[str, ...]
    logits: float | None = None
    tolerance: float | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing differs."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "sound": self.sound, **vars(self), "faults": list(self.faults)}

    def words(self) -> str:
        """The finding in a few lines."""
        lines = [f"{self.tensors} tensors, {self.bytes / 1e6:,.1f} MB: SHA-256 taken on both sides"]
        if self.logits is not None:
            lines.append(f"largest difference of the logits: {self.logits:.3g} (allowed: {self.tolerance:g})")
        lines += self.faults[:_SHOWN]
        if len(self.faults) > _SHOWN:
            lines.append(f"and {len(self.faults) - _SHOWN} more")
        lines.append("sound: the pruned model is what its plan says" if self.sound else "NOT what its plan says")
        return "\n".join(lines)


def verify_cut(
    full: str | Path,
    folder: str | Path,
    *,
    logits: bool = False,
    tolerance: float = TOLERANCE,
    tokens: int = 16,
    revision: str | None = None,
    trust_remote_code: bool = False,
    show_progress: bool = True,
) -> Verification:
    """Compare a pruned checkpoint with the model it was cut from. Nothing is written, and no tensor is loaded.

    Args:
        full: the source: a model folder or a hub id.
        folder: what `prune cut` has written.
        logits: also run `tokens` tokens through both models, the dropped layers of the full one passed through.
        tolerance: of the logits.
        tokens: how many.
        revision: branch, tag or commit of a hub id; the plan's own if None.
        trust_remote_code: run the models' own Python, for `logits`.
        show_progress: on stderr.

    Raises:
        CheckpointError: one of the two cannot be read at all, or was not written by prune cut.
    """
    plan = inspect_cut(folder)
    subject = open_subject(full, revision=revision or (plan.commit if str(full) == plan.model else None))
    if subject.layers != plan.layers:
        raise CheckpointError(f"{full} has {subject.layers} layers, but {folder} was cut from {plan.layers}")
    pruned = read_checkpoint(folder)
    faults = []
    for key, value in subject.identity().items():
        if value != plan.identity.get(key):
            faults.append(f"{full} is not the source that the plan names (its {key} differs)")
    wanted = new_config(subject, plan.kept, carry_code=plan.carry_code)
    faults += [
        f"config.json: {field} is {json.dumps(change['after'])}, where the plan gives {json.dumps(change['before'])}"
        for field, change in changes(wanted, pruned.config).items()
    ]
    pairs, missing = _pair(subject, plan, {t.name: (shard, t) for shard in pruned.shards for t in shard.tensors})
    faults += missing
    if subject.source.commit:
        fetch(subject.source, sorted({shard.name for shard, _, _, _ in pairs}))
    size = sum(tensor.size for _, tensor, _, _ in pairs)
    with progress("Hashing (MB)", size / 1e6, shown=show_progress) as bar:
        faults += _hash_all(pairs, lambda count: bar.advance(count / 1e6))
    difference = None
    if logits:
        difference = logits_difference(full, folder, plan, tokens=tokens, trust_remote_code=trust_remote_code)
        if not difference <= tolerance:  # NaN is a fault too
            faults.append(f"the logits differ by up to {difference:.3g}, more than {tolerance:g}")
    return Verification(
        str(full), str(folder), len(pairs), size, tuple(faults), difference, tolerance if logits else None
    )


_Pair = tuple[Shard, Tensor, Shard, Tensor]


def _pair(subject: Subject, plan: CutPlan, found: dict[str, tuple[Shard, Tensor]]) -> tuple[list[_Pair], list[str]]:
    """Each kept tensor of the source with its counterpart, and what has none or is of another type or shape."""
    rename = subject.renaming(plan.kept)
    pairs, faults, left = [], [], set(found)
    for shard in subject.checkpoint.shards:
        for tensor in shard.tensors:
            name = rename(tensor.name)
            if name is None:
                continue
            if name not in found:
                faults.append(f"tensor {name} is missing")
                continue
            left.discard(name)
            other_shard, other = found[name]
            if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
                faults.append(f"tensor {name} is {other.dtype} {other.shape}, not {tensor.dtype} {tensor.shape}")
                continue
            pairs.append((shard, tensor, other_shard, other))
    return pairs, faults + [f"tensor {name} is not in the source" for name in sorted(left)]


def _hash_all(pairs: list[_Pair], advance: Callable[[int], None]) -> list[str]:
    """Names of tensors whose SHA-256 differ, as sentences. Two files are read at a time, one buffer each."""

    def differs(pair: _Pair) -> bool:
        shard, tensor, other_shard, other = pair
        return tensor_sha256(shard, tensor) != tensor_sha256(other_shard, other)

    faults = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for pair, different in zip(pairs, pool.map(differs, pairs), strict=True):
            advance(pair[1].size)
            if different:
                faults.append(f"tensor {pair[3].name} has other values than {pair[1].name} of the source")
    return faults


def tensor_sha256(shard: Shard, tensor: Tensor) -> str:
    """Hex SHA-256 of a tensor's bytes, read in pieces.

    Raises:
        CheckpointError: the file ends within them.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(_BUFFER, tensor.size)))
    handle = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        place, left = shard.data_start + tensor.start, tensor.size
        while left:
            count = os.preadv(handle, [buffer[:left]], place)
            if not count:
                raise CheckpointError(f"{shard.path} became shorter while it was read")
            digest.update(buffer[:count])
            place, left = place + count, left - count
    finally:
        os.close(handle)
    return digest.hexdigest()


def logits_difference(
    full: str | Path, folder: str | Path, plan: CutPlan, *, tokens: int = 16, trust_remote_code: bool = False
) -> float:
    """Largest absolute difference between the logits of the pruned model and of the full one whose dropped layers
    are passed through, over random tokens; in float32, or as stored where the weights are quantised. One model is in
    memory at a time.

    Raises:
        CheckpointError: transformers cannot load one of them.
    """
    import torch

    from prune.checkpoint.source import locate
    from prune.models.loading import decoder_layers, load_model, text_config

    found: list[torch.Tensor] = []
    for place in (full, folder):
        source = locate(place, revision=plan.commit if str(place) == plan.model else None)
        packed = "quantization_config" in read_checkpoint(source.folder).config
        model = load_model(source, dtype="auto" if packed else torch.float32, trust_remote_code=trust_remote_code)
        ids = torch.randint(
            0, text_config(model.config).vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0)
        )
        layers = decoder_layers(model)
        with torch.no_grad(), _passed_through(layers, plan.dropped if place is full else ()):
            found.append(model(input_ids=ids, use_cache=False).logits.float())
        del model, layers
    return float((found[0] - found[1]).abs().max())


@contextmanager
def _passed_through(layers: Any, dropped: tuple[int, ...]) -> Iterator[None]:
    """Replace layers by modules that hand their input on, in the form in which the layer itself answers."""
    import torch

    class PassThrough(torch.nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.layer = [layer]  # not a submodule

        def __getattr__(self, name: str) -> Any:  # a decoder may ask a layer for its type
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.layer[0], name)

        def forward(self, hidden_states: Any, *rest: Any, **more: Any) -> Any:
            answer = self.layer[0](hidden_states, *rest, **more)  # run for its form alone
            return (hidden_states, *answer[1:]) if isinstance(answer, tuple) else hidden_states

    kept = {layer: layers[layer] for layer in dropped}
    for layer, module in kept.items():
        layers[layer] = PassThrough(module)
    try:
        yield
    finally:
        for layer, module in kept.items():
            layers[layer] = module


def inspect_cut(folder: str | Path) -> CutPlan:
    """The plan by which a checkpoint was cut: what was dropped, from what, by which numbers.

    Raises:
        CheckpointError: not a model, not made by `prune cut`, or its weights do not have the plan's layers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; name one that prune cut has written")
    if not (folder / PLAN_FILE).is_file():
        raise CheckpointError(f"{folder} holds no {PLAN_FILE}, so it was not written by prune cut")
    plan = CutPlan.read(folder / PLAN_FILE)
    subject = open_subject(folder)
    if subject.layers != len(plan.kept):
        raise CheckpointError(f"{folder} has {subject.layers} layers, but its {PLAN_FILE} keeps {len(plan.kept)}")
    return plan
