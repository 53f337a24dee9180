"""comparison.json and run.json. Intervals are `{estimate, low, high}` at 95 %; a difference is other - full, paired."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from eval.billing.judging.verdict import Verdict
from eval.billing.noise import Noise
from eval.billing.rows.bill import DomainRow, ProseRow
from eval.billing.rows.interactions import Interaction, ThinkingInteraction
from eval.billing.rows.needles import NeedleRow
from eval.billing.rows.tasks import TaskRow
from eval.billing.rows.thinking import ThinkingRow
from eval.gains.record import Gains
from eval.runs.needles import NeedleTrials
from eval.runs.prose import Prose
from eval.runs.samples import RunResult
from prune.common.files.artefact import Artefact, Part

_SETTINGS = (
    "how it was asked: precision, `weights` (`as stored`, `nf4`, or what vLLM made of them), context, chat template, "
    "backend, protocols, shots, limit, seed, sets, thinking, and `prompts`, the SHA-256 of what --prompts holds (null "
    "for the built-in ones); `batch_size`, requests at a time, of most answers; where there are, `batch_sizes` (where "
    "there are several: answers by that number, `unknown` for what older versions kept), `needles` and `removed_heads` "
    "(`heads` as `[layer, head]`, `by`, `random`, `file`)"
)
_WARNINGS = "what a reader must see first: few questions, cut prompts, memory that ran out"
_ROWS = (
    "one per domain, protocol and model: `n`, `clusters` (questions that share no passage count one each), `few` "
    "(n < 30), `chance`, `accuracy` (interval), `accuracy_raw`, `answer_nll_bits`, `unparseable`, `answer_bytes` (mean "
    "UTF-8 bytes of the right answers), and `versus` the full model (null for it): `accuracy_difference`, "
    "`accuracy_raw_difference`, `answer_nll_bits_difference` (per answer), `answer_nll_bits_per_byte_difference` (of "
    "the right answers, for comparing domains), `mcnemar_p`, `mcnemar_p_holm` (corrected over the rows of one model), "
    "`lost`, `gained`, `retained_above_chance` (or null), `retained_interval` (null where it has no end), "
    "`full_above_chance`. NLLs are null where answers were generated and not scored, as in runs that lm-eval made"
)
_PROSE = (
    "one per text (`text`) and model: `bits_per_byte`, `nats_per_token`, `windows`, `difference_bits_per_byte` and "
    "`difference` (nats per token), null for the full model"
)
_NEEDLES = (
    "with --needles, one for all lengths together (`length` null), and of several lengths one each, for each model: "
    "`needles` (that no model answers without any text) and `trials` that count, `recall` (ROUGE-1, mean) and "
    "`answered` (share of trials with a recall above 0.5), intervals by needle, and their `recall_difference` and "
    "`answered_difference`, null for the full model"
)
_NF4_LOSS = (
    "where the first model is judged in NF4, with --text: what NF4 alone costs it, one per text, as in `prose`: its "
    "loss in NF4, and `difference`, that less the loss of the same windows on its weights as they are stored"
)
_THINKING = (
    "with --thinking fast,slow, one per domain, protocol and model: `n`, `chance`, `counts` (`both_right`, "
    "`fast_only`, `slow_only`, `both_wrong`), `a_fast`, `a_slow`, `delta`, `delta_c`, `delta_o`, `r_c`, `r_o` "
    "(intervals; a rate without a denominator is null), `unparseable_fast`, `unparseable_slow`, `cut_slow` (chains "
    "that reached `slow_tokens`), and `versus` the full model (null for it): what `a_fast`, `a_slow` and `delta` "
    "changed by"
)
_INTERACTIONS = (
    "one per model other than the full, protocol and pair of domains: `domains` `[A, B]`, `accuracy` and "
    "`answer_nll_bits` (the loss in A minus the loss in B; a loss is positive; bits per answer), "
    "`answer_nll_bits_per_byte` (of the right answers, which the tables show), `at_chance` (domains of the two where "
    "the full model is not above chance, so that accuracy cannot fall), `shared` (questions that are in both)"
)
_TASKS = (
    "tasks and groups of lm-eval, one per `task`, `metric`, `filter` and model: `n`, `value`, `higher_is_better`, "
    "`group` (whether it is one), `difference` (null for the full model and where no score per question makes up the "
    "value), and for 0/1 metrics `lost`, `gained`, `mcnemar_p` (else null)"
)
_NOISE = (
    "what the full model's scores move by where it is asked twice; null with --no-noise, and where the full model is a "
    "finished run. `first` and `second` say how it was asked (`batch_size`, `dtype`), `rows`, `thinking`, `prose` and "
    "`needles` what moved: `n` of the row's `of` questions (windows, trials) were asked twice, `flips` (`flips_fast`, "
    "`flips_slow`) is the share of verdicts that changed, and each measure has `shift` (second - first, interval) and "
    "`band`: a change of at most so much is noise. `noise` of a row, or of its `versus`, names its differences that are"
)
_VERDICT = (
    "null without --policy and --max-loss, else `policy` (as it was read), `decision` (`GO`, `NO-GO`, `INCONCLUSIVE`), "
    "`sentence`, `worst` (the loss that decides, or null), `losses`, `gains`, and `models` (`decision` and `sentence` "
    "of each alone). A loss has `measure` (`accuracy`, `answer_bits_per_byte`, `a_fast`, `a_slow`, `needle_recall`, "
    "`prose_bits_per_byte`), `loss` (interval; a share or bits per byte, a loss is positive), `limit` (the same unit), "
    "`tier`, `n`, `room` (the full model's accuracy - chance, else null), `at_chance`, `noise`, `decision` (null where "
    "it is not judged), and `more_questions` (about how many would decide an `INCONCLUSIVE` loss). A gain has `name`, "
    "`ratio` (null where it was not measured), `limit` and `decision`"
)


class AskedModel(Part):
    """A model that was asked."""

    label: str = Field(description="its name in this file")
    model: str = Field(description="the folder or hub id that the user gave")
    commit: str | None = Field(None, description="the hub's commit, where it came from there")
    config_sha256: str | None = Field(None, description="SHA-256 of config.json")
    shards: dict[str, str] = Field({}, description="file of weights -> SHA-256 of its header")
    content_sha256: str | None = Field(
        None, description="over the names and every byte of the files that settle what a model answers"
    )


class ComparedModel(AskedModel):
    """A model of a comparison."""

    dropped: tuple[int, ...] | None = Field(
        None, description="layers that are gone (0-based, of the full model), by its folder's prune_plan.json"
    )
    settings: dict[str, Any] = Field(description=_SETTINGS)
    notes: tuple[str, ...] = Field(description="what happened on the way, such as batches halved")


class Effort(Part):
    """What asking took."""

    seconds: float = Field(description="wall time")
    tokens: int = Field(description="tokens that went through the model now")
    asked: int = Field(description="requests answered now; one for each choice of a question")
    known: int = Field(description="requests that an earlier run had answered")

    @classmethod
    def of(cls, run: RunResult, **more: str) -> Self:
        """That of a run."""
        return cls(seconds=round(run.seconds, 1), tokens=run.tokens, asked=run.asked, known=run.known, **more)


class ModelEffort(Effort):
    """What asking one model took."""

    model: str = Field(description="its label")


class Comparison(Artefact):
    """comparison.json: the whole bill. In each group of rows the full model comes first."""

    AGAIN: ClassVar[str] = "compare again with `evaluate compare`"

    format: Literal["regrowth.comparison/3"] = "regrowth.comparison/3"
    models: tuple[ComparedModel, ...] = Field(description="all models, the full one first")
    gains: Gains | None = Field(None, description="what the cut gives; null with --no-gains")
    noise: Noise | None = Field(None, description=_NOISE)
    rows: tuple[DomainRow, ...] = Field(description=_ROWS)
    prose: tuple[ProseRow, ...] = Field(description=_PROSE)
    nf4_loss: tuple[ProseRow, ...] = Field((), description=_NF4_LOSS)
    needles: tuple[NeedleRow, ...] = Field((), description=_NEEDLES)
    thinking: tuple[ThinkingRow, ...] = Field(description=_THINKING)
    thinking_interactions: tuple[ThinkingInteraction, ...] = Field(
        description="by model, protocol and pair of domains: loss of `a_fast`, `a_slow` and `delta` in the first "
        "domain minus that in the second"
    )
    interactions: tuple[Interaction, ...] = Field(description=_INTERACTIONS)
    tasks: tuple[TaskRow, ...] = Field(description=_TASKS)
    verdict: Verdict | None = Field(description=_VERDICT)
    warnings: tuple[str, ...] = Field(description=_WARNINGS)
    truncated: dict[str, int] = Field(description="by model: requests whose start was cut to fit the context")
    measured: tuple[ModelEffort, ...] = Field(description="what asking took, model by model")
    provenance: dict[str, Any] = Field(description="hashes of questions and texts, limit, seed, versions, command")


class AskedTask(Part):
    """One of our tasks."""

    task: str = Field(description="its name in lm-eval and in the samples' file")
    domain: str = Field(description="its domain")
    protocol: str = Field(description="choice, letters or generation")
    thinking: str | None = Field(description="fast, slow or null")
    slow_tokens: int = Field(description="the longest chain of thought")


class Run(Artefact):
    """run.json: one model's scores; with its samples and results.json it can stand for the model in a comparison."""

    AGAIN: ClassVar[str] = "run `evaluate run` again"

    format: Literal["regrowth.run/2"] = "regrowth.run/2"
    model: AskedModel = Field(description="who was asked")
    settings: dict[str, Any] = Field(description=_SETTINGS)
    asked: tuple[AskedTask, ...] = Field(description="our tasks")
    logged: tuple[str, ...] = Field(description="names of lm-eval's own tasks")
    rows: tuple[DomainRow, ...] = Field(description="as in comparison.json; `versus` is null")
    thinking: tuple[ThinkingRow, ...] = Field(description=_THINKING)
    prose: tuple[ProseRow, ...] = Field(description=_PROSE)
    nf4_loss: tuple[ProseRow, ...] = Field((), description=_NF4_LOSS)
    needles: tuple[NeedleRow, ...] = Field((), description=_NEEDLES)
    tasks: tuple[TaskRow, ...] = Field(description=_TASKS)
    windows: dict[str, Prose] = Field(
        description="by text: SHA-256 of the token windows, by which a comparison pairs them, and the loss of each"
    )
    stored_windows: dict[str, Prose] = Field(
        {}, description="of a model judged in NF4: the same windows' losses on the weights as they are stored"
    )
    needle_trials: NeedleTrials | None = Field(
        None, description="with --needles, every trial, and by what a comparison pairs them; else null"
    )
    warnings: tuple[str, ...] = Field(description=_WARNINGS)
    truncated: int = Field(description="requests whose start was cut to fit the context")
    notes: tuple[str, ...] = Field(description="what happened on the way, such as batches halved")
    measured: Effort = Field(description="what asking took")
    provenance: dict[str, Any] = Field(description="versions and command")
