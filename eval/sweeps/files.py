"""The folder of a sweep, whole or not at all; and its answers so far, so that one goes on."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from eval.asking.cache import digest
from eval.asking.walk import Answers
from prune.common.errors import RegrowthError
from prune.common.outputs import staged_directory, write_bytes, write_json, write_text

if TYPE_CHECKING:
    from eval.sweeps.result import Sweep


_EVERY = 20.0  # seconds between two writings


def write_sweep(found: Sweep, out: str | Path, *, overwrite: bool = False) -> None:
    """Write all files of a sweep into a staged folder, which then becomes `out`."""
    from eval.reports.figures import write_sweep_figures
    from eval.reports.page import report
    from eval.sweeps.scores import sample_rows

    with staged_directory(out, overwrite=overwrite) as stage:
        write_json(stage / "sweep.json", found.document)
        write_json(stage / "costs.json", found.costs)
        for task in found.tasks:
            lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in sample_rows(task))
            write_text(stage / f"samples_{task.plan.name}.jsonl", "".join(lines))
        write_sweep_figures(found.document, stage)
        report(stage)


class Kept:
    """The file of `--resume`; nothing is kept where none is named.

    Args:
        path: the file.
        facts: what the answers depend on, as far as it is known before the model is loaded: the model's content above
            all. A file of other facts is refused.
    """

    def __init__(self, path: str | Path | None, facts: Any) -> None:
        self._path = None if path is None else Path(path)
        self._facts = digest(facts)
        self._more = digest(None)
        self._written: float | None = None

    def check(self) -> None:
        """Refuse a wrong file before the model is loaded.

        Raises:
            RegrowthError: not such a file, or one of another sweep.
        """
        self._read()

    def restore(self, more: Any = None) -> Answers | None:
        """What an interrupted sweep has left; None if there is nothing.

        Args:
            more: the facts that only the loaded model tells; a file of others is refused too.

        Raises:
            RegrowthError: not such a file, or one of another sweep.
        """
        self._more = digest(more)
        kept = self._read()
        if kept is None:
            return None
        head, found = kept
        if head["more"] != self._more:
            self._refuse()
        return found

    def _read(self) -> tuple[dict[str, Any], Answers] | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as kept:
                head = json.loads(str(kept["head"]))
                found = Answers(
                    kept["logprob"], kept["greedy"], kept["done"], head["read"], head["heads"], head["notes"]
                )
            facts, _ = head["facts"], head["more"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            raise RegrowthError(
                f"--resume {self._path} is not a file that an interrupted sweep has left; remove it"
            ) from None
        if facts != self._facts:
            self._refuse()
        return head, found

    def _refuse(self) -> NoReturn:
        raise RegrowthError(
            f"--resume {self._path} is of another sweep (model, questions or options differ); remove it"
        )

    def keep(self, answers: Answers) -> None:
        """Write what is answered so far, not more often than every 20 seconds, the first time at once."""
        if self._path is None or (self._written is not None and time.monotonic() - self._written < _EVERY):
            return
        content = io.BytesIO()
        head: dict[str, Any] = {"facts": self._facts, "more": self._more}
        head |= {"read": answers.read, "heads": answers.heads, "notes": answers.notes}
        arrays = {"logprob": answers.logprob, "greedy": answers.greedy, "done": answers.done}
        np.savez(content, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]
        write_bytes(self._path, content.getvalue(), overwrite=True)
        self._written = time.monotonic()

    def clear(self) -> None:
        """Remove the file: the sweep is complete."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
