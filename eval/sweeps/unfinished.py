"""The answers of an unfinished sweep, kept beside its --out, from which it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.asking.walk import RouteAnswers
from prune.common.files.resume import Unfinished


class KeptAnswers:
    """Answers that an interrupted sweep has left; `facts` are what they depend on, as far as no model tells it.

    Raises:
        RegrowthError: not such a file.
        UsageError: it is of a sweep with other facts.
    """

    def __init__(self, unfinished: Unfinished, facts: Mapping[str, Any]) -> None:
        self._unfinished, self._facts = unfinished, facts
        self.restore()

    def restore(self, **more: Any) -> RouteAnswers | None:
        """The answers so far, None if there are none; `more` are the facts that only the loaded model tells."""
        return self._unfinished.read({**self._facts, **more}, restored)

    def keep(self, answers: RouteAnswers) -> None:
        """Write what is answered so far, not more often than every 20 seconds."""
        if self._unfinished.due():
            self._unfinished.write(*as_kept(answers))


def as_kept(answers: RouteAnswers) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Answers as JSON and arrays."""
    state = {"read": answers.read, "heads": answers.heads, "notes": answers.notes}
    return state, {"logprob": answers.logprob, "greedy": answers.greedy, "done": answers.done}


def restored(state: Any, arrays: Mapping[str, np.ndarray]) -> RouteAnswers:
    """What `as_kept` was given."""
    return RouteAnswers(
        arrays["logprob"], arrays["greedy"], arrays["done"], state["read"], state["heads"], state["notes"]
    )
