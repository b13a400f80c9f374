"""Decontamination: does a document hold a target row, or most of one?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import xxhash

from curate.documents.folding import folded_block, is_unspaced, words
from curate.documents.hashed_words import blocks, letters_of, words_of

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_INVERSE = pow(_MULTIPLIER, -1, 2**64)
_HEAD = 5
"""Of runs of so many words or more, the first words tell whether a place in a text is looked at."""
_MIN_WORDS = 5
_MIN_CHARS = 20


@dataclass(frozen=True, kw_only=True)
class _Screen:
    """Runs of several lengths, told by their first words."""

    head: int
    """How many words they are told by."""
    heads: np.ndarray
    """bool by a hash's first bits: whether any run begins so."""
    runs: Mapping[int, np.ndarray]
    """Their hashes, sorted, by length."""


class Overlap:
    """Measures documents against the rows of a target by runs of n words (13: Brown et al. 2020, appendix C).

    A row shorter than n words counts as one run of its own length if it is long enough to mean something:
    five words (two unspaced characters count as one) or twenty characters. Shorter rows are not looked for.
    """

    def __init__(self, targets: Iterable[str], *, n: int = 13) -> None:
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1.")
        self.n = n
        rows = list({tuple(w): None for t in targets if _is_telling(w := words(t))})
        self._ids = {word: i for i, word in enumerate(sorted({w for row in rows for w in row}), start=1)}
        # Words the target does not hold get id 0 and code 0; a run with one of them matches by hash collision
        # only.
        self._codes = np.array([0, *(xxhash.xxh3_64_intdigest(w.encode()) for w in self._ids)], dtype=np.uint64)
        self._rows = [self._encode(row) for row in rows]
        self._powers = _powers(_MULTIPLIER, 1 << 12)
        self._inverses = _powers(_INVERSE, 1 << 12)
        self._index()
        self._screens = self._screened(rows)

    def _index(self) -> None:
        """Lay out distinct runs, sorted, with the rows that hold each, as one table per run length."""
        runs, owners = [], []
        self._lengths = sorted({min(self.n, len(row)) for row in self._rows})
        for i, row in enumerate(self._rows):
            distinct = np.unique(self._hash_runs(row, min(self.n, len(row))))
            runs.append(distinct)
            owners.append(np.full(len(distinct), i))
        self._sizes = np.array([len(r) for r in runs], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, np.uint64), *runs])
        order = np.argsort(flat, kind="stable")
        self._owners = np.concatenate([np.zeros(0, np.int64), *owners])[order]
        self._runs, self._starts = np.unique(flat[order], return_index=True)
        self._ends = np.append(self._starts[1:], len(flat)).astype(np.int64)
        # A table with 64 cells per run dismisses nearly every run of a clean document by one look.
        bits = min(27, max(16, (64 * max(1, len(self._runs)) - 1).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=np.bool_)
        self._table[self._runs >> self._shift] = True

    def measure(self, text: str) -> tuple[bool, float]:
        """Return (whether a whole row is in the text, the largest share of one row's runs that are in it).

        Case, white space and punctuation aside; the first is true only for one contiguous run of words.
        """
        if not self._rows:
            return False, 0.0
        ids = self._encode(words(text))
        if _longest_shared(ids) < self._lengths[0]:
            return False, 0.0
        run_indices = self._runs_in(ids)
        if not len(run_indices):
            return False, 0.0
        owners = np.concatenate([self._owners[self._starts[i] : self._ends[i]] for i in run_indices])
        counts = np.bincount(owners, minlength=len(self._rows))
        shares = counts / self._sizes
        complete_rows = np.flatnonzero(counts == self._sizes)
        return any(_contains(ids, self._rows[i]) for i in complete_rows), float(shares.max())

    def measure_all(self, texts: Sequence[str]) -> list[tuple[bool, float]]:
        """Measure many texts; those that share no run with the target are told by a look at all of them at once."""
        if not self._rows:
            return [(False, 0.0)] * len(texts)
        suspects = self._suspects([text.encode("utf-8", "surrogatepass") for text in texts])
        return [self.measure(text) if is_one else (False, 0.0) for text, is_one in zip(texts, suspects, strict=True)]

    def _screened(self, rows: Sequence[Sequence[str]]) -> "list[_Screen]":
        """Return screens for the runs of all rows: one for those of _HEAD words or more, one for each length below."""
        by_length: dict[int, list[np.ndarray]] = {}
        for row in rows:
            codes, _ = words_of(letters_of([" ".join(row).encode("utf-8", "surrogatepass")]))
            by_length.setdefault(min(self.n, len(row)), []).append(codes)
        shortest = min((length for length in by_length if length >= _HEAD), default=0)
        by_head: dict[int, dict[int, list[np.ndarray]]] = {}
        for length, of_length in by_length.items():
            by_head.setdefault(shortest if length >= _HEAD else length, {})[length] = of_length
        return [self._screen(head, of_head) for head, of_head in by_head.items()]

    def _screen(self, head: int, by_length: Mapping[int, Sequence[np.ndarray]]) -> "_Screen":
        heads, runs = np.zeros(1 << 64 - int(self._shift), np.bool_), {}
        for length, of_length in by_length.items():
            sums = [self._sums(codes) for codes in of_length]
            for of_row in sums:
                heads[self._hash_all(of_row, head)[: len(of_row) - length] >> self._shift] = True
            runs[length] = np.unique(np.concatenate([self._hash_all(of_row, length) for of_row in sums]))
        return _Screen(head=head, heads=heads, runs=runs)

    def _suspects(self, texts: Sequence[bytes]) -> np.ndarray:
        """Return which texts may share a run with the target; no other does."""
        by_block: list[np.ndarray] = [np.zeros(0, np.bool_)]
        for block in blocks(texts):
            folded, ends = folded_block(block)
            codes, starts = words_of(letters_of([folded]))
            sums = self._sums(codes)
            hits = [place for screen in self._screens for place in self._hits(screen, sums)]
            suspected = np.zeros(len(block), np.bool_)
            suspected[np.searchsorted(ends, starts[np.concatenate([np.zeros(0, np.int64), *hits])], "right")] = True
            by_block.append(suspected)
        return np.concatenate(by_block)

    def _hits(self, screen: "_Screen", sums: np.ndarray) -> Iterator[np.ndarray]:
        """Yield where runs of the target begin, by a text's prefix sums."""
        cells = (self._hash_all(sums, screen.head) >> self._shift).view(np.int64)
        starts = np.flatnonzero(screen.heads.take(cells, mode="clip"))  # twice as fast as looking for cells beyond it
        for length, runs in screen.runs.items():
            within = starts[starts + length < len(sums)]
            hashes = (sums[within + length] - sums[within]) * self._inverses[within]
            at = np.minimum(np.searchsorted(runs, hashes), len(runs) - 1)
            yield within[runs[at] == hashes]

    def _encode(self, parts: Sequence[str]) -> np.ndarray:
        return np.fromiter(map(self._ids.get, parts, repeat(0)), dtype=np.uint32, count=len(parts))

    def _runs_in(self, ids: np.ndarray) -> np.ndarray:
        """Return the indices of the target's distinct runs that a document holds."""
        hits = []
        for length in self._lengths:
            if length > len(ids):
                break
            hashes = self._hash_runs(ids, length)
            hits.append(hashes[self._table[hashes >> self._shift]])
        candidates = np.unique(np.concatenate(hits)) if hits else np.zeros(0, np.uint64)
        if not len(candidates):
            return np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self._runs, candidates), len(self._runs) - 1)
        return at[self._runs[at] == candidates]

    def _hash_runs(self, ids: np.ndarray, length: int) -> np.ndarray:
        """Hash every run of `length` words."""
        return self._hash_all(self._sums(self._codes[ids]), length)

    def _sums(self, codes: np.ndarray) -> np.ndarray:
        """Return the prefix sums of code_i · m^i, from 0 on."""
        if len(codes) + 1 > len(self._powers):
            self._inverses = _powers(_INVERSE, 2 * len(codes))
            self._powers = _powers(_MULTIPLIER, 2 * len(codes))
        sums = np.empty(len(codes) + 1, dtype=np.uint64)
        sums[0] = 0
        np.cumsum(codes * self._powers[: len(codes)], out=sums[1:])
        return sums

    def _hash_all(self, sums: np.ndarray, length: int) -> np.ndarray:
        """Hash every run of `length` codes by their prefix sums: differences, times m^-start."""
        count = max(0, len(sums) - length)
        return (sums[length:] - sums[:count]) * self._inverses[:count]


def _powers(base: int, count: int) -> np.ndarray:
    powers = np.full(count, base, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _is_telling(parts: list[str]) -> bool:
    unspaced = sum(1 for w in parts if is_unspaced(w))
    spaced = len(parts) - unspaced
    return spaced + unspaced // 2 >= _MIN_WORDS or len(" ".join(parts)) >= _MIN_CHARS + unspaced


def _longest_shared(ids: np.ndarray) -> int:
    """Return the longest stretch of words that the target holds, too; in few documents it is as long as a run."""
    unknown = np.flatnonzero(ids == 0)
    if not len(unknown):
        return len(ids)
    gaps = unknown[1:] - unknown[:-1]
    return int(max(unknown[0], len(ids) - unknown[-1] - 1, gaps.max(initial=1) - 1))


def _contains(ids: np.ndarray, row: np.ndarray) -> bool:
    """Return whether the row's words stand in the document side by side."""
    haystack, needle, width = ids.tobytes(), row.tobytes(), ids.itemsize
    at = haystack.find(needle)
    while at >= 0:
        if at % width == 0:
            return True
        at = haystack.find(needle, at + 1)
    return False
