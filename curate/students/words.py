"""Hashed words and runs of four bytes: read from the text itself, without a model.

Every one of them falls into one of FEATURES cells by its hash; a document is the square roots of its cells' counts,
brought to norm 1. A linear model of cells that hold many things is nearly as good as one of the things themselves
(Weinberger et al. 2009, arXiv 0902.2206), and a document's cells stay in the processor's cache. Pairs of words make it
worse: they fill the cells.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from curate.students.contract import Inputs, Reader

BITS = 11
FEATURES = 1 << BITS
MOST_CHARACTERS = 1 << 20
"""Of a document; what comes after them is not read."""
_BLOCK_BYTES, _BLOCK_TEXTS = 1 << 18, 64  # worked on together: as much as stays in the cache
_PADDING = b"\0" * 4  # behind texts, so that no run reaches from one into another
_TAIL = b"\0" * 7  # behind the last, so that eight bytes can be read anywhere
_MULTIPLIER = 0x9E3779B97F4A7C15
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += 32
_IN_WORDS = np.array([chr(b).isalnum() or b == ord("_") or b >= 128 for b in range(256)])
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


def read(inputs: Inputs) -> Reader:
    """Return what counts in texts; nothing of the inputs is needed."""
    return features


def features(texts: Sequence[str]) -> np.ndarray:
    """Return float32 `[texts, FEATURES]` of rows of norm 1."""
    values = np.empty((len(texts), FEATURES), np.float32)
    begin = 0
    for block in _blocks(texts):
        counts = values[begin : begin + len(block)]
        np.sqrt(_counts(block), out=counts)
        counts /= np.sqrt(np.maximum(np.einsum("tf,tf->t", counts, counts), 1))[:, None]
        begin += len(block)
    return values


def _blocks(texts: Sequence[str]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for text in texts:
        encoded = text[:MOST_CHARACTERS].encode("utf-8", "surrogatepass")
        if block and (size + len(encoded) > _BLOCK_BYTES or len(block) == _BLOCK_TEXTS):
            yield block
            block, size = [], 0
        block.append(encoded)
        size += len(encoded)
    if block:
        yield block


def _counts(block: Sequence[bytes]) -> np.ndarray:
    """Return float32 `[texts, FEATURES]`: how many things of each text fall into each cell."""
    letters = _LOWER[np.frombuffer(_PADDING.join((*block, _TAIL)), np.uint8)]
    # What begins in padding falls into a row of its own, behind those of the texts.
    lengths = [length for text in block for length in (len(text), len(_PADDING))]
    rows = np.repeat([row * FEATURES for text in range(len(block)) for row in (text, len(block))], lengths)
    runs = np.ndarray(len(rows), "<u4", letters, strides=(1,)).astype(np.uint32)
    of_runs = (runs * np.uint32(_MULTIPLIER >> 32) >> np.uint32(32 - BITS)) + rows
    words, starts = _words(letters)
    cells = np.concatenate([of_runs, _cells(words) + rows[starts]])
    counts = np.bincount(cells, minlength=(len(block) + 1) * FEATURES).reshape(-1, FEATURES)
    return counts[: len(block)].astype(np.float32)


def _words(letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every word as a number, and where it starts. Words of one length that begin with the same 8 bytes are one.

    Words are stretches of letters, digits and bytes outside ASCII, in which four-byte runs do better.
    """
    inside = _IN_WORDS[letters]  # the last letters are padding, which ends every word
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    if inside[0]:
        edges = np.concatenate([[0], edges])
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    heads = np.ndarray(len(letters) - len(_TAIL), "<u8", letters, strides=(1,))[starts].astype(np.uint64)
    heads &= _MASKS[np.minimum(lengths, 8)]
    return heads * np.uint64(_MULTIPLIER) + lengths.astype(np.uint64), starts


def _cells(things: np.ndarray) -> np.ndarray:
    mixed = (things ^ (things >> np.uint64(29))) * np.uint64(_MULTIPLIER)
    return (mixed >> np.uint64(64 - BITS)).astype(np.int64)
