"""Cutting shards into parts and encoding them, ahead of the scoring."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from curate.documents import Fields, Overlap, Pool, Shard, documents
from curate.errors import CurateError
from curate.folders.part_folder import PartFolder
from curate.proxies.tokens import Encoded, Encoder
from curate.schema import Document, Skipped

# A part ends early when its text reaches this size, so that memory stays bounded whatever the documents are.
PART_CHARACTERS = 16 << 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The rows of one part, ready to be scored."""

    shard: str
    shard_index: int
    index: int
    start: int
    end: int
    last: bool
    documents: list[Document]
    encoded: list[Encoded]
    overlaps: list[tuple[bool, float]]
    """Per document: holds a whole target row; largest share of one target row's n-grams."""
    skipped: list[Skipped]


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A shard that could not be read to its end; what was written of it stays."""

    shard: str
    error: CurateError


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Yields a pool's missing parts in order."""

    pool: Pool
    fields: Fields
    encoder: Encoder
    overlap: Overlap
    part_documents: int
    numbers: Mapping[str, int] | None = None
    """The shards' numbers by name, where they are not the pool's order."""

    def missing(self, folder: PartFolder) -> Iterator[Chunk | Unreadable]:
        """Yield every part that the folder does not have yet; finished shards are not even opened."""
        for place, shard in enumerate(self.pool.shards):
            shard_index = place if self.numbers is None else self.numbers[shard.name]
            done = folder.parts(shard.name)
            if done and done[-1].last:
                continue
            start = done[-1].end if done else 0
            try:
                yield from self._chunks(shard, shard_index, start=start, index=len(done))
            except CurateError as error:
                yield Unreadable(shard=shard.name, error=error)

    def _chunks(self, shard: Shard, shard_index: int, *, start: int, index: int) -> Iterator[Chunk]:
        rows: list[Document | Skipped] = []
        characters = 0
        for row in documents(shard, self.fields, start=start):
            if len(rows) >= self.part_documents or characters >= PART_CHARACTERS:
                # Only now is it known that the part before this row was not the shard's last.
                yield self.chunk_of(shard, shard_index, index, start, rows, last=False)
                start, index, rows, characters = rows[-1].row + 1, index + 1, [], 0
            rows.append(row)
            characters += len(row.plain_text) if isinstance(row, Document) else 0
        yield self.chunk_of(shard, shard_index, index, start, rows, last=True)

    def chunk_of(
        self, shard: Shard, shard_index: int, index: int, start: int, rows: list[Document | Skipped], *, last: bool
    ) -> Chunk:
        """Make a part of rows that were read: encode documents, measure overlaps, set aside what carries no loss."""
        found = [r for r in rows if isinstance(r, Document)]
        skipped = [r for r in rows if isinstance(r, Skipped)]
        encoded = self.encoder(found)
        kept = [i for i, e in enumerate(encoded) if e.num_scored > 0]
        skipped += [no_scored_token(d, e) for d, e in zip(found, encoded, strict=True) if not e.num_scored]
        return Chunk(
            shard=shard.name,
            shard_index=shard_index,
            index=index,
            start=start,
            end=rows[-1].row + 1 if rows else start,
            last=last,
            documents=[found[i] for i in kept],
            encoded=[encoded[i] for i in kept],
            overlaps=[self.overlap.measure(found[i].plain_text) for i in kept],
            skipped=sorted(skipped, key=lambda s: s.row),
        )


def no_scored_token(document: Document, encoded: Encoded) -> Skipped:
    """Say why a document carries no loss: one token, nothing but prompt within the context, or no chat template."""
    nothing = f"{len(encoded.ids)} token(s) within the context, none of them predicted and carrying loss"
    return Skipped(
        shard=document.shard,
        row=document.row,
        doc_id=document.doc_id,
        reason="chat template" if encoded.refused else "no scored token",
        detail=encoded.refused or nothing,
    )


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield items that a thread reads up to `depth` ahead, so that reading and computing overlap."""
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        yield from _received(waiting.get)
    finally:
        stopped.set()
        thread.join()


def _received(get: Callable[[], tuple[str, T | BaseException | None]]) -> Iterator[T]:
    while True:
        kind, value = get()
        if kind == "end":
            return
        if kind == "error":
            assert isinstance(value, BaseException)
            raise value
        yield value  # type: ignore[misc]
