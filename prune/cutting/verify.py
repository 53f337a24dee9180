"""A pruned checkpoint against its source: every kept tensor's bytes, the config, and on request a few logits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, computed_field

from prune.checkpoint.headers import Checkpoint, read_json_object
from prune.checkpoint.hub import fetch
from prune.checkpoint.source import Source, locate
from prune.checkpoint.tensors import tensor_sha256
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError, UsageError
from prune.common.files.artefact import Artefact
from prune.common.screen.terminal import progress
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.cutting.settings import TOLERANCE
from prune.families.config import changes
from prune.families.subject import Pair, Subject, new_config, open_subject

_TOKENS = 16  # that logits are compared on
_SHOWN = 20  # faults that the table names


class Verification(Artefact):
    """What was compared, and what differs."""

    AGAIN: ClassVar[str] = "verify again with `prune verify`"

    format: Literal["regrowth.verification/2"] = "regrowth.verification/2"
    model: str = Field(description="the full model")
    folder: str = Field(description="the pruned one")
    tensors: int = Field(description="how many tensors were hashed on both sides")
    bytes: int = Field(description="their bytes")
    faults: tuple[str, ...] = Field(description="one sentence each; none if the pruned model is what its plan says")
    logits: float | None = Field(description="largest absolute difference of the logits; null without --logits")
    tolerance: float | None = Field(description="what that difference may be")

    @computed_field(description="whether nothing differs")  # type: ignore[prop-decorator]
    @property
    def sound(self) -> bool:
        return not self.faults

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


@checks_arguments
def verify_cut(
    full: str | Path,
    folder: str | Path,
    *,
    logits: bool = False,
    tolerance: float = TOLERANCE,
    revision: str | None = None,
    trust_remote_code: bool = False,
    show_progress: bool = True,
) -> Verification:
    """Compare a pruned checkpoint with the model it was cut from. Nothing is written, and no tensor is loaded.

    Args:
        full: the source: a model folder or a hub id.
        folder: what `prune cut` has written.
        logits: also run a few tokens through both models, the dropped layers of the full one passed through.
        tolerance: of the logits.
        revision: branch, tag or commit of a hub id; the plan's own if None.
        trust_remote_code: run the models' own Python, for `logits`.

    Raises:
        UsageError: a tolerance below 0.
        CheckpointError: one of the two cannot be read at all, or was not written by prune cut.
    """
    if tolerance < 0:
        raise UsageError(f"--tolerance {tolerance:g}: use 0 or more")
    plan, cut = open_cut(folder)
    subject = open_subject(full, revision=revision or (plan.commit if str(full) == plan.model else None))
    if subject.layers != plan.layers:
        raise CheckpointError(f"{full} has {subject.layers} layers, but {folder} was cut from {plan.layers}")
    faults = []
    for key, value in subject.identity().items():
        if value != plan.identity[key]:
            faults.append(f"{full} is not the source that the plan names (its {key} differs)")
    planned = new_config(subject, plan.kept, carry_code=plan.carry_code)
    faults += [
        f"config.json: {field} is {json.dumps(change['after'])}, where the plan gives {json.dumps(change['before'])}"
        for field, change in changes(planned, cut.checkpoint.config).items()
    ]
    pairs = list(subject.pairs(plan.kept, cut.checkpoint))
    faults += _unlike(pairs, cut.checkpoint)
    alike = [pair for pair in pairs if pair.alike]
    if subject.source.commit:
        fetch(subject.source, sorted({pair.source[0].name for pair in alike}))
    size = sum(pair.source[1].size for pair in alike)
    with progress("Hashing (MB)", size / 1e6, shown=show_progress) as bar:
        faults += _hash_all(alike, lambda count: bar.advance(count / 1e6))
    difference = None
    if logits:
        difference = logits_difference(subject.source, folder, plan.dropped, trust_remote_code=trust_remote_code)
        if not difference <= tolerance:  # NaN is a fault too
            faults.append(f"the logits differ by up to {difference:.3g}, more than {tolerance:g}")
    return Verification(
        model=str(full),
        folder=str(folder),
        tensors=len(alike),
        bytes=size,
        faults=tuple(faults),
        logits=difference,
        tolerance=tolerance if logits else None,
    )


def _unlike(pairs: list[Pair], pruned: Checkpoint) -> list[str]:
    """What has no counterpart, or one of another type or shape."""
    faults = []
    for pair in pairs:
        if pair.pruned is None:
            faults.append(f"tensor {pair.name} is missing")
        elif not pair.alike:
            ours, theirs = pair.source[1], pair.pruned[1]
            faults.append(f"tensor {pair.name} is {theirs.dtype} {theirs.shape}, not {ours.dtype} {ours.shape}")
    strange = {tensor.name for tensor in pruned.tensors()} - {pair.name for pair in pairs}
    return faults + [f"tensor {name} is not in the source" for name in sorted(strange)]


def _hash_all(pairs: list[Pair], advance: Callable[[int], None]) -> list[str]:
    """Names of tensors whose SHA-256 differ, as sentences. Some files are read at a time, one buffer each."""

    def differs(pair: Pair) -> bool:
        assert pair.pruned is not None
        return tensor_sha256(*pair.source) != tensor_sha256(*pair.pruned)

    faults = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for pair, different in zip(pairs, pool.map(differs, pairs), strict=True):
            tensor = pair.source[1]
            advance(tensor.size)
            if different:
                faults.append(f"tensor {pair.name} has other values than {tensor.name} of the source")
    return faults


def logits_difference(
    full: Source, folder: str | Path, dropped: Sequence[int], *, trust_remote_code: bool = False
) -> float:
    """Largest absolute difference between the logits of the pruned model and of the full one whose dropped layers
    are passed through, over random tokens; in float32, or as stored where the weights are quantised. One model is in
    memory at a time.

    Raises:
        CheckpointError: transformers cannot load one of them.
    """
    import torch

    from prune.models.loading import decoder_layers, load_model, text_config

    logits: list[torch.Tensor] = []
    for model, revision, passed in ((full.name, full.commit, dropped), (folder, None, ())):
        source = locate(model, revision=revision, code=trust_remote_code)
        packed = "quantization_config" in read_json_object(source.folder / "config.json")
        loaded = load_model(source, dtype="auto" if packed else torch.float32, trust_remote_code=trust_remote_code)
        ids = torch.randint(
            0, text_config(loaded.config).vocab_size, (1, _TOKENS), generator=torch.Generator().manual_seed(0)
        )
        layers = decoder_layers(loaded)
        for layer in passed:
            layers[layer] = _passed_through(layers[layer])
        with torch.no_grad():
            logits.append(loaded(input_ids=ids, use_cache=False).logits.float())
        del loaded, layers
    return float((logits[0] - logits[1]).abs().max())


def _passed_through(layer: Any) -> Any:
    """A module that hands its input on, in the form in which the layer itself answers."""
    from prune.models.walks.walking import PassThrough

    def answer(hidden_states: Any, *rest: Any, **more: Any) -> Any:
        form = layer(hidden_states, *rest, **more)  # run for its form alone
        return (hidden_states, *form[1:]) if isinstance(form, tuple) else hidden_states

    return PassThrough(layer, answer)


@checks_arguments
def inspect_cut(folder: str | Path) -> CutPlan:
    """The plan by which a checkpoint was cut: what was dropped, from what, by which numbers.

    Raises:
        CheckpointError: not a model, not made by `prune cut`, or its weights do not have the plan's layers.
    """
    return open_cut(folder)[0]


def open_cut(folder: str | Path) -> tuple[CutPlan, Subject]:
    """The same, with the pruned model's own headers."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one that prune cut has written")
    if not (folder / PLAN_FILE).is_file():
        raise CheckpointError(f"{folder} holds no {PLAN_FILE}, so it was not written by prune cut")
    plan = CutPlan.read(folder / PLAN_FILE)
    subject = open_subject(folder)
    if subject.layers != len(plan.kept):
        raise CheckpointError(f"{folder} has {subject.layers} layers, but its {PLAN_FILE} keeps {len(plan.kept)}")
    return plan, subject
