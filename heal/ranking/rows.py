"""What is ranked and what ranks it: documents of the pool, and answers whose loss they may lower."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolDocument:
    """One document of the pool.

    Attributes:
        text: what healing would train on.
        source: where it comes from, such as "gsm8k"; the file's name where the row does not say.
        topic: what it is about, "" where the row does not say.
        kind: what sort of text it is, such as "solution"; "" where the row does not say.
    """

    text: str
    source: str
    topic: str = ""
    kind: str = ""

    @property
    def bin(self) -> tuple[str, str, str]:
        """Source x topic x kind: scores of single documents are noisy, means of bins less so (2606.19625)."""
        return self.source, self.topic, self.kind

    @property
    def digest(self) -> str:
        """Hash of the text: a document that stands in the pool twice has the same."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Query:
    """One answer whose loss ranks the documents.

    Attributes:
        name: unlike that of any other query.
        domain: such as "medical".
        prompt: what stands before the answer.
        answer: the tokens that the loss is on, written right behind the prompt.
        key: the words that answer the question, as one would look for them in a document; "" where there are none.
        procedure: queries that need the same steps with other numbers share it; None where nothing is known.
    """

    name: str
    domain: str
    prompt: str
    answer: str
    key: str = ""
    procedure: str | None = None
