"""The model without a block writes its answers, fast and slow, as `evaluate run --thinking fast,slow` has it do.

No checkpoint is written: the model without the block stands over the tensors of the loaded one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eval.asking.tasks import TaskPlan, prompts_of
from eval.depth.loaded import Loaded
from eval.depth.plan import DepthTask
from eval.depth.settings import DepthSettings
from eval.runs.samples import RunResult, Sample
from eval.sweeps.plan import Variant
from prune.common.layers import layers_without
from prune.common.screen.terminal import Progress
from prune.common.thinking import MODES
from prune.families.subject import Subject, new_config
from prune.models.walks.sharing import over_same_weights


@dataclass(frozen=True)
class Writer:
    """A loaded model, and how its variants are asked: in batches of the settings' `batch_size`, which is a number."""

    loaded: Loaded
    subject: Subject
    settings: DepthSettings

    def write(self, variant: Variant, plans: Sequence[TaskPlan], bar: Progress) -> list[Sample]:
        """The answers of one variant to all plans."""
        from eval.asking.asker import Asker
        from eval.asking.cache import AnswerStore
        from eval.asking.harness import Scorer
        from eval.runs.run import ask_tasks, read_logged

        tokenizer, context, size = self.loaded.tokenizer, self.loaded.context, self.settings.batch_size
        assert size is not None

        def opened() -> Scorer:
            return Scorer(self._without(variant), tokenizer, batch_size=size, max_length=context, bar=bar)

        asker = Asker(opened, tokenizer, AnswerStore(), max_length=context, scored=context + 1, bar=Progress())
        found = ask_tasks(asker, list(plans), self.settings.in_words, chat=self.loaded.chat)
        return read_logged(list(plans), found["samples"], tokenizer)

    def _without(self, variant: Variant) -> Any:
        model = self.loaded.model
        if not variant.dropped:
            return model
        kept = layers_without(variant.dropped, self.subject.layers)
        config = type(model.config).from_dict(new_config(self.subject, kept, carry_code=False))
        return over_same_weights(model, config, kept)


def thinking_plans(tasks: Iterable[DepthTask], settings: DepthSettings) -> list[TaskPlan]:
    """The same questions, to be answered in words, fast and slow."""
    own = prompts_of(settings.in_words)
    return [
        replace(task.plan, thinking=mode, slow_tokens=settings.slow_tokens, prompts=own)
        for task in tasks
        for mode in MODES
    ]


def as_run(label: str, plans: Sequence[TaskPlan], samples: Sequence[Sample]) -> RunResult:
    """A variant's answers in the form that `eval.billing.rows.thinking.bill_thinking` takes."""
    return RunResult(label, {}, tuple(plans), tuple(samples), {}, {}, {}, seconds=0.0, tokens=0, truncated=0)


def as_kept(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Samples as JSON, from which `Sample(**row)` makes them again."""
    return [asdict(sample) for sample in samples]
