"""rank.json, the result of `heal rank`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from heal.ranking.findings.bins import BinMean
from heal.ranking.findings.contrasts import Contrasts
from heal.ranking.findings.summary import joint
from prune.common.errors import UsageError
from prune.common.files.artefact import Artefact, Part


class RankedDocument(Part):
    """One document of the pool."""

    sha256: str = Field(description="of its text")
    words: str = Field(description="its first words")
    source: str = Field(description="where it comes from, as its row says; else the name of its file")
    topic: str = Field(description="what it is about; empty where its row does not say")
    kind: str = Field(description="what sort of text it is; empty where its row does not say")
    tokens: int = Field(description="of the whole text")
    read: int = Field(description="tokens that were read of it, BOS included")


class AskedQuestion(Part):
    """One query. Leave these questions out where the selection is judged."""

    id: str = Field(description="of the question, as in its file; of a made-up query its name")
    domain: str = Field(description="the domain; `procedures` and `controls` are made-up queries")
    set: str = Field(description="the question set; empty for made-up queries")
    kind: Literal["reasoning", "factual", "control"] | None = Field(
        description="what it stands for in the contrasts: a worked solution, a right choice, or a control; null: none"
    )
    tokens: int = Field(description="of the answer: those that count in the loss")


class DomainScores(Part):
    """What a method says of every document for one domain; lists are over the documents in their order."""

    domain: str = Field(description="the domain of the queries")
    queries: int = Field(description="how many the means are over")
    scores: tuple[float, ...] = Field(description="mean over the domain's queries; larger: helps more")
    stderr: tuple[float, ...] = Field(description="its standard error over the queries")
    ranks: tuple[int, ...] = Field(description="place among all documents, from 1 on")


class MethodScores(Part):
    """What one method says."""

    method: str = Field(description="`gradient`, `bm25`, `random` or `ek-fac`")
    unit: str = Field(description="of the scores")
    domains: tuple[DomainScores, ...] = Field(description="in the order in which they were asked for")
    bins: tuple[BinMean, ...] = Field(description="means over documents of like source, topic and kind")
    contrasts: Contrasts | None = Field(
        description="the published claims on these scores; null without made-up queries (--procedures 0)"
    )

    def of(self, domain: str | None) -> tuple[float, ...]:
        """Scores of all documents for one domain; for None, the mean of the z-scores of all of them.

        Raises:
            UsageError: no such domain.
        """
        if domain is None:
            return tuple(map(float, joint([one.scores for one in self.domains])))
        for one in self.domains:
            if one.domain == domain:
                return one.scores
        known = ", ".join(one.domain for one in self.domains)
        raise UsageError(f"the ranking has no domain {domain}; it has {known}")


class RankingAdapter(Part):
    """The adapter by whose weights gradients were taken."""

    folder: str | None = Field(description="where it stands; null for a warm-up, which is not kept")
    warm_up_tokens: int | None = Field(description="tokens of the pool that it was trained on; null if it was given")
    rank: int = Field(description="LoRA rank")
    targets: str = Field(description="which projections it adapts")
    bits: int = Field(description="of the frozen base")
    sha256: str = Field(description="of its weights")


class Ranking(Artefact):
    """Which documents of a pool lower the loss of a domain's answers, by several methods."""

    AGAIN: ClassVar[str] = "rank again with `heal rank`"

    format: Literal["regrowth.ranking/1"] = "regrowth.ranking/1"
    model: str = Field(description="folder or hub id of the model")
    pool_sha256: str = Field(description="over the documents in their order, and what was read of them")
    documents: tuple[RankedDocument, ...] = Field(description="of the pool, in the order in which they were drawn")
    questions: tuple[AskedQuestion, ...] = Field(description="all queries, in their order")
    adapter: RankingAdapter | None = Field(description="null where no method needs one")
    methods: tuple[MethodScores, ...] = Field(description="in the order gradient, bm25, random, ek-fac")
    seconds: dict[str, float] = Field(description="how long parts took; of a resumed run its last stretch")
    peak_memory: dict[str, int] = Field(description="`resident_bytes` of the process, `cuda_bytes` on a GPU")
    provenance: dict[str, Any] = Field(description="see the top of this page; `settings` are all options")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for method in self.methods:
            for one in method.domains:
                if not len(self.documents) == len(one.scores) == len(one.stderr) == len(one.ranks):
                    raise ValueError(f"scores of {method.method} for {one.domain} are not one a document")
        return self

    def method(self, name: str) -> MethodScores:
        """What a method says.

        Raises:
            UsageError: it was not asked.
        """
        for one in self.methods:
            if one.method == name:
                return one
        known = ", ".join(one.method for one in self.methods)
        raise UsageError(f"the ranking has no scores by {name}; it has {known}")
