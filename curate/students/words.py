"""Hashed words and runs of four bytes: read from the text itself, without a model.

Every one of them falls into one of FEATURES cells by its hash; a document is the square roots of its cells' counts,
brought to norm 1. A linear model of cells that hold many things is nearly as good as one of the things themselves
(Weinberger et al. 2009, arXiv 0902.2206), and a document's cells stay in the processor's cache. Pairs of words make it
worse: they fill the cells.
"""

from collections.abc import Sequence

import numpy as np

from curate.documents.hashed_words import MULTIPLIER, PADDING, blocks, letters_of, words_of
from curate.students.contract import Inputs, Reader

BITS = 11
FEATURES = 1 << BITS
MOST_CHARACTERS = 1 << 20
"""Of a document; what comes after them is not read."""


def read(inputs: Inputs) -> Reader:
    """Return what counts in texts; nothing of the inputs is needed."""
    return features


def features(texts: Sequence[str]) -> np.ndarray:
    """Return float32 `[texts, FEATURES]` of rows of norm 1."""
    values = np.empty((len(texts), FEATURES), np.float32)
    begin = 0
    for block in blocks([text[:MOST_CHARACTERS].encode("utf-8", "surrogatepass") for text in texts]):
        counts = values[begin : begin + len(block)]
        counts[:] = _counts(block)
        np.sqrt(counts, out=counts)
        counts /= np.sqrt(np.maximum(np.einsum("tf,tf->t", counts, counts), 1))[:, None]
        begin += len(block)
    return values


def _counts(block: Sequence[bytes]) -> np.ndarray:
    """Return int64 `[texts, FEATURES]`: how many things of each text fall into each cell."""
    letters = letters_of(block)
    # What begins in padding falls into a row of its own, behind those of the texts.
    lengths = [length for text in block for length in (len(text), len(PADDING))]
    offsets = np.array([row * FEATURES for text in range(len(block)) for row in (text, len(block))], np.uint32)
    rows = np.repeat(offsets, lengths)
    words, starts = words_of(letters)
    cells = np.empty(len(rows) + len(words), np.int64)
    runs = np.ndarray(len(rows), "<u4", letters, strides=(1,)) * np.uint32(MULTIPLIER >> 32)
    runs >>= np.uint32(32 - BITS)
    np.add(runs, rows, out=cells[: len(rows)])
    np.add(_cells(words), rows[starts], out=cells[len(rows) :])
    counts = np.bincount(cells, minlength=(len(block) + 1) * FEATURES).reshape(-1, FEATURES)
    return counts[: len(block)]


def _cells(things: np.ndarray) -> np.ndarray:
    mixed = (things ^ (things >> np.uint64(29))) * np.uint64(MULTIPLIER)
    return (mixed >> np.uint64(64 - BITS)).astype(np.uint32)
