"""Megatron-LM's files, read by a small reader of its own and by datatrove."""

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from curate.selection import megatron
from curate.selection.megatron import write_megatron


def read(folder: Path) -> tuple[np.dtype, list[list[int]]]:
    """Read documents as the format is described: header, lengths, first bytes, bounds of documents."""
    index = (folder / "tokens.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, bounds = struct.unpack("<QBQQ", index[9:34])
    assert version == 1
    kind = {8: np.dtype("<u2"), 4: np.dtype("<i4")}[code]
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    pointers = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    documents = np.frombuffer(index, "<i8", bounds, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * bounds
    assert documents[0] == 0
    assert documents[-1] == sequences
    ids = (folder / "tokens.bin").read_bytes()
    found = [np.frombuffer(ids, kind, n, at) for n, at in zip(lengths, pointers, strict=True)]
    assert sum(lengths) * kind.itemsize == len(ids)
    return kind, [np.concatenate(found[a:b]).tolist() for a, b in pairwise(documents)]


def random_documents(vocabulary: int, count: int = 50) -> list[np.ndarray]:
    rng = np.random.default_rng(vocabulary)
    return [rng.integers(0, vocabulary, n).astype(np.int32) for n in rng.integers(1, 30, count)]


@pytest.mark.parametrize(("vocabulary", "kind"), [(300, "<u2"), (65_499, "<u2"), (65_500, "<i4"), (200_000, "<i4")])
def test_documents_are_read_as_they_were_written(tmp_path, vocabulary, kind):
    documents = random_documents(vocabulary)
    write_megatron(iter(documents), tmp_path / "train", vocabulary=vocabulary)
    assert read(tmp_path / "train") == (np.dtype(kind), [d.tolist() for d in documents])
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == ["tokens.bin", "tokens.idx"]


@pytest.mark.parametrize("chunk", [1, 7, 50, 51])
def test_an_index_of_many_documents_is_written_in_chunks(tmp_path, monkeypatch, chunk):
    documents = random_documents(300)
    write_megatron(iter(documents), tmp_path / "whole", vocabulary=300)
    monkeypatch.setattr(megatron, "_CHUNK", chunk)
    write_megatron(iter(documents), tmp_path / "train", vocabulary=300)
    assert (tmp_path / "train" / "tokens.idx").read_bytes() == (tmp_path / "whole" / "tokens.idx").read_bytes()


@pytest.mark.parametrize("vocabulary", [300, 200_000])
def test_datatrove_reads_the_ids_and_writes_the_same_files(tmp_path, vocabulary):
    pytest.importorskip("datatrove", reason="datatrove is not installed: its reader is one more witness")
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile
    from datatrove.utils.dataset import DatatroveFileDataset

    documents, folder = random_documents(vocabulary), tmp_path / "train"
    write_megatron(iter(documents), folder, vocabulary=vocabulary)
    size = 2 if vocabulary < 65_500 else 4
    windows = DatatroveFileDataset(str(folder / "tokens.bin"), seq_len=15, token_size=size)
    ids = np.concatenate(documents)
    assert len(windows) == len(ids) // 16
    for i in range(len(windows)):
        assert windows[i]["input_ids"].tolist() == ids[16 * i : 16 * i + 16].tolist()
    theirs = MegatronTokenizedFile(str(tmp_path / "theirs"), "tokens", token_size=size)
    for document in documents:
        theirs.write(document.tolist())
    theirs.close()
    for name in ("tokens.bin", "tokens.idx"):
        assert (folder / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
