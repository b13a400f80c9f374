"""Token ids as Megatron-LM's IndexedDataset: `tokens.bin` of all ids, `tokens.idx` of where documents lie.

The index, little-endian: the magic, the version 1 (uint64), the ids' type (uint8), the numbers of sequences and of
document bounds (uint64); then each sequence's length (int32) and first byte (int64), and the first sequence of each
document with the number of sequences behind (int64). Here each document is one sequence.
"""

import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

PREFIX = "tokens"
"""What --data-path names, in the dump's folder of data."""
_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_CODES = {"<u2": 8, "<i4": 4}
_SMALL = 65_500
"""Vocabularies below it have ids of two bytes, as Megatron-LM itself decides."""
_CHUNK = 1 << 16


def write_megatron(documents: Iterable[np.ndarray], folder: Path, *, vocabulary: int) -> None:
    """Write documents' ids in a stream; what is held in memory does not grow with them."""
    folder.mkdir(parents=True)
    kind = np.dtype("<u2" if vocabulary < _SMALL else "<i4")
    lengths = folder / "lengths"
    number = 0
    with (folder / f"{PREFIX}.bin").open("wb") as ids_file, lengths.open("wb") as lengths_file:
        for ids in documents:
            ids_file.write(ids.astype(kind).tobytes())
            lengths_file.write(struct.pack("<i", len(ids)))
            number += 1
    with (folder / f"{PREFIX}.idx").open("wb") as index, lengths.open("rb") as lengths_file:
        index.write(_MAGIC + struct.pack("<QBQQ", _VERSION, _CODES[kind.str], number, number + 1))
        shutil.copyfileobj(lengths_file, index)
        lengths_file.seek(0)
        place = 0
        while len(chunk := np.frombuffer(lengths_file.read(4 * _CHUNK), "<i4")):
            ends = place + np.cumsum(chunk, dtype=np.int64) * kind.itemsize
            index.write(np.concatenate([[place], ends[:-1]]).astype("<i8").tobytes())
            place = int(ends[-1])
        for start in range(0, number + 1, _CHUNK):
            index.write(np.arange(start, min(start + _CHUNK, number + 1), dtype="<i8").tobytes())
    lengths.unlink()
