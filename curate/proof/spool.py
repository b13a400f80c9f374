"""Documents as tokens on disk, to train on in any order without holding them.

ids.bin      int32, all documents one after the other
scored.bin   bool, aligned
lengths.npy  int64 [documents]
spool.json   counts of documents, tokens that carry loss and rows left out
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import xxhash

from curate.documents import Overlap
from curate.errors import CurateError
from curate.folders.codecs import JSON
from curate.folders.kept import kept_folder
from curate.folders.local_folder import LocalFolder
from curate.progress import Reporter
from curate.proof.masking import Masked
from curate.proxies.room import Room
from curate.proxies.tokens import Encoded, Encoder, TokenSettings
from curate.schema import Document
from curate.training.microbatches import Corpus

_AT_ONCE = 512  # documents that are encoded together
_RECORD = "spool.json"


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """Documents that no arm may train on: the rows that losses are reported on, and documents that hold one whole."""

    hashes: frozenset[str]
    overlap: Overlap

    def holds(self, document: Document) -> bool:
        return document.content_hash in self.hashes or self.overlap.measure(document.plain_text)[0]


class SpooledCorpus(Corpus):
    """A corpus whose documents lie in a spool; only their lengths are in memory."""

    def __init__(self, folder: Path, settings: TokenSettings, *, room: Room) -> None:
        lengths = np.load(folder / "lengths.npy")
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.documents = _Spooled(folder, self.starts)  # type: ignore[assignment]
        self.settings, self.room = settings, room
        marks = np.memmap(folder / "scored.bin", bool, "r")
        self.scored = np.add.reduceat(marks, self.starts[:-1], dtype=np.int64)


class _Spooled(Sequence[Encoded]):
    def __init__(self, folder: Path, starts: np.ndarray) -> None:
        self._ids = np.memmap(folder / "ids.bin", np.int32, "r")
        self._scored = np.memmap(folder / "scored.bin", bool, "r")
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | Sequence[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = slice(self._starts[index], self._starts[index + 1])
        return Encoded(ids=np.array(self._ids[place]), scored=np.array(self._scored[place]), truncated=False)


def spooled(
    folder: Path,
    documents: Callable[[], Iterable[Document | Masked]],
    encoder: Encoder,
    excluded: Excluded,
    *,
    what: str,
    reporter: Reporter,
) -> dict[str, int]:
    """Encode documents into a folder, which appears whole or not at all, unless it exists; return its counts.

    Raises CurateError where no document is left.
    """

    def fill(partial: Path) -> None:
        with reporter.stage(f"reading {what}") as task:
            counts = _write(partial, documents(), encoder, excluded, task.advance)
        if not counts["documents"]:
            raise CurateError(f"{what}: no document is left to train on; expected at least one.")
        JSON.write(counts, partial / _RECORD)

    return JSON.read(kept_folder(LocalFolder(folder.parent), folder.name, fill) / _RECORD)


def _write(
    folder: Path,
    documents: Iterable[Document | Masked],
    encoder: Encoder,
    excluded: Excluded,
    advance: Callable[[float], None],
) -> dict[str, int]:
    lengths: list[int] = []
    counts = {"documents": 0, "tokens": 0, "held_out": 0, "nothing_scored": 0}
    stream = iter(documents)
    with (folder / "ids.bin").open("wb") as ids, (folder / "scored.bin").open("wb") as scored:
        while block := list(islice(stream, _AT_ONCE)):
            included = [d for d in block if not excluded.holds(d.document if isinstance(d, Masked) else d)]
            counts["held_out"] += len(block) - len(included)
            for document in _encoded(included, encoder):
                if not document.num_scored:
                    counts["nothing_scored"] += 1
                    continue
                ids.write(np.ascontiguousarray(document.ids, np.int32).tobytes())
                scored.write(np.ascontiguousarray(document.scored, bool).tobytes())
                lengths.append(len(document.ids))
                counts["tokens"] += document.num_scored
            advance(len(block))
    counts["documents"] = len(lengths)
    np.save(folder / "lengths.npy", np.array(lengths, np.int64))
    return counts


def _encoded(documents: Sequence[Document | Masked], encoder: Encoder) -> Iterator[Encoded]:
    """Yield documents as tokens; plain ones are encoded together, which is faster."""
    plain = iter(encoder([d for d in documents if isinstance(d, Document)]))
    return (d.encoded(encoder) if isinstance(d, Masked) else next(plain) for d in documents)


def token_batches(scored: np.ndarray, *, tokens: int, steps: int, seed: int) -> list[tuple[int, ...]]:
    """Deal documents out to steps of equal tokens, to a document: one seeded permutation after the other.

    `scored` `[documents]` are their tokens; after step k, (k + 1) · tokens / steps have been dealt out.
    """
    stream, dealt, batches = _permutations(len(scored), seed), 0, []
    for step in range(steps):
        batch: list[int] = []
        while not batch or dealt * steps < (step + 1) * tokens:
            batch.append(next(stream))
            dealt += int(scored[batch[-1]])
        batches.append(tuple(batch))
    return batches


def _permutations(documents: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(documents).tolist()
        epoch += 1


def key_of(*parts: object) -> str:
    """Hash what decides something, for a file's name."""
    return xxhash.xxh3_64_hexdigest(repr(parts).encode())
