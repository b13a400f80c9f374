import gzip
import io
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curate.documents import Course, Fields, documents, estimated_rows
from curate.documents.lines import head_compression
from curate.documents.shards import DamagedShard
from curate.errors import CurateError
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


def packed(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=stream, mode="w") as archive:
            member = tarfile.TarInfo("a.jsonl")
            member.size = len(LINES)
            archive.addfile(member, io.BytesIO(LINES))
    elif kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a.jsonl", LINES)
    elif kind == "Parquet":
        pq.write_table(pa.table({"text": ["one"]}), stream)
    else:
        with pa.ipc.new_stream(stream, pa.schema([("text", pa.string())])):
            pass
    return stream.getvalue()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.csv"])
@pytest.mark.parametrize(
    ("kind", "hint"), [("tar", "Unpack"), ("zip", "Unpack"), ("Parquet", r"\.parquet"), ("Arrow", r"\.arrow")]
)
def test_what_is_no_text_under_the_name_of_text_is_refused_by_what_it_is(tmp_path, name, kind, hint):
    data = packed(kind)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    shard = shard_at(tmp_path / name)
    for course in (None, Course()):
        with pytest.raises(DamagedShard, match=rf"{name}: an? {kind} (archive|file|stream), and no text(.|\n)*{hint}"):
            list(documents(shard, Fields(), course=course))
    assert estimated_rows(shard) <= 1


FOREIGN = {
    "database": b"SQLite format 3\0" + bytes(84),
    "ORC file": b"ORC" + bytes(60),
    "Avro file": b"Obj\1\4\x14avro.codec" + bytes(60),
    "encrypted Parquet file": b"PARE" + bytes(60) + b"PARE",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet", "a.arrow"])
def test_a_file_of_another_kind_is_refused_by_what_it_is_whatever_its_name(tmp_path, name, kind):
    data = FOREIGN[kind]
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(CurateError, match=rf"{name}: an? {kind}, and no ") as refused:
        list(documents(shard_at(tmp_path / name), Fields()))
    assert str(refused.value.hint).startswith("Write its ")


def test_lines_under_the_name_of_a_table_are_told_so(tmp_path):
    (tmp_path / "a.parquet").write_bytes(LINES)
    with pytest.raises(DamagedShard, match="text, and no Parquet file"):
        list(documents(shard_at(tmp_path / "a.parquet"), Fields()))


def test_what_was_compressed_twice_or_with_a_dictionary_says_so(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(gzip.compress(LINES)))
    with pytest.raises(DamagedShard, match="compressed twice"):
        list(documents(shard_at(tmp_path / "a.jsonl.gz"), Fields()))
    samples = [f'{{"text": "alpha beta {i} gamma {7 * i}"}}'.encode() for i in range(2000)]
    dictionary = zstandard.train_dictionary(2000, samples)
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor(dict_data=dictionary).compress(LINES))
    with pytest.raises(DamagedShard) as refused:
        list(documents(shard_at(tmp_path / "a.jsonl.zst"), Fields()))
    assert "zstd -d -D DICTIONARY FILE" in str(refused.value.hint)


PAGES = [b"<!DOCTYPE html>\n<html></html>", b'\n<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>']


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.csv", "a.tsv.gz", "a.parquet", "a.arrow"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_the_place_of_a_file_is_called_one(tmp_path, name, page):
    (tmp_path / name).write_bytes(page)
    shard = shard_at(tmp_path / name)
    for course in (None, Course()):
        with pytest.raises(
            DamagedShard, match=rf"{name}: a web page, or a server's message(.|\n)*Fetch the file itself"
        ):
            list(documents(shard, Fields(), course=course))
    assert estimated_rows(shard) <= 3


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_a_document_where_text_files_are(tmp_path, page):
    (tmp_path / "a.txt").write_bytes(page)
    assert [d.text for d in documents(shard_at(tmp_path / "a.txt"), Fields())] == [page.decode()]
