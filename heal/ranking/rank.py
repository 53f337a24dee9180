"""`heal rank`: which documents of a pool bring back which domain."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heal.ranking.document import AskedQuestion, DomainScores, MethodScores, RankedDocument, Ranking, RankingAdapter
from heal.ranking.methods.scoring import Material, Scores, check_installed, need_the_model, score, work
from heal.ranking.pool import Pool, read_pool
from heal.ranking.procedures import CONTROLS, procedure_queries
from heal.ranking.queries import MATHEMATICS, Asked, ask, draw_questions, encode_query
from heal.ranking.rows import PoolDocument, Query
from heal.ranking.select import budget_of, select_documents, selection_text
from heal.ranking.settings import RankRun, RankSettings, Selection
from heal.ranking.warming import Warm, WarmUp, given_adapter, load_adapted
from heal.result import RECORD_FILE
from prune.checkpoint.companions import model_files
from prune.checkpoint.identity import model_identity, work_identity
from prune.checkpoint.source import Source, locate
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError
from prune.common.files.outputs import check_files_apart, free_file, json_text, write_files
from prune.common.files.provenance import digest, provenance
from prune.common.files.resume import FinishedParts, Unfinished
from prune.common.machine.memory import give_back, peak_memory
from prune.common.screen.terminal import progress, quiet_libraries
from prune.cutting.plan import PLAN_FILE
from prune.models.loading import load_tokenizer, pick_device
from prune.text.windows import texts_identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heal.ranking.findings.contrasts import Kind
    from heal.text.packing import Row

UNITS = {
    "gradient": "cosine of update direction and gradient",
    "bm25": "BM25",
    "random": "standard normal",
    "ek-fac": "influence, EK-FAC",
}
_WORDS = 80  # characters of a document that the result shows


@dataclass(frozen=True)
class RankResult:
    """A ranking, and the documents that it is of.

    Attributes:
        ranking: rank.json.
        documents: of the pool, in the ranking's order: what `select_documents` takes.
        selected: rows that were selected; () if nothing was to be.
    """

    ranking: Ranking
    documents: tuple[PoolDocument, ...]
    selected: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return self.ranking.to_json()


@checks_arguments
def rank(
    model: str | Path,
    out: str | Path | None = None,
    *,
    settings: RankSettings,
    selection: Selection | None = None,
    run: RankRun | None = None,
) -> RankResult:
    """Rank the documents of a pool by what each would do for the answers of domain questions (after arXiv 2411.12580).

    Args:
        model: the pruned model: a folder or a hub id.
        out: rank.json; if None, nothing is written, no figure and no selection either. While the run lasts its work is
            kept in hidden files beside it.
        settings: the pool, the questions and the methods.
        selection: which documents are written as text to heal on; none if None.

    Raises:
        UsageError: options that do not fit each other or the model.
        TextError: the pool is missing, empty or too small.
        CheckpointError: the model or the adapter cannot be read, or do not belong together.
        RegrowthError: questions that cannot be read, a package that is missing, or a score that is not a number.
    """
    plan = _plan(model, None if out is None else Path(out), settings, selection or Selection(), run or RankRun())
    began = time.monotonic()
    with _workplace(plan) as (unfinished, warm_up):
        warm = _warm(plan, warm_up) if plan.needs_model else None
        warmed = time.monotonic()
        scores = _score(plan, warm, unfinished)
        seconds = {"warm_up": warmed - began, "scores": time.monotonic() - warmed}
        ranking = _ranking(plan, warm, scores, {name: round(value, 1) for name, value in seconds.items()})
        selected = _selected(plan, ranking)
        if plan.out is not None:
            _write(plan, ranking, selected)
        if unfinished is not None:
            unfinished.clear()
        warm_up.clear()
    return RankResult(ranking, plan.pool.documents, tuple(selected))


@dataclass(frozen=True)
class RankPlan:
    """What is ranked and by what, settled and in tokens; no model is loaded yet.

    Attributes:
        run: its device settled.
        asked: the domains' questions.
        queries: these, then the made-up ones, Q in all.
        rows: the queries in tokens, (Q,).
        kinds: what each query stands for in the contrasts, (Q,).
        identity: of the model, and `text` of the pool's sources as they were read, for provenance.
    """

    model: Source
    out: Path | None
    settings: RankSettings
    selection: Selection
    run: RankRun
    pool: Pool
    asked: tuple[Asked, ...]
    queries: tuple[Query, ...]
    rows: tuple[Row, ...]
    kinds: tuple[Kind | None, ...]
    identity: dict[str, Any]
    text: Any

    @property
    def needs_model(self) -> bool:
        return need_the_model(self.settings.methods)


def _plan(model: str | Path, out: Path | None, settings: RankSettings, selection: Selection, run: RankRun) -> RankPlan:
    """Settle it, and refuse what cannot be done before anything that takes long. See `rank`."""
    settings.check()
    selection.check(settings)
    check_installed(settings.methods)
    if settings.adapter is not None and not need_the_model(settings.methods):
        raise UsageError(f"--adapter {settings.adapter}: no method of {','.join(settings.methods)} looks at the model")
    named = {"--out": out, "--plot": run.plot, "--select-out": selection.select_out}
    paths = {option: path for option, path in named.items() if path is not None}
    for option, path in paths.items():
        free_file(path, overwrite=run.overwrite, option=option)
    read = [Path(model) / PLAN_FILE, *model_files(model)]
    if settings.adapter is not None:
        read += [settings.adapter / RECORD_FILE, *model_files(settings.adapter)]
    check_files_apart(paths, *read, *settings.files_read)
    quiet_libraries()
    drawn = draw_questions(settings)
    run = replace(run, device=pick_device(run.device))
    if "ek-fac" in settings.methods and run.device not in ("cpu", "cuda", "cuda:0"):
        raise UsageError(f"--methods ek-fac runs on the CPU or the first GPU, not on {run.device}; use --device cpu")
    source = locate(model, revision=run.revision)
    tokenizer = load_tokenizer(source)
    with progress("Reading the pool", None, shown=run.show_progress):
        pool = read_pool(settings, tokenizer)
    if selection.select is not None:
        budget_of(selection.select, list(dict(zip(pool.texts, pool.tokens, strict=True)).values()))
    with progress("Writing the questions", None, shown=run.show_progress):
        asked = ask(drawn, tokenizer, chat_template=settings.chat_template)
    made = procedure_queries(settings.procedures, controls=settings.procedures, seed=settings.seed)
    kinds: list[Kind] = ["control" if query.domain == CONTROLS else "reasoning" for query in made]
    queries = [*(one.query for one in asked), *made]
    return RankPlan(
        model=source,
        out=out,
        settings=settings,
        selection=selection,
        run=run,
        pool=pool,
        asked=tuple(asked),
        queries=tuple(queries),
        rows=tuple(encode_query(tokenizer, query) for query in queries),
        kinds=(*(_kind(one) for one in asked), *kinds),
        identity=model_identity(source.folder, name=source.name, commit=source.commit),
        text=texts_identity(settings.text, settings.field),
    )


def _kind(asked: Asked) -> Kind | None:
    if asked.worked:
        return "reasoning"
    return "factual" if asked.question.choices is not None and asked.question.domain not in MATHEMATICS else None


@contextmanager
def _workplace(plan: RankPlan) -> Iterator[tuple[Unfinished | None, WarmUp]]:
    """Where the work of the run is kept: beside `out`, or nowhere."""
    if plan.out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield None, WarmUp(Path(folder) / "warm-up")
        return
    how = {"resume": plan.run.resume, "overwrite": plan.run.overwrite}
    unfinished = Unfinished.beside(plan.out, **how)
    yield unfinished, WarmUp.beside(plan.out, **how)


def _warm(plan: RankPlan, warm_up: WarmUp) -> Warm:
    if plan.settings.adapter is not None:
        return given_adapter(plan.settings.adapter, plan.model)
    shown = plan.run.show_progress
    return warm_up.run(plan.model, plan.pool, plan.settings, device=plan.run.device, show_progress=shown)


def _score(plan: RankPlan, warm: Warm | None, unfinished: Unfinished | None) -> dict[str, Scores]:
    """Scores of every method, (D, Q) each."""
    settings = plan.settings
    parts = FinishedParts(unfinished, _facts(plan, warm))
    model = None
    if warm is not None:
        give_back()  # what the warm-up has left
        with progress("Loading the model", None, shown=plan.run.show_progress):
            model = load_adapted(plan.model, warm, device=plan.run.device, dtype=settings.dtype)
    words = [*(one.words for one in plan.asked), *(f"{q.prompt} {q.answer}" for q in plan.queries[len(plan.asked) :])]
    material = Material(plan.pool.read, plan.pool.rows, words, plan.rows, settings, model, parts, lambda _: None)
    scores = {}
    for method in settings.methods:
        total = work(method, material)
        with progress(f"Scoring by {method}", total or None, shown=plan.run.show_progress) as bar:
            scores[method] = score(method, replace(material, advance=bar.advance))
    return scores


def _facts(plan: RankPlan, warm: Warm | None) -> dict[str, Any]:
    """What scores depend on."""
    settings = plan.settings
    return {
        "model": work_identity(plan.model.folder, plan.identity),
        "adapter": None if warm is None else warm.sha256,
        "pool": plan.pool.sha256,
        "questions": digest([[row.tokens.tolist(), row.labels.tolist()] for row in plan.rows]),
        **{name: getattr(settings, name) for name in ("sketch", "moments", "dtype", "seed")},
        "device": plan.run.device.partition(":")[0],
    }


def _ranking(plan: RankPlan, warm: Warm | None, scores: dict[str, Scores], seconds: dict[str, float]) -> Ranking:
    settings, pool = plan.settings, plan.pool
    documents = tuple(
        RankedDocument(
            sha256=document.digest,
            words=" ".join(document.text[: 4 * _WORDS].split())[:_WORDS],
            source=document.source,
            topic=document.topic,
            kind=document.kind,
            tokens=tokens,
            read=len(row.tokens),
        )
        for document, tokens, row in zip(pool.documents, pool.tokens, pool.rows, strict=True)
    )
    sets = {one.query.name: (one.question.id, one.question.source) for one in plan.asked}
    questions = []
    for query, row, kind in zip(plan.queries, plan.rows, plan.kinds, strict=True):
        name, source = sets.get(query.name, (query.name, ""))
        questions.append(AskedQuestion(id=name, domain=query.domain, set=source, kind=kind, tokens=row.targets))
    written = json.loads(json.dumps(asdict(settings), default=str))  # paths as text, as the file has them
    return Ranking(
        model=plan.model.name,
        pool_sha256=pool.sha256,
        documents=documents,
        questions=tuple(questions),
        adapter=None if warm is None else _adapter(warm, settings),
        methods=tuple(_method(plan, method, values) for method, values in scores.items()),
        seconds=seconds,
        peak_memory=peak_memory(plan.run.device),
        provenance=provenance(
            model=plan.identity,
            text=plan.text,
            settings=written,
            device=plan.run.device,
        ),
    )


def _adapter(warm: Warm, settings: RankSettings) -> RankingAdapter:
    made = warm.record.settings
    return RankingAdapter(
        folder=None if settings.adapter is None else str(settings.adapter),
        warm_up_tokens=warm.warmed,
        rank=made["rank"],
        targets=made["targets"],
        bits=made["bits"],
        sha256=warm.sha256,
    )


def _method(plan: RankPlan, method: str, scores: Scores) -> MethodScores:
    from heal.ranking.findings.bins import bin_means
    from heal.ranking.findings.contrasts import contrasts
    from heal.ranking.findings.summary import domain_scores, ranks

    documents, queries = plan.pool.documents, plan.queries
    names, seed = [query.domain for query in queries], plan.settings.seed
    rows = []
    for domain in plan.settings.domains:
        means, errors = domain_scores(scores, names, domain)
        rows.append(
            DomainScores(
                domain=domain,
                queries=names.count(domain),
                scores=_short(means),
                stderr=_short(errors),
                ranks=tuple(map(int, ranks(means))),
            )
        )
    return MethodScores(
        method=method,
        unit=UNITS[method],
        domains=tuple(rows),
        bins=bin_means(scores, documents, queries, seed=seed),
        contrasts=contrasts(scores, documents, queries, plan.kinds, seed=seed) if plan.settings.procedures else None,
    )


def _short(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Six digits: more would be noise, and a larger file."""
    return tuple(float(f"{value:.6g}") for value in values)


def _selected(plan: RankPlan, ranking: Ranking) -> list[dict[str, Any]]:
    chosen = plan.selection
    if chosen.select is None:
        return []
    by, domain = chosen.select_by, chosen.select_for
    return select_documents(ranking, plan.pool.documents, chosen.select, by=by, domain=domain)


def _write(plan: RankPlan, ranking: Ranking, selected: Sequence[dict[str, Any]]) -> None:
    assert plan.out is not None
    files = {plan.out: json_text(ranking.to_json())}
    if plan.run.plot is not None:
        from heal.ranking.figure import draw_ranking

        files[plan.run.plot] = draw_ranking(ranking)
    if plan.selection.select_out is not None:
        files[plan.selection.select_out] = selection_text(selected)
    write_files({path: text.encode("utf-8") for path, text in files.items()}, overwrite=plan.run.overwrite)
