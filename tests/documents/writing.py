"""Writing the same rows in every format that is read."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from curate.documents import Shard, open_pool

ENDINGS = (
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".jsonl.bz2",
    ".jsonl.xz",
    ".ndjson",
    ".parquet",
    ".arrow",
    ".file.arrow",
    ".feather",
    ".array.json",
    ".lines.json.gz",
)
TEXT_ENDINGS = (*ENDINGS, ".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz")
"""Those too in which every value is a string."""


def lines_of(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows)


def write(path: Path, rows: list[dict[str, Any]], *, block: int = 3) -> Path:
    """Write rows in the format of the path's ending; `block` rows per row group or record batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_table = ".csv" in path.name or ".tsv" in path.name
    data = _table(rows, "," if ".csv" in path.name else "\t") if is_table else lines_of(rows)
    if ".array." in path.name:
        data = json.dumps(rows, ensure_ascii=False).encode()
    elif ".lines." in path.name:
        data = b"\n".join(json.dumps(r, ensure_ascii=False, indent=1).encode() for r in rows)
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    elif path.name.endswith(".zst"):
        data = zstandard.compress(data)
    elif path.name.endswith(".bz2"):
        data = bz2.compress(data)
    elif path.name.endswith(".xz"):
        data = lzma.compress(data)
    elif path.name.endswith(".parquet"):
        data = _parquet(pa.Table.from_pylist(rows), block)
    elif path.name.endswith(".arrow"):
        data = _arrow(pa.Table.from_pylist(rows), block, as_file=path.name.endswith(".file.arrow"))
    elif path.name.endswith(".feather"):
        data = _arrow(pa.Table.from_pylist(rows), block, as_file=True)
    path.write_bytes(data)
    return path


def _table(rows: list[dict[str, Any]], separator: str) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(dict.fromkeys(k for row in rows for k in row)), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def _parquet(table: pa.Table, block: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=block)
    return sink.getvalue()


def _arrow(table: pa.Table, block: int, *, as_file: bool) -> bytes:
    sink = io.BytesIO()
    opener = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with opener(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=block)
    return sink.getvalue()


def shard_at(path: Path) -> Shard:
    (shard,) = open_pool(path).shards
    return shard
