"""The adapter whose weights documents are ranked by: one that was trained before, or a fresh one, warmed up.

A fresh adapter has B = 0. The gradient by A is zero there, and says nothing. So it is trained on a random part of the
pool first, by healing itself.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.ranking.pool import Pool
from heal.ranking.settings import RankSettings
from heal.result import RECORD_FILE, HealRecord
from heal.settings import Settings, TrainingRun
from heal.text.sources import TextSource
from heal.training.checkpoints import Checkpoints
from prune.checkpoint.companions import ADAPTER_WEIGHTS
from prune.checkpoint.identity import base_identity
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError, TextError, UsageError
from prune.common.files.outputs import write_json, write_json_lines
from prune.common.files.provenance import file_sha256
from prune.common.files.resume import check_unchanged
from prune.common.sizes import parse_tokens

if TYPE_CHECKING:
    from peft import PeftModel

_MEASURED_TOKENS = 512  # of the pool's last documents, by which a warm-up that diverges is found
_FACTS = "facts.json"


@dataclass(frozen=True)
class Warm:
    """An adapter that is ready to rank by.

    Attributes:
        folder: where it stands, as `heal qlora` wrote it.
        record: its heal.json.
        warmed: tokens of the pool that it was trained on here; None for one that was given.
    """

    folder: Path
    record: HealRecord
    warmed: int | None

    @property
    def sha256(self) -> str:
        """Hash of its weights."""
        return file_sha256(self.folder / ADAPTER_WEIGHTS)


class WarmUp:
    """The hidden folder beside `out` in which the warm-up of an unfinished ranking stands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def beside(cls, out: Path, *, resume: bool, overwrite: bool) -> WarmUp:
        """That of a ranking into `out`. What an earlier run has left is for `resume`, or goes.

        Raises:
            RegrowthError: there is something left, and neither `resume` nor `overwrite` is given.
        """
        warm_up = cls(out.parent / f".{out.name}.warm-up")
        if not resume and warm_up._folder.exists():
            if not overwrite:
                raise RegrowthError(
                    f"a run into {out} stands unfinished: go on with --resume, or begin anew with --overwrite"
                )
            warm_up.clear()
        return warm_up

    def clear(self) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, source: Source, pool: Pool, settings: RankSettings, *, device: str, show_progress: bool) -> Warm:
        """Train a fresh adapter on a random part of the pool, or take up what an interrupted run has left.

        Raises:
            TextError: the pool is too small.
            UsageError: settings that do not fit the model, or are not those that the run was begun with.
            RegrowthError: as of `heal.training.qlora.qlora`.
        """
        text, tokens = self._text(source, pool, settings)
        out = self._folder / "adapter"
        if not (out / RECORD_FILE).is_file():
            how = Settings(
                length=settings.length,
                batch_size=1,
                accumulate=1,
                seed=settings.seed,
                eval_every=1_000_000,
                checkpointing=False,
                rank=Settings.rank if settings.rank is None else settings.rank,
                targets=settings.targets or Settings.targets,
                bits=settings.bits or Settings.bits,
                dtype=settings.dtype,
            )
            run = TrainingRun(device=device, show_progress=show_progress, tokens=tokens, resume=True)
            try:
                _train(source, text, out, how, run)
            except BaseException:
                if not Checkpoints(out).folder.exists():  # nothing to go on from
                    self.clear()
                raise
        record = HealRecord.read(out / RECORD_FILE)
        return Warm(out, record, record.tokens)

    def _text(self, source: Source, pool: Pool, settings: RankSettings) -> tuple[TextSource, int]:
        """The pool as files to train and to measure on, and how many tokens are trained on."""
        texts, measured = list(zip(pool.texts, pool.tokens, strict=True)), list[str]()
        counted = 0
        most = max(1, len(texts) // 4)
        while len(measured) < most and counted < _MEASURED_TOKENS:
            text, tokens = texts.pop()
            measured.append(text)
            counted += tokens
        left = {text: tokens for text, tokens in texts if text not in measured}
        if parse_tokens(settings.warm_up) < settings.length:
            raise UsageError(
                f"--warm-up {settings.warm_up} is less than one row (--length {settings.length}); raise it"
            )
        budget = min(parse_tokens(settings.warm_up), sum(left.values()) // settings.length * settings.length)
        if budget < settings.length or counted < 64:
            raise TextError(
                f"{' and '.join(settings.text)}: {sum(pool.tokens)} tokens are too few to warm an adapter up; give "
                "more text, or an --adapter of an earlier heal qlora"
            )
        facts = {"pool": pool.sha256, "tokens": budget, "model": base_identity(source)["weights_sha256"]}
        for name in ("length", "rank", "targets", "bits", "dtype", "seed"):
            facts[name] = getattr(settings, name)
        paths = {name: self._folder / f"{name}.jsonl" for name in ("train", "measure")}
        if (self._folder / _FACTS).is_file():
            check_unchanged(json.loads((self._folder / _FACTS).read_text(encoding="utf-8")), facts)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            write_json_lines(paths["train"], ({"text": text} for text in left))
            write_json_lines(paths["measure"], ({"text": text} for text in measured))
            write_json(self._folder / _FACTS, facts)
        tokens = min(counted, _MEASURED_TOKENS)
        return TextSource(str(paths["train"]), held_out=str(paths["measure"]), held_out_tokens=tokens), budget


def given_adapter(folder: Path, source: Source) -> Warm:
    """An adapter of an earlier `heal qlora` or `heal distill` on this model.

    Raises:
        CheckpointError: not such a folder, or it was trained on another model.
    """
    if not (folder / RECORD_FILE).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(
            f"--adapter {folder} is no adapter that heal qlora wrote: {RECORD_FILE} or {ADAPTER_WEIGHTS} is missing"
        )
    record = HealRecord.read(folder / RECORD_FILE)
    if record.base.get("weights_sha256") != base_identity(source)["weights_sha256"]:
        raise CheckpointError(f"--adapter {folder} was trained on {record.base.get('model')}, and not on {source.name}")
    return Warm(folder, record, None)


def load_adapted(source: Source, warm: Warm, *, device: str, dtype: str) -> PeftModel:
    """The frozen base in the adapter's bits, with the adapter on it, its forward pass returning the loss.

    Raises:
        RegrowthError: the base cannot be loaded so on this device.
    """
    import torch

    from heal.lineage import first_after_cut
    from heal.models.adapters import add_adapter, load_adapter
    from heal.models.lm_head import attach_loss
    from heal.models.quantise import load_frozen
    from heal.models.targets import find_targets

    made: dict[str, Any] = warm.record.settings
    base = load_frozen(source, bits=made["bits"], device=device, dtype=dtype)
    targets = find_targets(base, made["targets"], cut=first_after_cut(source.folder))
    attach_loss(base)
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced
        adapted = add_adapter(base, targets, rank=made["rank"], alpha=made["alpha"], dropout=0.0, base=source.name)
    load_adapter(adapted, warm.folder)
    return adapted


def _train(source: Source, text: TextSource, out: Path, settings: Settings, run: TrainingRun) -> None:
    from heal.training.plan import plan_healing
    from heal.training.qlora import load_student
    from heal.training.run import execute

    plan = plan_healing("qlora", source.folder, text, out, settings, replace(run, revision=None))
    execute(plan, load_student, compare=False, part="Warming the adapter up")
