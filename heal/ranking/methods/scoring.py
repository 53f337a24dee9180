"""How documents are scored: each method by its name, from one material. Larger is better, whatever the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heal.ranking.settings import RankSettings
from heal.text.packing import Row
from prune.common.errors import RegrowthError
from prune.common.files.resume import FinishedParts

if TYPE_CHECKING:
    from peft import PeftModel

Scores = NDArray[np.float64]  # (D, Q)
OF_THE_MODEL = ("gradient", "ek-fac")  # methods that need it


def need_the_model(methods: Sequence[str]) -> bool:
    """Whether any of these methods looks at the model."""
    return any(method in OF_THE_MODEL for method in methods)


@dataclass(frozen=True)
class Material:
    """What methods score with.

    Attributes:
        documents: the texts of D documents; `document_rows`: what is read of them.
        queries: Q questions with their answers, as words; `query_rows`: as they are asked.
        model: with its adapter, its forward pass returning the loss; None where no method needs it.
        parts: what is finished, by names that a method begins with its own.
        advance: told of each row that is done.
    """

    documents: Sequence[str]
    document_rows: Sequence[Row]
    queries: Sequence[str]
    query_rows: Sequence[Row]
    settings: RankSettings
    model: PeftModel | None
    parts: FinishedParts
    advance: Callable[[float], None]


def score(method: str, material: Material) -> Scores:
    """The scores of a method, shape (D, Q).

    Raises:
        KeyError: no such method.
        RegrowthError: a score is no finite number, or what the method needs is missing.
    """
    scores = _SCORERS[method](material)
    if not np.isfinite(scores).all():
        raise RegrowthError(f"--methods {method}: a score is not a finite number; leave the method out")
    return scores


def work(method: str, material: Material) -> int:
    """How many rows a method tells of."""
    unlike = len({row.tokens.tobytes() for row in material.document_rows})
    if method == "gradient":
        return len(material.query_rows) + unlike + min(unlike, material.settings.moments)
    if method == "ek-fac":
        from heal.ranking.methods.ekfac import rows_to_run

        assert material.model is not None
        return rows_to_run(unlike, len(material.query_rows), material.model)
    return 0


def _gradient(material: Material) -> Scores:
    from heal.ranking.methods.gradients import gradient_scores

    assert material.model is not None
    settings = material.settings
    return gradient_scores(
        material.model,
        material.document_rows,
        material.query_rows,
        dimensions=settings.sketch,
        moments=settings.moments,
        seed=settings.seed,
        parts=material.parts,
        advance=material.advance,
    )


def _bm25(material: Material) -> Scores:
    from heal.ranking.methods.bm25 import bm25_scores

    return np.asarray(bm25_scores(material.documents, material.queries), dtype=np.float64)


def _random(material: Material) -> Scores:
    """Normal scores by the seed: what any method has to beat. A text has one score, however often it stands there."""
    places = {text: number for number, text in enumerate(dict.fromkeys(material.documents))}
    drawn = np.random.default_rng([material.settings.seed, 1]).normal(size=(len(places), len(material.queries)))
    return drawn[[places[text] for text in material.documents]]


def _ek_fac(material: Material) -> Scores:
    from heal.ranking.methods.ekfac import ek_fac_scores

    assert material.model is not None
    finished = material.parts.get("ek-fac")
    if finished is None:
        scores = ek_fac_scores(material.model, material.document_rows, material.query_rows, advance=material.advance)
        finished = {"scores": scores}
        material.parts.put("ek-fac", finished)
    return np.asarray(finished["scores"])


_SCORERS: Mapping[str, Callable[[Material], Scores]] = {
    "gradient": _gradient,
    "bm25": _bm25,
    "random": _random,
    "ek-fac": _ek_fac,
}


def check_installed(methods: Sequence[str]) -> None:
    """Refuse methods whose package is missing.

    Raises:
        RegrowthError: it is.
    """
    if "ek-fac" in methods:
        from heal.ranking.methods.ekfac import check_installed as check_ek_fac

        check_ek_fac()
