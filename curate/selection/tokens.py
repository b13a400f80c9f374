"""Choose tokens of the documents that filters have left: the best over all of them, and what a dump says of each.

Two passes over these documents, both in pool order. The first keeps the mean score and the number of tokens of every
unit: eight bytes of each, and about forty while the best are chosen; without smoothing a token is a unit. The second
writes the spans of the chosen ones.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.amounts import portion_of, portion_text
from curate.documents import Pool, documents
from curate.errors import CurateError
from curate.progress import Reporter, Task
from curate.schema import Document, Skipped, token_column
from curate.scores.run import Run
from curate.selection.funnel import NEARLY_ALL, Funnel, Stage, position
from curate.selection.labels import labelled, labels_of, overlapping, spans_of, stretches_of
from curate.selection.token_columns import IDS, LABELS, SPANS, TEXT, TokenFigures
from curate.selection.token_units import best, unit_scores, units_of

NAME = "tokens"
"""What the funnel, and the reason of documents without a chosen token, call it."""
_BATCH = 256  # documents that are encoded together


class Placed(Protocol):
    """A document's tokens, none cut off, with their places in the text that the tokenizer reads."""

    @property
    def text(self) -> str: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def scored(self) -> np.ndarray: ...
    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def special(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """How many tokens, by what, and how documents become tokens."""

    portion: int | float
    """A number of tokens, or a share of those that can be chosen."""
    smooth: str
    place: Callable[[Sequence[Document]], Iterable[Placed]]
    tokenizer: Any = None
    """Writes `input_ids` and `labels`; None: the proxy's, which the tokens are of."""
    tokenizer_address: str | None = None
    on_chats: str | None = None
    """A warning where a conversation is among the documents."""


def refuse_without_parts(run: Run, column: str, hint: str) -> None:
    """Raise CurateError where a run has no parts of a score column by token."""
    parts = run.all_parts()
    if parts and any(column not in part.schema.names for part in parts):
        raise CurateError(
            f"{run.address} has no scores per token (column {column}), which --unit token needs.", hint=hint
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """A document with the parts of its score."""

    document: Document
    placed: Placed
    stretches: np.ndarray
    units: np.ndarray
    scores: np.ndarray
    """Of each token as a label; of none of those that were cut off."""


@dataclass(kw_only=True)
class TokenChoice:
    """The best tokens of a pool's documents; `choose` them, then a dump asks for its columns."""

    request: TokenRequest
    run: Run
    pool: Pool
    column: str
    """The run's score column whose parts decide."""
    figures: TokenFigures | None = None
    _is_written_out: bool = False
    """Whether a document's text is not simply that of a column of the pool."""
    _positions: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of the documents with a chosen token, in pool order."""
    _chosen: list[np.ndarray] = field(default_factory=list)
    """Which units of each are chosen."""

    def choose(self, funnel: Funnel, reporter: Reporter) -> Stage:
        """Narrow the funnel to the documents with a chosen token, each with its number of them."""
        positions = funnel.kept_positions()
        with reporter.stage("tokens", total=len(positions), unit="documents") as task:
            scores, counts, firsts, lengths = self._units(funnel, positions, task, reporter)
        candidates = int(counts.sum(dtype=np.int64))
        wanted = portion_of(self.request.portion, candidates)
        if wanted > candidates:
            reporter.warn(f"{wanted:,} tokens are wanted; {candidates:,} can be chosen, and all are.")
        chosen = best(scores, counts, wanted)
        by_document = np.add.reduceat(np.append(chosen * counts, 0).astype(np.int64), firsts[:-1])
        by_document[firsts[1:] == firsts[:-1]] = 0  # of a document without units reduceat gives the next one's first
        kept = np.flatnonzero(by_document)
        self._positions = positions[kept]
        self._chosen = [chosen[firsts[i] : firsts[i + 1]] for i in kept]
        number = int(by_document.sum())
        if number < NEARLY_ALL * min(wanted, candidates):
            reporter.warn(
                f"{wanted:,} tokens are wanted; {number:,} are chosen: what is chosen together (smooth"
                f" {self.request.smooth}) is kept whole, and the next best does not fit."
            )
        self.figures = TokenFigures(
            candidates=candidates,
            chosen=number,
            text_column=TEXT if self._is_written_out else self.run.fields.text,
            tokenizer=self.request.tokenizer_address,
            carrying_loss=number,
            tokens=int(lengths[kept].sum()),
        )
        portion = self.request.portion
        size = {"tokens": portion} if isinstance(portion, int) else {"share": portion}
        asked = {**size, "smooth": self.request.smooth}
        return funnel.keep_tokens(
            NAME,
            self._positions,
            by_document[kept],
            values={**asked, "score": "score"},
            asked={k: portion_text(v) if k == "share" else v for k, v in asked.items() if v != "none"},
            ranked_by=token_column(self.column),
            dropped=candidates - number,
        )

    def _units(
        self, funnel: Funnel, positions: np.ndarray, task: Task, reporter: Reporter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return scores and counts of all units, the first unit of each document and the end, and its tokens."""
        scores, counts = [np.zeros(0, np.float32)], [np.zeros(0, np.int32)]
        firsts, lengths = np.zeros(len(positions) + 1, np.int64), np.zeros(len(positions), np.int64)
        number, has_chats = 0, False
        for number, read in enumerate(self._read(funnel, positions), 1):
            means, sizes = unit_scores(read.units, read.scores)
            scores.append(means)
            counts.append(sizes)
            firsts[number] = firsts[number - 1] + len(means)
            lengths[number - 1] = len(read.placed.ids)
            self._is_written_out |= read.document.text is None
            has_chats |= read.document.messages is not None
            task.advance(1)
        if has_chats and self.request.on_chats:
            reporter.warn(self.request.on_chats)
        if number != len(positions):
            raise AssertionError(f"{number} documents were read; expected {len(positions)}")
        return np.concatenate(scores), np.concatenate(counts), firsts, lengths

    @property
    def schema(self) -> pa.Schema:
        """The columns that a dump has beside the pool's and the scores."""
        tokens, spans = pa.list_(pa.int32()), pa.list_(pa.list_(pa.int64()))
        text = [(TEXT, pa.string())] if self._is_written_out else []
        return pa.schema([(SPANS, spans), *text, (IDS, tokens), (LABELS, tokens)])

    def rows(self, funnel: Funnel) -> Iterator[dict[str, Any]]:
        """Yield the columns of each document with a chosen token, in pool order, with its row's number as `row`.

        After the last one `figures` are those of what was yielded.
        """
        assert self.figures is not None
        carrying_loss, tokens = 0, 0
        for read, chosen in zip(self._read(funnel, self._positions), self._chosen, strict=True):
            is_chosen = np.append(chosen, False)[read.units]  # the unit -1 is none
            spans = spans_of(read.stretches, is_chosen)
            ids, labels = self._labelled(read, spans, is_chosen)
            carrying_loss += int(np.count_nonzero(np.asarray(labels) >= 0))
            tokens += len(ids)
            row = {"row": read.document.row, SPANS: spans, IDS: ids, LABELS: labels}
            yield row | ({TEXT: read.placed.text} if self._is_written_out else {})
        self.figures = replace(self.figures, carrying_loss=carrying_loss, tokens=tokens)

    def _labelled(self, read: _Read, spans: list[list[int]], is_chosen: np.ndarray) -> tuple[list[int], list[int]]:
        placed = read.placed
        if self.request.tokenizer is not None:
            return labelled(placed.text, spans, self.request.tokenizer, special=placed.special)
        carry_loss = overlapping(read.stretches, spans)
        carry_loss[:1] = False
        if not np.array_equal(carry_loss, is_chosen):
            raise AssertionError(f"{read.document.shard}, row {read.document.row}: spans hold other tokens than chosen")
        ids = placed.ids.tolist()
        return ids, labels_of(ids, carry_loss)

    def _read(self, funnel: Funnel, positions: np.ndarray) -> Iterator[_Read]:
        """Read documents of the pool, given by sorted positions, with the parts of their scores."""
        shards = {shard.name: shard for shard in self.pool.shards}
        name, stream = "", iter(())
        for scored in self._scored(funnel, positions):
            low = position(funnel.shard_numbers[scored.shard], 0)
            if scored.shard != name:
                name = scored.shard
                begin, end = np.searchsorted(positions, [low, position(1, low)])
                rows = (positions[begin:end] - low).tolist()
                stream = documents(shards[name], self.run.fields, only=rows)
            batch = scored.documents(stream, low)
            for number, placed in enumerate(self.request.place(batch)):
                yield self._with_units(batch[number], placed, scored, number)

    def _with_units(self, document: Document, placed: Placed, scored: "_Scored", number: int) -> _Read:
        parts = scored.parts[number]
        is_scored = placed.scored & (np.arange(len(placed.ids)) < len(parts))  # the rest was cut off
        if len(parts) > len(placed.ids) or is_scored.sum() != scored.counts[number]:
            raise CurateError(
                f"{document.shard}, row {document.row} has other tokens than when it was scored"
                f" ({is_scored.sum():,} of {len(placed.ids):,} carry loss; expected {scored.counts[number]:,} of the"
                f" first {len(parts):,}).",
                hint="The proxy's tokenizer or chat template has changed: put it back, or score anew.",
            )
        stretches = stretches_of(placed.offsets)
        return _Read(
            document=document,
            placed=placed,
            stretches=stretches,
            units=units_of(placed.text, stretches, is_scored, self.request.smooth),
            scores=parts,
        )

    def _scored(self, funnel: Funnel, positions: np.ndarray) -> Iterator["_Scored"]:
        """Yield what the run has of these documents, some of one shard at a time, in pool order."""
        by_token = token_column(self.column)
        columns = ["shard", "row", "content_hash", "n_tokens", by_token]
        for path, _ in self.run.rows_files() if len(positions) else ():
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH, columns=columns):
                    for name, piece in _by_shard(batch):
                        all_positions = position(funnel.shard_numbers[name], piece["row"].to_numpy())
                        places = np.minimum(np.searchsorted(positions, all_positions), len(positions) - 1)
                        is_wanted = positions[places] == all_positions
                        if is_wanted.any():
                            wanted = piece.filter(pa.array(is_wanted))
                            yield _Scored.of(name, all_positions[is_wanted], wanted, by_token)


@dataclass(frozen=True, slots=True)
class _Scored:
    """What a run has of some documents of one shard."""

    shard: str
    positions: np.ndarray
    hashes: list[str]
    counts: np.ndarray
    parts: list[np.ndarray]

    @classmethod
    def of(cls, name: str, positions: np.ndarray, rows: pa.RecordBatch, by_token: str) -> "_Scored":
        parts = [np.asarray(p.values, np.float32) for p in rows[by_token]]
        return cls(name, positions, rows["content_hash"].to_pylist(), rows["n_tokens"].to_numpy(), parts)

    def documents(self, stream: Iterator[Document | Skipped], first: int) -> list[Document]:
        """Take these documents from a stream of the shard's, whose row 0 has the position `first`.

        Raises CurateError for one that has changed since it was scored.
        """
        taken: list[Document] = []
        for place, digest in zip(self.positions.tolist(), self.hashes, strict=True):
            document = next(stream, None)
            if not isinstance(document, Document) or document.content_hash != digest:
                raise CurateError(
                    f"{self.shard}, row {place - first} is no longer as it was scored.",
                    hint="Give the pool as it was with --pool, or score the changed pool into another run.",
                )
            taken.append(document)
        return taken


def _by_shard(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield stretches of rows of one shard."""
    runs = pc.call_function("run_end_encode", [batch["shard"]])
    start = 0
    for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield name, batch.slice(start, end - start)
        start = end
