"""Write a selection's rows: Arrow as `datasets` keeps it, Parquet, or compressed lines of JSON."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Write = Callable[[pa.Table], None]
ENDINGS = {"arrow": "arrow", "parquet": "parquet", "jsonl.zst": "jsonl.zst"}
MEGATRON = "megatron"
FORMATS = (*ENDINGS, MEGATRON)
SPLIT = "train"
FILE_BYTES = 512 << 20
"""In memory, of one file."""


def write_files(tables: Iterator[pa.Table], schema: pa.Schema, folder: Path, format: str) -> list[str]:
    """Write tables (jsonl.zst: of lines) to files in `folder`, of half a gigabyte in memory; return their names."""
    folder.mkdir(parents=True)
    names: list[str] = []
    pending = next(tables, None)
    while pending is not None or not names:
        names.append(file_name(len(names), format))
        size = 0
        with _OPEN[format](folder / names[-1], schema) as write:
            while pending is not None and size < FILE_BYTES:
                write(pending)
                size += pending.nbytes
                pending = next(tables, None)
    return names


def write_file(tables: Iterable[pa.Table], schema: pa.Schema, path: Path, format: str) -> None:
    """Write tables (jsonl.zst: of lines) to one file."""
    with _OPEN[format](path, schema) as write:
        for table in tables:
            write(table)


def file_name(number: int, format: str) -> str:
    """Return what a selection's file of this number is called."""
    return f"{number:05d}.{ENDINGS[format]}"


def describe_arrow(folder: Path, schema: pa.Schema, names: list[str], fingerprint: str) -> None:
    """Write the files that `datasets.load_from_disk` reads beside Arrow files."""
    from datasets import DatasetInfo, Features

    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": SPLIT,
    }
    DatasetInfo(features=Features.from_arrow_schema(schema)).write_to_directory(str(folder / SPLIT))
    (folder / SPLIT / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [SPLIT]}) + "\n")


@contextmanager
def _arrow(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        yield writer.write_table


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _lines(path: Path, schema: pa.Schema) -> Iterator[Write]:
    compressor = zstandard.ZstdCompressor(level=3)
    with path.open("wb") as raw, compressor.stream_writer(raw) as sink:

        def write(table: pa.Table) -> None:
            for line in table.column("line").to_pylist():
                sink.write(line + b"\n")

        yield write


_OPEN = {"arrow": _arrow, "parquet": _parquet, "jsonl.zst": _lines}
