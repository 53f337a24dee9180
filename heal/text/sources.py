"""Text for healing: a held-out part that never moves, and packed rows to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heal.defaults import HELD_OUT_TOKENS
from heal.text.chats import LOSS_ON, ChatTemplate, check_answer
from heal.text.packing import ChatPacker, Row, pack
from heal.text.streams import Mixed, TextRows
from prune.common.checked import Checked
from prune.common.errors import TextError, UsageError
from prune.common.machine.processes import gather
from prune.text.chats import opening_question, questions
from prune.text.documents import Document, Documents, local_files, source_files
from prune.text.windows import SHORTEST, bos_id, encode, text_identity, texts_identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT_SHARE = 50  # one document in so many is held out
_COUNTED = 128 << 20  # bytes of local text that are counted before training, if they may be too few
_FEWEST = 64  # tokens that a held-out text has to be measured on
_PLENTY = 8  # bytes of text per token asked for: twice what English has


@dataclass(frozen=True)
class TextSource(Checked):
    """Where the text comes from.

    Attributes:
        source: a SOURCE as in `prune.text.documents`, or several, which are mixed in the shares of `mix`.
        held_out: text to measure on, or several; without it, one document in fifty of `source` is held out by its hash.
        held_out_tokens: how much of each such text is measured; `limit` is that number settled.
        domains: pairs of a name and a SOURCE that is measured besides, such as ("medical", "notes.jsonl").
        loss_on: of chats, "answers" or "all"; see `heal.text.chats`.
        mix: the share of each source in the rows that are trained on, summing to 1; equal if None.
    """

    source: str | tuple[str, ...]
    field: str = "text"
    held_out: str | tuple[str, ...] | None = None
    held_out_tokens: int | None = None
    domains: tuple[tuple[str, str], ...] = ()
    loss_on: str = "answers"
    mix: tuple[float, ...] | None = None

    def check(self) -> None:
        """Raise UsageError for what is wrong in itself: no text, a `loss_on`, a `mix`, a number of tokens."""
        if self.loss_on not in LOSS_ON:
            raise UsageError(f"--loss-on {self.loss_on} is unknown; use {', '.join(LOSS_ON)}")
        if not self.sources or not self.measured:
            raise UsageError(f"{'--held-out' if self.sources else '--text'} names no text; give one source at least")
        if self.held_out_tokens is not None and self.held_out_tokens < 1:
            raise UsageError(f"--held-out-tokens {self.held_out_tokens}: use 1 or more")
        if self.mix is None:
            return
        count, written = len(self.sources), ",".join(f"{share:g}" for share in self.mix)
        if len(self.mix) != count:
            raise UsageError(f"--mix {written}: shares of {len(self.mix)} texts, and there are {count}; one a --text")
        if not all(0 < share <= 1 for share in self.mix):
            raise UsageError(f"--mix {written}: a share is above 0, and 1 at most; leave out a --text that is not read")
        if abs(sum(self.mix) - 1) > 1e-6:
            raise UsageError(f"--mix {written}: the shares sum to {sum(self.mix):g}, not to 1")

    @property
    def limit(self) -> int:
        """Tokens of each held-out text that are measured at most."""
        return HELD_OUT_TOKENS if self.held_out_tokens is None else self.held_out_tokens

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def measured(self) -> tuple[str, ...]:
        """The sources that held-out loss is measured on."""
        if self.held_out is None:
            return self.sources
        return (self.held_out,) if isinstance(self.held_out, str) else self.held_out

    @property
    def files_read(self) -> tuple[Path, ...]:
        """The files of this machine that are trained or measured on."""
        return local_files([*self.sources, *self.measured, *(source for _, source in self.domains)])

    def identity(self) -> dict[str, Any]:
        """What provenance records: `text`, and where they were named `held_out`, `domain_texts`, and what differs from
        the usual `loss_on` and `mix`.
        """
        identity: dict[str, Any] = {"text": texts_identity(self.sources, self.field)}
        if self.held_out is not None:
            identity["held_out"] = texts_identity(self.measured, self.field)
        if self.domains:
            identity["domain_texts"] = {name: text_identity(source, self.field) for name, source in self.domains}
        if self.loss_on != "answers":
            identity["loss_on"] = self.loss_on
        if self.mix is not None:
            identity["mix"] = list(self.mix)
        return identity


@dataclass(frozen=True)
class MeasuredRows:
    """Packed rows of one text to measure on. `domain`: measured besides, and no part of the held-out loss."""

    name: str
    source: str
    domain: bool
    rows: list[Row]

    @property
    def targets(self) -> int:
        """How many tokens are predicted."""
        return sum(row.targets for row in self.rows)


@dataclass(frozen=True)
class HeldOut:
    """Texts to measure on, and the hashes of the documents in them, which are never trained on."""

    texts: tuple[MeasuredRows, ...]
    digests: frozenset[bytes]

    @cached_property
    def rows(self) -> list[Row]:
        """The rows that the held-out loss is measured on."""
        return [row for text in self.texts if not text.domain for row in text.rows]

    @cached_property
    def sha256(self) -> str:
        """Hash of those rows: what tells a later reader of the text whether it has the same."""
        digest = hashlib.sha256()
        for row in self.rows:
            for part in (row.tokens, row.positions, row.labels):
                digest.update(np.asarray(part, dtype=np.int32).tobytes() + b"\0")
        return digest.hexdigest()

    def holds(self, text: str) -> bool:
        return _digest(text) in self.digests

    def measures(self, document: Document) -> bool:
        """Whether a document is measured; of a chat, whether one that opens with the same question is."""
        return self.holds(document.text) or self.holds(_known_by(document))

    def to_json(self) -> dict[str, Any]:
        texts = [
            {
                "name": text.name,
                "source": text.source,
                "domain": text.domain,
                "rows": [[part.tolist() for part in (row.tokens, row.positions, row.labels)] for row in text.rows],
            }
            for text in self.texts
        ]
        return {"texts": texts, "digests": sorted(digest.hex() for digest in self.digests)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> HeldOut:
        texts = tuple(
            MeasuredRows(
                text["name"],
                text["source"],
                text["domain"],
                [Row(*(np.asarray(part, dtype=np.int32) for part in row)) for row in text["rows"]],
            )
            for text in document["texts"]
        )
        return cls(texts, frozenset(bytes.fromhex(digest) for digest in document["digests"]))


def hold_out(text: TextSource, tokenizer: PreTrainedTokenizerBase, *, length: int) -> HeldOut:
    """Rows to measure on: the first held-out documents in source order, whatever the budget and the seed.

    Only text is predicted: documents get a BOS (where the tokenizer has one) and no EOS, so that the loss tells
    nothing about learning to end. It depends on `length`, which bounds what a prediction sees. Of chats, the
    tokens that bear loss are predicted, the one that ends an answer too; each stands in one row, cut at its end.

    Raises:
        TextError: under 64 tokens of a held-out text; of chats, under 64 that are predicted.
        UsageError: two of the texts have one name.
    """
    names = _names(text.measured)
    plans = [(name, source, False) for name, source in zip(names, text.measured, strict=True)]
    plans += [(name, source, True) for name, source in text.domains]
    called = [name for name, _, _ in plans]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two texts would be measured as {twice!r}; give the --domain-text another name")
    texts: list[MeasuredRows] = []
    digests: set[bytes] = set()
    for name, source, domain in plans:
        reader = Documents(source, text.field, chats=True)
        documents: Iterator[Document] = reader
        if text.held_out is None and not domain:
            documents = (document for document in reader if is_held_out(_known_by(document)))
        first = next(documents, None)
        documents = chain([] if first is None else [first], documents)
        if reader.chats:
            rows, count = _chat_rows(documents, text, tokenizer, length, digests)
        else:
            rows, count = _prose_rows(documents, text, tokenizer, length, digests)
        if count < _FEWEST:
            share = text.held_out is None and not domain
            where = f"the held-out part of {source} (one document in {HELD_OUT_SHARE})" if share else source
            what = f" that count in the loss in rows of {length}: raise --length, or" if reader.chats else ";"
            raise TextError(f"{where} has only {count} tokens{what} give other text with --held-out")
        texts.append(MeasuredRows(name, source, domain, rows))
    return HeldOut(tuple(texts), frozenset(digests))


def _prose_rows(
    documents: Iterable[Document],
    text: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    digests: set[bytes],
) -> tuple[list[Row], int]:
    """Rows to measure on, and how many tokens of text they hold; what is read is added to `digests`."""
    ids: list[list[int]] = []
    count = 0
    for document in documents:
        tokens = encode(tokenizer, document.text)[: text.limit - count]
        if len(tokens) >= SHORTEST:
            ids.append(tokens)
            digests.add(_digest(document.text))
            count += len(tokens)
        if count >= text.limit:
            break
    return list(pack(ids, length, bos=bos_id(tokenizer), eos=None, keep_last=True)), count


def _chat_rows(
    documents: Iterable[Document],
    text: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    digests: set[bytes],
) -> tuple[list[Row], int]:
    """Rows to measure on, and how many tokens bear loss; chats and their questions are added to `digests`."""
    template, packer = ChatTemplate(tokenizer, loss_on=text.loss_on), ChatPacker(length, once=True)
    rows: list[Row] = []
    count = bearing = 0
    for document in documents:
        check_answer(document, text.loss_on)
        chat = template.render(document.text)
        packer.add(chat.ids, chat.bears)
        while (row := packer.take()) is not None:
            rows.append(row)
        digests.update(map(_digest, (document.text, *questions(document.text))))
        count += len(chat.ids[:length])
        bearing += sum(chat.bears[:length])
        if count >= text.limit and bearing >= _FEWEST:
            break
    if (row := packer.last(partly=True)) is not None:
        rows.append(row)
    return rows, sum(row.targets for row in rows)


def trainable(text: TextSource, held_out: HeldOut) -> Callable[[Document], bool]:
    """Whether a document of `text` may be trained on: it is not measured, nor one of the part that is held out."""
    share = text.held_out is None  # then the whole share is kept apart, measured or not: a larger one stays clean

    def wanted(document: Document) -> bool:
        return not (share and is_held_out(_known_by(document))) and not held_out.measures(document)

    return wanted


def row_stream(
    text: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut,
    *,
    length: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
    state: dict[str, Any] | None = None,
) -> Mixed:
    """Packed rows of the documents that are not held out, shuffled by `seed`, from the start or from a `state`.

    Args:
        share: the number of this process, and how many share the documents; see `TextRows`.
    """
    wanted = trainable(text, held_out)
    streams = [
        TextRows(
            source,
            text.field,
            tokenizer,
            length=length,
            seed=[seed, index] if index else seed,
            wanted=wanted,
            loss_on=text.loss_on,
            share=share,
            state=state["streams"][index] if state else None,
        )
        for index, source in enumerate(text.sources)
    ]
    return Mixed(streams, shares=text.mix, state=state)


def check_enough(
    text: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut,
    *,
    rows: int,
    length: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Refuse text that is too short where that is cheap to know: small local files, and chats, are counted.

    Args:
        rows: of all processes together.
        share: see `row_stream`. Each process counts its own rows, and all must call this.

    Raises:
        TextError: the text ends before `rows` rows; in every process.
    """
    if any(source.startswith("hub:") for source in text.sources):
        return
    paths = [path for source in text.sources for path in source_files(source)]
    size = sum(path.stat().st_size for path in paths)
    # a file's size says nothing about its text where it is compressed, has other columns, or holds chats, which are cut
    chats = any(next(Documents(source, text.field, chats=True)).chat for source in text.sources)
    told = not chats and not any(path.suffix in (".gz", ".parquet") for path in paths)
    if size > _COUNTED or (size > _PLENTY * rows * length and told):
        return
    stream = row_stream(text, tokenizer, held_out, length=length, seed=seed, share=share)
    # The process whose documents end first ends the run.
    count = min(gather(sum(1 for _ in islice(stream, rows // share[1])))) * share[1]
    if count < rows:
        passed = stream.counts.get("passed_over", 0)
        why = f" ({passed} chats are passed over: their answers begin behind a row of {length})" if passed else ""
        less = f", or ask for --tokens {count * length} or fewer" if count else ""
        raise TextError(
            f"{' and '.join(text.sources)} ends after {count * length} of the {rows * length} tokens asked for{why}; "
            f"add text{less}"
        )


def _names(sources: tuple[str, ...]) -> list[str]:
    """A short name for each source: a file's without its suffix, a hub repository's."""
    short = [s.split(":")[1] if s.startswith("hub:") else Path(s).name.split(".")[0] or s for s in sources]
    return [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]


def _known_by(document: Document) -> str:
    """The words that decide on which side a document stands: a question stays there with all of its answers."""
    return opening_question(document.text) if document.chat else document.text


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the held-out part: a matter of its words alone, so it never moves."""
    return int.from_bytes(_digest(text)[:8]) % HELD_OUT_SHARE == 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).digest()
