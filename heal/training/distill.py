"""Distillation: the pruned model learns what the full one predicts, both on one copy of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.lineage import Lineage, first_after_cut, own_tensors, trace
from heal.result import HealResult
from heal.settings import DistillSettings, TrainingRun
from heal.text.sources import HeldOut, TextSource
from heal.training.plan import HealPlan, Student, plan_healing
from heal.training.run import Written, execute
from prune.checkpoint.identity import base_identity
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError
from prune.common.files.outputs import check_apart
from prune.common.screen.terminal import progress
from prune.models.loading import load_tokenizer
from prune.models.vllm.options import engine_device
from prune.text.windows import text_identity

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from heal.models.targets import Targets
    from prune.checkpoint.headers import Shard, Tensor
    from prune.writing.writers import Writer


@checks_arguments
def distill(
    model: str | Path,
    teacher: str | Path | None,
    text: TextSource | str,
    out: str | Path,
    *,
    settings: DistillSettings | None = None,
    run: TrainingRun | None = None,
    compare: bool = True,
) -> HealResult:
    """Train an adapter for a pruned model on the full model's predictions, and write it to `out` as `qlora` does.

    The full model is loaded once, and is both: the teacher with all its layers, the student with the cut ones left out
    and adapters on. Where no adapter sits before the cut (`targets="after-cut"`), what comes before is the same for
    both, and is run once.

    Args:
        model: the pruned model, patched or not: a folder with its prune_plan.json.
        teacher: the full model that it was cut from; where the plan says it was, if None.
        text, out: see `qlora`.
        compare: also measure the finished adapter beside the unquantised cut, which is loaded for it.

    Raises:
        CheckpointError: no plan, a teacher that is not there, or one that is not the source of the cut.
        UsageError, TextError, RegrowthError: see `qlora`.
    """
    settings, run = settings or DistillSettings(), run or TrainingRun()
    _check(settings)
    if settings.backend == "vllm":
        engine_device(run.device)  # raises where vLLM is not installed
    plan = plan_healing("distill", model, text, out, settings, run, teacher=teacher)
    if settings.teacher_data == "self" and plan.text.mix is not None:
        raise UsageError("--mix is of texts to train on; with --teacher-data self the full model writes that")
    lineage = trace(model, teacher, revision=run.revision)
    check_apart(out, lineage.full.folder)
    if settings.match_hidden and first_after_cut(plan.model.folder) == len(lineage.plan.kept):
        raise UsageError("--match-hidden needs a layer after the cut, and the cut took the last ones")
    also: dict[str, Any] = {"teacher": base_identity(lineage.full)}
    if settings.prompts:
        also["prompts"] = text_identity(settings.prompts, "prompt")
    full = _Full(lineage, own_tensors(lineage, shown=run.show_progress), settings, run.device)
    write = full.responses if settings.teacher_data == "self" else None
    return execute(replace(plan, also=also), full.student, write=write, compare=compare)


class _Full:
    """The full model of one run: it may write text first, and then teaches. It is loaded once, where it is needed.

    Args:
        changed: the tensors of the pruned model that are not the full model's.
        device: as on the command line: vLLM settles `auto` in its own way.
    """

    def __init__(
        self, lineage: Lineage, changed: dict[str, tuple[Shard, Tensor]], settings: DistillSettings, device: str
    ) -> None:
        self.lineage, self.changed, self.settings, self.device = lineage, changed, settings, device
        self._loaded: PreTrainedModel | None = None

    def load(self, plan: HealPlan) -> PreTrainedModel:
        from heal.models.packed import check_documents
        from heal.models.quantise import load_frozen

        if self._loaded is None:
            settings = plan.settings
            self._loaded = load_frozen(
                self.lineage.full,
                bits=settings.bits,
                device=plan.run.device,
                dtype=settings.dtype,
                spread=plan.run.device_map is not None,
                attention=settings.attention,
            )
            check_documents(self._loaded)
        return self._loaded

    def responses(self, plan: HealPlan, folder: Path, held_out: HeldOut) -> Written:
        """Let the full model write the text to train on, into responses.jsonl, if it is not there yet."""
        from heal.text.responses import read_prompts, tally, write_responses
        from heal.training.checkpoints import RESPONSES

        path = folder / RESPONSES
        if not path.exists():
            tokenizer = load_tokenizer(plan.model)
            prompts = read_prompts(
                tokenizer,
                plan.text,
                self.settings.prompts,
                held_out,
                seed=self.settings.seed,
                longest=plan.schedule.length,
            )
            title = "Writing responses (tokens)"
            with (
                self._writer(plan, tokenizer) as writer,
                progress(title, plan.schedule.tokens, shown=plan.run.show_progress) as bar,
            ):
                write_responses(
                    writer,
                    tokenizer,
                    prompts,
                    path,
                    tokens=plan.schedule.tokens + plan.schedule.length,  # the last document may not fill its row
                    response_tokens=self.settings.response_tokens,
                    seed=self.settings.seed,
                    advance=bar.advance,
                )
        held = plan.text.held_out or plan.text.source
        text = replace(plan.text, source=str(path), field="text", held_out=held)
        return Written(text, {"responses": tally(path)})

    @contextmanager
    def _writer(self, plan: HealPlan, tokenizer: PreTrainedTokenizerBase) -> Iterator[Writer]:
        from prune.models.loading import longest_context, read_config
        from prune.writing.writers import transformers_writer, vllm_limit, vllm_writer

        if self.settings.backend == "hf":
            tokens = plan.schedule.length + self.settings.response_tokens
            yield transformers_writer(self.load(plan), tokenizer, tokens=tokens)
            return
        longest = longest_context(read_config(self.lineage.full.folder, self.lineage.full.name))
        limit = vllm_limit(longest, plan.schedule.length, self.settings.response_tokens)
        how: dict[str, Any] = {"limit": limit, "device": self.device, "dtype": plan.settings.dtype}
        with vllm_writer(self.lineage.full, tokenizer, **how) as writer:
            yield writer

    def student(self, plan: HealPlan) -> Student:
        """The pruned model over the full one's tensors; its forward pass is the loss."""
        from heal.models.kernels import Kernels, fuse
        from heal.models.quantise import quantised_modules
        from heal.models.student import build_student
        from heal.models.targets import find_targets
        from prune.checkpoint.tensors import read
        from prune.models.loading import read_config

        teacher, kept = self.load(plan), self.lineage.plan.kept
        self._loaded = None  # from here on the student holds it, and frees it
        values = {name: read(*stored) for name, stored in self.changed.items()}
        student = build_student(teacher, read_config(plan.model.folder, plan.model.name), kept, values)
        cut = first_after_cut(plan.model.folder)
        targets = find_targets(student, self.settings.targets, cut=cut)
        prefix = shared_prefix(targets, cut or 0, student, teacher)
        spread = plan.run.device_map is not None  # Liger's kernels run on one GPU
        kernels = Kernels() if spread else fuse([teacher, student], self.settings.kernels, plan.run.device)
        attach_distillation(student, teacher, kept=kept, prefix=prefix, cut=cut or 0, settings=self.settings)
        facts = {**plan.also, "own_tensors": list(self.changed), "shared_prefix": prefix}
        return Student(student, targets, quantised_modules(student), facts, kernels)


def shared_prefix(targets: Targets, cut: int, student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """How many layers from the bottom are the same for both: not adapted, not after the cut, no tensor of their own."""
    from prune.models.loading import decoder_layers

    theirs = {id(parameter) for parameter in teacher.parameters()}
    if any(id(p) not in theirs for p in student.get_input_embeddings().parameters()):
        return 0
    for index, layer in enumerate(decoder_layers(student)):
        if index >= min(targets.first, cut) or any(id(p) not in theirs for p in layer.parameters()):
            return index
    return 0


def attach_distillation(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    *,
    kept: tuple[int, ...],
    prefix: int,
    cut: int,
    settings: DistillSettings,
) -> None:
    """Replace the student's forward pass by one that returns how far it is from the teacher; see `heal.models.lm_head`.

    The teacher runs first and without a graph, always in eval mode.

    Args:
        kept: layer i of the student is layer kept[i] of the teacher.
        prefix: how many layers from the bottom are the same for both, and are run once, by the teacher.
        cut: the student's first layer after the cut, for `match_hidden`.
    """
    import torch

    from heal.models.divergence import chunked_divergence, state_distance
    from heal.models.lm_head import check_head, projection, return_loss
    from heal.models.student import answer_parts, started_at, watching
    from prune.models.loading import decoder_layers, text_config

    teacher.eval()
    project, teacher_project = projection(student), projection(teacher)
    check_head(student, project)
    vocabulary, parts = text_config(student.config).vocab_size, answer_parts(teacher)
    theirs = decoder_layers(teacher)
    match = settings.match_hidden

    def summed(batch: dict[str, Any], labels: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        given: dict[int, Any] = {prefix: None} if prefix else {}
        wanted: dict[int, Any] = {kept[cut]: None} if match else {}
        reached: dict[int, Any] = {cut: None} if match else {}
        with torch.no_grad(), watching(theirs, given, wanted):
            goal = teacher.get_decoder()(**batch).last_hidden_state
        decoder, ours = student.get_decoder(), decoder_layers(student)
        if prefix:
            decoder = started_at(decoder, ours, given[prefix], prefix, parts)
        with watching(ours, {}, reached):
            hidden = decoder(**batch).last_hidden_state
        total = chunked_divergence(
            hidden,
            goal,
            labels,
            project,
            teacher_project=teacher_project,
            vocabulary=vocabulary,
            temperature=settings.temperature,
            plain=settings.plain_loss,
            places=places,
        )
        if match:
            ours_there, theirs_there = (state.to(labels.device) for state in (reached[cut], wanted[kept[cut]]))
            total = total + match * state_distance(ours_there, theirs_there, labels, places)
        return total

    return_loss(student, summed)


def _check(settings: DistillSettings) -> None:
    if not 0 < settings.temperature < math.inf:
        raise UsageError(f"--temperature {settings.temperature} is not above 0")
    if not 0 <= settings.plain_loss <= 1:
        raise UsageError(f"--plain-loss {settings.plain_loss} is a share, between 0 and 1")
    if not 0 <= settings.match_hidden < math.inf:
        raise UsageError(f"--match-hidden {settings.match_hidden} is not 0 or above")
    if settings.teacher_data not in ("text", "self"):
        raise UsageError(f"--teacher-data {settings.teacher_data} is unknown; use text or self")
    if settings.prompts and settings.teacher_data != "self":
        raise UsageError("--prompts is for --teacher-data self alone")
    if settings.backend not in ("hf", "vllm"):
        raise UsageError(f"--backend {settings.backend} is unknown; use hf or vllm")
    if settings.backend == "vllm" and settings.teacher_data != "self":
        raise UsageError("--backend vllm writes responses: it is for --teacher-data self alone")
    if settings.response_tokens < 1:
        raise UsageError(f"--response-tokens {settings.response_tokens} is not at least 1")
