"""What comes in goes out: any rows, from every format into every format, are the same or their change is told."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import curate
from curate.folders.values import as_text, json_text, plain_type, python_values
from curate.selection.select import select
from curate.selection.selection import Selection
from tests.documents.writing import write
from tests.folders.test_values import held
from tests.scoring import make_project
from tests.selection.generated import json_rows, text_rows, typed_table

OUTPUTS = ("arrow", "parquet", "jsonl.zst")
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TYPED = (".parquet", ".arrow", ".file.arrow", "saved")
ROWS_PER_SHARD = 50


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"), 1)


def selected(project: Path, pool: Path, count: int) -> Iterator[tuple[str, Selection]]:
    """Score a pool and select all of it, in every format. Every row is scored: each has a text of its own."""
    run = curate.score(
        target=str(project / "val.jsonl"),
        pool=[str(pool)],
        method="length",
        model=str(project / "proxy"),
        device="cpu",
        out=str(pool.parent / "run"),
    )
    assert run.totals["documents"] == count
    assert not run.totals["skipped"]
    for format in OUTPUTS:
        yield format, select(run, top="100%", out=pool.parent / format, format=format)


def lines_of(selection: Selection) -> list[bytes]:
    files = sorted((selection.out / "train").glob("*.zst"))
    whole = b"".join(zstandard.ZstdDecompressor().decompressobj().decompress(f.read_bytes()) for f in files)
    return whole.removesuffix(b"\n").split(b"\n")


def table_of(selection: Selection) -> pa.Table:
    files = sorted(p for p in (selection.out / "train").iterdir() if p.suffix in (".arrow", ".parquet"))
    if files[0].suffix == ".parquet":
        return pa.concat_tables([pq.ParquetFile(f).read() for f in files])
    return pa.concat_tables([pa.ipc.open_stream(f).read_all() for f in files])


def paths_of(selection: Selection) -> set[str]:
    """The columns of which a change is told."""
    card = (selection.out / "README.md").read_text()
    assert card.count("\n- `") == len(selection.changes)
    return {change.split("`")[1] for change in selection.changes}


def is_told(name: str, paths: set[str]) -> bool:
    return any(path == name or path.startswith((f"{name}.", f"{name}[]")) for path in paths)


def renamed(name: str, told: set[str]) -> str:
    """A column's name in Arrow and Parquet."""
    other = name.replace("\0", "\u2400")
    assert other == name or other in told
    return other


def texts_told(value: Any, kind: pa.DataType, path: str, told: set[str]) -> bool:
    """Whether every place where a value has become text is told."""
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return all(texts_told(value.get(f.name), f.type, f"{path}.{f.name}", told) for f in kind)
    if pa.types.is_list(kind) and isinstance(value, list):
        return all(texts_told(v, kind.value_type, f"{path}[]", told) for v in value)
    return value is None or isinstance(value, str) or not pa.types.is_string(kind) or path in told


def cut(rows: list[Any]) -> Iterator[tuple[int, list[Any]]]:
    return ((i // ROWS_PER_SHARD, rows[i : i + ROWS_PER_SHARD]) for i in range(0, len(rows), ROWS_PER_SHARD))


def check_lines(project: Path, folder: Path, ending: str, seed: int, count: int) -> None:
    rng = random.Random(seed)
    rows = [row for _ in range(0, count, ROWS_PER_SHARD) for row in json_rows(rng, ROWS_PER_SHARD)]
    for number, shard_rows in cut(rows):
        write(folder / "pool" / f"{number:04d}{ending}", shard_rows)
    for format, selection in selected(project, folder / "pool", len(rows)):
        if format == "jsonl.zst":
            assert not selection.changes
            for row, line in zip(rows, lines_of(selection), strict=True):
                assert line.startswith(json.dumps(row, ensure_ascii=False).encode()[:-1])
                stored = json.loads(line)
                assert list(stored)[: len(row)] == list(row)
                assert {k: stored[k] for k in row} == row
            continue
        told, table = paths_of(selection), table_of(selection)
        for name in dict.fromkeys(k for row in rows for k in row):
            kind, stored = table.schema.field(renamed(name, told)).type, table[renamed(name, told)].to_pylist()
            assert all(held(row.get(name), kind, s) for row, s in zip(rows, stored, strict=True))
            assert all(texts_told(row.get(name), kind, name, told) for row in rows)


def check_texts(project: Path, folder: Path, ending: str, seed: int, count: int) -> None:
    rng = random.Random(seed)
    shards = [text_rows(rng, ROWS_PER_SHARD) for _ in range(0, count, ROWS_PER_SHARD)]
    for number, rows in enumerate(shards):
        write(folder / "pool" / f"{number:04d}{ending}", rows)
    every = [row for rows in shards for row in rows]
    for format, selection in selected(project, folder / "pool", len(every)):
        assert not selection.changes
        if format == "jsonl.zst":
            stored_rows = [json.loads(line) for line in lines_of(selection)]
        else:
            table = table_of(selection)
            assert {table.schema.field(name).type for row in every for name in row} == {pa.string()}
            stored_rows = table.to_pylist()
        for row, stored in zip(every, stored_rows, strict=True):
            assert {name: stored[name] for name in row} == row


def as_written(value: Any, kind: pa.DataType) -> Any:
    """Bring a value to what is written for it: objects for a map's pairs, text for unions and intervals."""
    if value is None:
        return None
    if pa.types.is_union(kind) or pa.types.is_interval(kind):
        return value if isinstance(value, str) else json_text(value)
    if pa.types.is_map(kind):
        return [{"key": k, "value": as_written(v, kind.item_type)} for k, v in value]
    if pa.types.is_struct(kind):
        return {f.name: as_written(value[f.name], f.type) for f in kind}
    return [as_written(v, kind.value_type) for v in value] if isinstance(value, list) else value


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the same values without dictionaries and views; strings between files are small ones."""
    kind = plain_type(kind)
    return pa.string() if pa.types.is_large_string(kind) else kind


def save_table(path: Path, table: pa.Table, ending: str) -> pa.Table:
    """Write a table; return what the file holds, as Parquet lacks some types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".parquet":
        pq.write_table(table, path)
        return pq.ParquetFile(path).read()
    opener = pa.ipc.new_file if ending == ".file.arrow" else pa.ipc.new_stream
    with opener(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return table


def save_dataset(folder: Path, table: pa.Table) -> pa.Table:
    """Save as `datasets` does, with a label's names; return what it made of the table."""
    import datasets

    labels = pa.array([i % 2 for i in range(table.num_rows)], pa.int64())
    dataset = datasets.Dataset(datasets.table.InMemoryTable(table.append_column("label", labels)))
    dataset = dataset.cast_column("label", datasets.ClassLabel(names=["bad", "good"]))
    dataset.save_to_disk(str(folder))
    return dataset.data.table


def check_typed(project: Path, folder: Path, ending: str, seed: int, count: int) -> None:
    rng = random.Random(seed)
    saved = ending == "saved"
    tables = []
    for number in range(1 if saved else count // ROWS_PER_SHARD):
        prefix = f"s{number}" if number else ""
        rows = count if saved else ROWS_PER_SHARD
        table = typed_table(rng, rows, prefix, in_parquet=ending == ".parquet", in_datasets=saved)
        if saved:
            table = save_dataset(folder / "pool", table)
        else:
            table = save_table(folder / "pool" / f"{number:04d}{ending}", table, ending)
        tables.append(table)
    for format, selection in selected(project, folder / "pool", count):
        told = paths_of(selection)
        if format == "jsonl.zst":
            check_typed_lines(selection, tables, told)
        else:
            check_written(table_of(selection), tables, told)


def check_typed_lines(selection: Selection, tables: list[pa.Table], told: set[str]) -> None:
    lines = iter(lines_of(selection))
    for table in tables:
        stored = [json.loads(next(lines)) for _ in range(table.num_rows)]
        for name in table.column_names:
            values = [as_written(v, table.schema.field(name).type) for v in python_values(table[name], as_text)]
            assert is_told(name, told) or values == [row[name] for row in stored]
            if not is_told(name, told):
                assert [row[name] for row in stored] == [orjson.loads(orjson.dumps(v)) for v in values]
    assert next(lines, None) is None


def check_written(written: pa.Table, tables: list[pa.Table], told: set[str]) -> None:
    from datasets import Features

    Features.from_arrow_schema(written.schema)
    first_row = 0
    for table in tables:
        own = written.slice(first_row, table.num_rows)
        first_row += table.num_rows
        for field in table.schema:
            values = [as_written(v, field.type) for v in python_values(table[field.name], as_text)]
            name = renamed(field.name, told)
            assert repr(python_values(own[name], as_text)) == repr(values)
            assert written.schema.field(name).type == plain(field.type) or is_told(name, told)
        stated = (table.schema.metadata or {}).get(b"huggingface")
        if stated:
            features = json.loads(written.schema.metadata[b"huggingface"])["info"]["features"]
            assert features["label"] == json.loads(stated)["info"]["features"]["label"]
    assert first_row == written.num_rows


CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(LINES, check_lines),
    **dict.fromkeys((".csv", ".tsv.gz"), check_texts),
    **dict.fromkeys(TYPED, check_typed),
}


FAST = {".jsonl", ".csv", ".parquet"}
"""One of each check."""


@pytest.mark.parametrize("ending", [pytest.param(e, marks=() if e in FAST else pytest.mark.slow) for e in CHECKS])
def test_rows_go_out_as_they_came(project, tmp_path, ending):
    CHECKS[ending](project, tmp_path, ending, seed=1, count=100)


@pytest.mark.slow
@pytest.mark.parametrize("ending", CHECKS)
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_rows_go_out_as_they_came(project, tmp_path, ending, seed):
    CHECKS[ending](project, tmp_path, ending, seed=seed, count=1000)
