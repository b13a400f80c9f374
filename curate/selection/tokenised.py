"""Documents as rows of tokens: which of them carry loss, and rows of one length.

A tokenizer needs transformers, which this room never imports: who selects gives it, as `TokenView.encode`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa

from curate.errors import CurateError
from curate.schema import Document
from curate.selection.labels import NO_LOSS

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("attention_mask", pa.list_(pa.int8())),  # of ones: some trainers take rows for tokens by this column alone
        ("labels", pa.list_(pa.int32())),
    ]
)
Row = tuple[np.ndarray, np.ndarray]
"""Ids and labels, int32 `[tokens]`."""
_TABLE_TOKENS, _TABLE_ROWS, _ENCODED_TOGETHER = 1 << 20, 16_384, 128


class Encoding(Protocol):
    """A document as tokens, as a tokenizer's reader gives it."""

    @property
    def ids(self) -> np.ndarray: ...
    @property
    def scored(self) -> np.ndarray:
        """Which tokens carry loss."""
        ...

    @property
    def refused(self) -> str:
        """Why the chat template refuses the document, which then has no tokens."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """How a selection is written as tokens."""

    tokenizer: str
    """Its address."""
    fingerprint: str
    """A hash of its vocabulary and chat template."""
    encode: Callable[[Sequence[Document]], Sequence[Encoding]]
    """Encodes whole documents."""
    vocabulary: int
    """The tokenizer's tokens: every id is below it."""
    end: int | None
    """The token that ends a document; None where the tokenizer has none."""
    pack: int | None = None
    """Tokens of a row into which documents are joined; None: a document is a row."""

    def record(self) -> dict[str, Any]:
        """Return what decides the tokens, for the manifest."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "encode"}

    def end_mark(self) -> int:
        """Return the token that ends a document. Raises CurateError where there is none."""
        if self.end is None:
            raise CurateError(
                f"The tokenizer {self.tokenizer} has neither an eos nor a sep token to separate documents with.",
                hint="Set eos_token in its tokenizer_config.json.",
            )
        return self.end


@dataclass(slots=True, kw_only=True)
class TokenCount:
    """What the rows of tokens hold, and what they were made of."""

    documents: int = 0
    tokens: int = 0
    """With the marks of documents' ends."""
    loss_tokens: int = 0
    """Tokens that carry loss; the first of a document never does, as nothing predicts it."""
    rows: int = 0
    longest: int = 0
    """Tokens of the longest row."""
    end_marks: int = 0
    """Tokens that were added to end documents, of which those carry loss whose document's last token does."""
    without_loss: int = 0
    """Documents that are left out as none of their tokens carries loss."""
    refused: int = 0
    """Documents that are left out as the chat template refuses them."""
    dropped_tokens: int = 0
    """Tokens of packed rows that are left out as none of a row's tokens carries loss."""
    reason: str = ""
    """Why the template refuses the first of them."""

    def add(self, other: "TokenCount") -> None:
        """Add the count of further documents, none of which is a row yet."""
        self.documents += other.documents
        self.without_loss += other.without_loss
        self.refused += other.refused
        self.reason = self.reason or other.reason

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was left out, for people."""
        told = {
            f"{self.refused:,} documents are left out: the chat template refuses them ({self.reason}).": self.refused,
            f"{self.without_loss:,} documents are left out: none of their tokens carries loss.": self.without_loss,
            f"{self.dropped_tokens:,} tokens are left out: no token of their rows carries loss.": self.dropped_tokens,
        }
        return tuple(sentence for sentence, number in told.items() if number)


def masked(documents: Iterable[Document], view: TokenView, count: TokenCount) -> Iterator[Row]:
    """Yield every document with a token that carries loss as ids and labels; count the others."""
    for batch in _batches(documents):
        for encoding in view.encode(batch):
            if encoding.refused:
                count.refused += 1
                count.reason = count.reason or encoding.refused
            elif not encoding.scored.any():
                count.without_loss += 1
            else:
                count.documents += 1
                ids = encoding.ids.astype(np.int32)
                yield ids, np.where(encoding.scored, ids, np.int32(NO_LOSS))


def ended(rows: Iterable[Row], end: int, count: TokenCount) -> Iterator[Row]:
    """Add the token that ends a document where it is not there; it carries loss where the last token does."""
    for ids, labels in rows:
        if ids[-1] == end:
            yield ids, labels
            continue
        count.end_marks += 1
        label = end if labels[-1] != NO_LOSS else NO_LOSS
        yield np.append(ids, np.int32(end)), np.append(labels, np.int32(label))


def packed(rows: Iterable[Row], length: int) -> Iterator[Row]:
    """Join rows and cut them to a length, in order; the last one may be shorter."""
    held: list[Row] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row[0])
        if size >= length:
            ids, labels = _joined(held)
            whole = size // length * length
            yield from ((ids[i : i + length], labels[i : i + length]) for i in range(0, whole, length))
            held, size = [(ids[whole:], labels[whole:])], size - whole
    if size:
        yield _joined(held)


def with_loss(rows: Iterable[Row], count: TokenCount) -> Iterator[Row]:
    """Yield the rows of which a token carries loss: a mean over none is no number. Count them, and the others."""
    for ids, labels in rows:
        carrying = int((labels != NO_LOSS).sum())
        if not carrying:
            count.dropped_tokens += len(ids)
            continue
        count.rows += 1
        count.longest = max(count.longest, len(ids))
        count.tokens += len(ids)
        count.loss_tokens += carrying
        yield ids, labels


def tables(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Yield rows as tables of about a million tokens."""
    held: list[Row] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row[0])
        if size >= _TABLE_TOKENS or len(held) >= _TABLE_ROWS:
            yield _table(held)
            held, size = [], 0
    if held:
        yield _table(held)


def as_lines(table: pa.Table) -> pa.Table:
    """Return a table of rows as lines of JSON, in the column that `formats` writes."""
    return pa.table({"line": pa.array([orjson.dumps(row) for row in table.to_pylist()], pa.large_binary())})


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    stream = iter(documents)
    return iter(lambda: list(islice(stream, _ENCODED_TOGETHER)), [])


def _joined(rows: Sequence[Row]) -> Row:
    return np.concatenate([ids for ids, _ in rows]), np.concatenate([labels for _, labels in rows])


def _table(rows: Sequence[Row]) -> pa.Table:
    ids, labels = _joined(rows)
    offsets = pa.array(np.cumsum([0, *(len(r) for r, _ in rows)]), pa.int32())
    columns = (ids, np.ones(len(ids), np.int8), labels)
    return pa.Table.from_arrays([pa.ListArray.from_arrays(offsets, pa.array(c)) for c in columns], schema=SCHEMA)
