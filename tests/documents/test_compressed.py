import gzip

import pytest
import zstandard

from curate.documents import Fields, documents, estimated_rows
from curate.documents.lines import head_compression
from tests.documents.writing import lines_of, shard_at

LINES = lines_of([{"text": "one"}, {"text": "two"}])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", gzip.compress(LINES)),
        ("a.jsonl.gz", LINES),
        ("a.jsonl.gz", zstandard.compress(LINES)),
        ("a.jsonl.zst", b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstandard.compress(LINES)),
    ],
    ids=["renamed", "inflated", "another", "skippable"],
)
def test_the_first_bytes_of_a_file_tell_its_compression_whatever_its_name_says(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    shard = shard_at(tmp_path / name)
    assert [d.text for d in documents(shard, Fields())] == ["one", "two"]
    assert estimated_rows(shard) >= 2


@pytest.mark.parametrize("head", [b"", b"\x00\x00\x00", b"\x1f\x8c\x08"])
def test_what_is_neither_text_nor_compressed_is_what_its_name_says(head):
    assert head_compression(head, "gz") == "gz"
    assert head_compression(head, None) is None
