"""`evaluate run`: one model's answers to the drawn questions, through lm-eval, question by question."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.prose import Prose, draw_prose, measure_prose
from eval.tasks import TaskPlan, plan_tasks
from prune.errors import RegrowthError, UsageError
from prune.models import load_model, load_tokenizer, locate, pick_device, pick_dtype, text_config
from prune.provenance import model_identity
from prune.terminal import Progress, progress, quiet_libraries

SHORTEST = 64  # tokens; below that a prompt and 16 new tokens do not fit
LONGEST = 4096  # tokens of context at most, however much a model can hold: our questions are shorter


@dataclass(frozen=True)
class Sample:
    """One question as one model answered it.

    `correct` is the verdict we report: the choice of highest log-likelihood per character, or the exact number.
    `correct_raw` takes the highest log-likelihood as it is (the same as `correct` for an open question).
    `answer_nll_bits` is -log2 p(gold answer | question); None for a `thinking` sample, whose answer is parsed and
    not scored. `response` is the text generated, or the chosen index. `cut`: a chain of thought reached its limit.
    """

    id: str
    domain: str
    protocol: str
    subject: str
    source: str
    correct: bool
    correct_raw: bool
    answer_nll_bits: float | None
    parsed: bool
    response: str | int
    prompt_hash: str
    thinking: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class RunResult:
    """What one model answered: samples per question, lm-eval's own results, and how it was measured."""

    label: str
    identity: dict[str, Any]
    tasks: tuple[TaskPlan, ...]
    samples: tuple[Sample, ...]
    harness: dict[str, Any]
    prose: Prose | None
    settings: dict[str, Any]
    seconds: float
    tokens: int
    truncated: int
    notes: tuple[str, ...] = field(default=())

    def of(self, task: TaskPlan) -> list[Sample]:
        """The samples of one task, in its order."""
        wanted = (task.domain, task.protocol, task.thinking)
        return [s for s in self.samples if (s.domain, s.protocol, s.thinking) == wanted]


def run(
    model: str | Path,
    *,
    data: str | Path,
    domains: str | Iterable[str],
    limit: int | None = None,
    seed: int = 0,
    sets: Iterable[str] | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    text: str | None = None,
    field: str = "text",
    revision: str | None = None,
    label: str | None = None,
    shown: bool = True,
) -> RunResult:
    """Ask one model the drawn questions of each domain and protocol.

    Args:
        model: a model folder or hub id.
        data, domains, limit, seed, sets: which questions; see `plan_tasks`. The same for every model.
        batch_size: requests at a time; halved, and noted, where memory runs out.
        max_length: tokens of context; the model's own, 4096 at most, if None.
        dtype, device: as everywhere; `auto` keeps the checkpoint's dtype.
        text, field: held-out prose to measure the loss on as well.
        label: what to call the model; its folder's or hub name if None.
        shown: show progress on stderr.

    Raises:
        RegrowthError: the questions, the model or its tokenizer cannot be read, or a score is not a number.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars (read when tqdm is first imported); ours say it in one
    sets = None if sets is None else list(sets)
    plans = plan_tasks(data, domains, limit=limit, seed=seed, sets=sets)
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be 1 or more")
    if max_length is not None and max_length < SHORTEST:
        raise UsageError(f"--max-length {max_length} leaves no room for a question; take {SHORTEST} or more")
    label = label or name_of(model)
    source = locate(model, revision=revision)
    device = pick_device(device)
    precision = pick_dtype(dtype, device=device)
    quiet_libraries()
    tokenizer = load_tokenizer(source)
    windows = [] if text is None else draw_prose(text, tokenizer, field=field, seed=seed)
    started = time.monotonic()
    with progress(f"asking {label}", sum(p.requests for p in plans) + len(windows), shown=shown) as bar:
        bar.note("loading")
        loaded = load_model(source, dtype=precision, device=device)
        bar.note("")
        context = min(
            max_length or LONGEST, LONGEST, getattr(text_config(loaded.config), "max_position_embeddings", LONGEST)
        )
        scorer, harness = _ask(loaded, tokenizer, plans, batch_size=batch_size, max_length=context, bar=bar)
        prose = measure_prose(loaded, tokenizer, windows, bar=bar) if windows else None
        used = str(loaded.dtype).removeprefix("torch.")
    result = RunResult(
        label=label,
        identity=model_identity(source.folder, name=source.name, commit=source.commit),
        tasks=tuple(plans),
        samples=tuple(_samples(plans, harness.pop("samples"), tokenizer)),
        harness=harness,
        prose=prose,
        settings={
            "batch_size": batch_size,
            "max_length": context,
            "dtype": used,
            "device": device,
            "limit": limit,
            "seed": seed,
            "sets": None if sets is None else sorted(sets),
        },
        seconds=time.monotonic() - started,
        tokens=scorer.tokens,
        truncated=scorer.truncated,
        notes=tuple(scorer.notes),
    )
    del loaded, scorer
    _free()
    return result


def name_of(model: str | Path) -> str:
    """The last part of a folder or hub id."""
    path = Path(model)
    return path.name or path.resolve().name


def _ask(
    model: Any, tokenizer: Any, plans: list[TaskPlan], *, batch_size: int, max_length: int, bar: Progress
) -> tuple[Any, dict[str, Any]]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from eval.harness import PlannedTask, Scorer

    scorer = Scorer(model, tokenizer, batch_size=batch_size, max_length=max_length, bar=bar)
    found = lm_eval.simple_evaluate(
        model=scorer,
        tasks=[PlannedTask(plan) for plan in plans],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=1,  # all our metrics are means, whose standard error is in closed form
        use_cache=None,
        cache_requests=False,
    )
    return scorer, found


def _samples(plans: list[TaskPlan], logged: dict[str, list[dict[str, Any]]], tokenizer: Any) -> list[Sample]:
    samples = []
    for plan in plans:
        entries = {entry["doc"]["id"]: entry for entry in logged[plan.name]}
        if missing := [q.id for q in plan.questions if q.id not in entries]:
            raise RegrowthError(f"{plan.name}: no score came back for question {missing[0]}")
        samples += [_sample(plan, entries[question.id], tokenizer) for question in plan.questions]
    return samples


def _sample(plan: TaskPlan, entry: dict[str, Any], tokenizer: Any) -> Sample:
    doc = entry["doc"]
    chosen = plan.protocol == "choice" and plan.thinking is None
    correct = entry["acc_norm"] if chosen else entry["exact_match"]
    response = entry["filtered_resps"][0]
    if chosen:
        scores = [
            logprob / len(text) for (logprob, _), text in zip(entry["filtered_resps"], doc["choices"], strict=True)
        ]
        response = scores.index(max(scores))
    return Sample(
        id=doc["id"],
        domain=plan.domain,
        protocol=plan.protocol,
        subject=doc["subject"],
        source=doc["source"],
        correct=bool(correct),
        correct_raw=bool(entry["acc"] if chosen else correct),
        answer_nll_bits=None if plan.thinking else entry["answer_nll_bits"],
        parsed=chosen or not entry["unparseable"],
        response=response,
        prompt_hash=hash_prompt(entry["arguments"]),
        thinking=plan.thinking,
        cut=plan.thinking == "slow" and _reached(plan.slow_tokens, response, tokenizer),
    )


def _reached(limit: int, response: str, tokenizer: Any) -> bool:
    """Whether a text fills a limit of new tokens (decoding may lose a space, so a token less is full as well)."""
    return len(tokenizer.encode(response, add_special_tokens=False)) >= limit - 1


def hash_prompt(arguments: Any) -> str:
    """SHA-256 of all that was asked for one question: prompts, continuations, generation settings."""
    return hashlib.sha256(json.dumps(arguments, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def sample_rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Samples as JSON objects."""
    return [asdict(sample) for sample in samples]


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
