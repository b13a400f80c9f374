"""Draw documents that runs scored, by seed, from their parts, in bounded memory.

Every document has a key, a hash of its shard, row and the seed; a draw is those of the lowest keys. So a draw depends
on no order of reading, one of fewer documents is part of one of more, and several runs have a draw of what they share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from curate.documents import Fields, Pool, documents, refuse_changed
from curate.errors import CurateError
from curate.schema import Document
from curate.scores.run import Run

_SLACK = 1 << 16  # rows that are held beyond those of the lowest keys so far


@dataclass(frozen=True, kw_only=True)
class Places:
    """Documents by shard and row, in the order of the shards' names."""

    rows: dict[str, list[int]]
    """Sorted rows of each shard."""
    tokens: int
    """Scored tokens of all of them together, as the run counted them."""

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    def read(self, pool: Pool, fields: Fields) -> Iterator[Document]:
        """Yield the documents in the pool's order. Raises CurateError where the pool lacks one, or has changed."""
        for shard in pool.shards:
            if not (row_numbers := self.rows.get(shard.name)):
                continue
            num_read = 0
            for document in documents(shard, fields, only=row_numbers):
                if isinstance(document, Document):
                    num_read += 1
                    yield document
            refuse_changed(pool.digested(shard))
            if num_read < len(row_numbers):
                raise CurateError(f"{shard.name} has {num_read} of the {len(row_numbers)} scored rows.")


@dataclass
class _Held:
    """The candidates of the lowest keys so far."""

    keys: np.ndarray
    shards: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray

    def joined(self, other: "_Held") -> "_Held":
        return _Held(*(np.concatenate(pair) for pair in zip(self._columns(), other._columns(), strict=True)))

    def lowest(self, documents: int | None, tokens: int | None) -> "_Held":
        """Return the candidates of the lowest keys: `documents` of them, or enough for `tokens`."""
        order = np.lexsort((self.rows, self.shards, self.keys))
        count = len(order) if documents is None else min(documents, len(order))
        if tokens is not None:
            count = min(count, int(np.searchsorted(self.tokens[order].cumsum(), tokens)) + 1)
        return _Held(*(column[order[:count]] for column in self._columns()))

    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.keys, self.shards, self.rows, self.tokens


def draw(runs: Sequence[Run], seed: int, *, documents: int | None = None, tokens: int | None = None) -> Places:
    """Draw documents that all runs scored: `documents` of them, or enough for `tokens`; without either, all.

    Documents that hold a whole row of the target are left out, as a selection drops them, too.
    """
    held = _Held(np.zeros(0, np.uint64), *(np.zeros(0, np.int64) for _ in range(3)))
    names, num_kept = [p.shard for p in runs[0].all_parts() if p.index == 0], 0
    for index, shard in enumerate(names):
        rows, counts = _shared(runs, shard)
        keys = _keys(shard, rows, seed)
        held = held.joined(_Held(keys, np.full(len(rows), index), rows, counts))
        if len(held.keys) > 2 * num_kept + _SLACK:
            held = held.lowest(documents, tokens)
            num_kept = len(held.keys)
    held = held.lowest(documents, tokens)
    rows_by_shard = {names[i]: sorted(held.rows[held.shards == i].tolist()) for i in np.unique(held.shards)}
    return Places(rows=rows_by_shard, tokens=int(held.tokens.sum()))


def _shared(runs: Sequence[Run], shard: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one shard that every run scored, and their tokens by the first."""
    rows, counts = _scored(runs[0], shard)
    for other in runs[1:]:
        common = np.isin(rows, _scored(other, shard)[0])
        rows, counts = rows[common], counts[common]
    return rows, counts


def _scored(run: Run, shard: str) -> tuple[np.ndarray, np.ndarray]:
    rows, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in run.parts(shard):
        table = part.rows(["row", "n_tokens", "target_exact"])
        clean = ~table["target_exact"].to_numpy(zero_copy_only=False)
        rows.append(table["row"].to_numpy()[clean])
        counts.append(table["n_tokens"].to_numpy()[clean].astype(np.int64))
    return np.concatenate(rows), np.concatenate(counts)


def _keys(shard: str, rows: np.ndarray, seed: int) -> np.ndarray:
    """Hash rows (SplitMix64 of Steele et al. 2014 over the row and a hash of shard and seed)."""
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(xxhash.xxh3_64_intdigest(f"{seed}:{shard}".encode()))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
