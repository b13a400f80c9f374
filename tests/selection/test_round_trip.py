"""What comes in goes out: any rows, from every format into every format, are the same or their change is told."""

import json
import shutil
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.documents import open_pool
from curate.folders.values import as_text, plain_array, python_values
from curate.scores.run import Run
from curate.selection.select import Selection, select
from tests.documents.writing import write as write_rows
from tests.folders.test_values import VALUES, held
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write

OUTPUTS = ("arrow", "parquet", "jsonl.zst")
NAMES = st.sampled_from(["", "a", "A", "score", "row", "weight", 'a"; DROP', "é.b[]", "messages", "curate_score"])
LINES = st.lists(
    st.dictionaries(NAMES, VALUES, max_size=5).map(lambda row: {"text": "t", **row}), min_size=1, max_size=8
)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))


def chosen(pool: Path, counts: dict[str, int], format: str) -> Selection:
    """Select all rows of a pool, scored by their place."""
    address = [str(pool)]
    prints = {**FINGERPRINTS, "pool": open_pool(address).fingerprint()}
    out = pool.parent / "selected"
    for folder in (pool.parent / "run", out):
        shutil.rmtree(folder, ignore_errors=True)
    with Run.start(pool.parent / "run", settings={**SETTINGS, "pool": address}, fingerprints=prints) as run:
        for number, (shard, count) in enumerate(counts.items()):
            write(run, shard, number, rows(shard, 0, [float(i) for i in range(count)]))
        run.finish({"documents": sum(counts.values())})
    return select(run, top="100%", out=out, format=format)


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
    assert all(change in card for change in selection.changes)
    return {change.split("`")[1] for change in selection.changes}


def is_told(name: str, paths: set[str]) -> bool:
    return any(path == name or path.startswith((f"{name}.", f"{name}[]")) for path in paths)


def texts_told(value: Any, kind: pa.DataType, path: str, told: set[str]) -> bool:
    """Whether every place where a value has become text is told."""
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return all(texts_told(value.get(f.name), f.type, f"{path}.{f.name}", told) for f in kind)
    if pa.types.is_list(kind) and isinstance(value, list):
        return all(texts_told(v, kind.value_type, f"{path}[]", told) for v in value)
    return value is None or isinstance(value, str) or not pa.types.is_string(kind) or path in told


def check_lines(pool_rows: list[dict[str, Any]], ending: str, format: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        write_rows(pool / f"a{ending}", pool_rows)
        selection = chosen(pool, {f"a{ending}": len(pool_rows)}, format)
        if format == "jsonl.zst":
            assert not selection.changes
            for row, line in zip(pool_rows, lines_of(selection), strict=True):
                assert line.startswith(json.dumps(row, ensure_ascii=False).encode()[:-1])
                stored = json.loads(line)
                assert list(stored)[: len(row)] == list(row)
                assert {k: stored[k] for k in row} == row
            return
        told, table = paths_of(selection), table_of(selection)
        for name in dict.fromkeys(k for row in pool_rows for k in row):
            kind, stored = table.schema.field(name).type, table[name].to_pylist()
            assert all(held(row.get(name), kind, s) for row, s in zip(pool_rows, stored, strict=True))
            assert all(texts_told(row.get(name), kind, name, told) for row in pool_rows)


@pytest.mark.parametrize("format", OUTPUTS)
@FEW
@given(LINES)
def test_lines_of_json_go_out_as_they_came(format, pool_rows):
    check_lines(pool_rows, ".jsonl", format)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("format", OUTPUTS)
@MANY
@given(LINES)
def test_many_lines_of_json_go_out_as_they_came(format, ending, pool_rows):
    check_lines(pool_rows, ending, format)


def maybe(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | values


TEXT = st.text(max_size=4)
MOMENTS = st.integers(-(2**58), 2**58)
LEAVES: list[tuple[pa.DataType, st.SearchStrategy]] = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.string(), TEXT),
    (pa.large_string(), TEXT),
    (pa.binary(), st.binary(max_size=4)),
    (pa.date32(), st.dates(date(1, 1, 1), date(9999, 1, 1))),
    (pa.time64("us"), st.times()),
    (pa.duration("us"), st.timedeltas(timedelta(-1000), timedelta(1000))),
    (pa.timestamp("us"), MOMENTS),
    (pa.timestamp("us", "UTC"), MOMENTS),
    (pa.timestamp("us", "+05:30"), MOMENTS),
    (pa.timestamp("ms", "tzutc()"), st.integers(-(2**47), 2**47)),
    (pa.timestamp("ns", "Europe/Berlin"), MOMENTS),
    (pa.decimal128(20, 3), st.decimals(-1000, 1000, places=3)),
    (pa.null(), st.none()),
]


def nested(kinds: list[tuple[pa.DataType, st.SearchStrategy]]) -> st.SearchStrategy:
    """Types with a strategy for their values, up to three levels deep."""
    plain = st.sampled_from(kinds)

    def deeper(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.one_of(
            inner.map(lambda k: (pa.list_(k[0]), st.lists(maybe(k[1]), max_size=3))),
            inner.map(lambda k: (pa.large_list(k[0]), st.lists(maybe(k[1]), max_size=3))),
            st.tuples(inner, inner).map(
                lambda p: (
                    pa.struct([("x", p[0][0]), ("", p[1][0])]),
                    st.fixed_dictionaries({"x": maybe(p[0][1]), "": maybe(p[1][1])}),
                )
            ),
            inner.map(lambda k: (pa.map_(pa.string(), k[0]), st.lists(st.tuples(TEXT, maybe(k[1])), max_size=3))),
        )

    return st.recursive(plain, deeper, max_leaves=3)


@st.composite
def tables(draw: Any) -> pa.Table:
    count = draw(st.integers(1, 5))
    columns = {"text": pa.array(["t"] * count)}
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        kind, values = draw(nested(LEAVES))
        columns[name] = pa.array(draw(st.lists(maybe(values), min_size=count, max_size=count)), kind)
    return pa.table(columns)


def without_pairs(value: Any) -> Any:
    """Bring a map's pairs to the list of objects that is written for it."""
    if isinstance(value, tuple):
        return {"key": value[0], "value": without_pairs(value[1])}
    if isinstance(value, list):
        return [without_pairs(v) for v in value]
    return {k: without_pairs(v) for k, v in value.items()} if isinstance(value, dict) else value


def check_table(table: pa.Table, ending: str, format: str) -> None:
    from datasets import Features

    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        pool.mkdir()
        path = pool / f"a{ending}"
        if ending == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)
        selection = chosen(pool, {path.name: table.num_rows}, format)
        told = paths_of(selection)
        if format == "jsonl.zst":
            stored = [json.loads(line) for line in lines_of(selection)]
            for name in table.column_names:
                values = [without_pairs(v) for v in python_values(table[name], as_text)]
                same = [row[name] for row in stored] == [orjson.loads(orjson.dumps(v, default=str)) for v in values]
                assert is_told(name, told) or (same and values == [row[name] for row in stored])
            return
        written = table_of(selection)
        Features.from_arrow_schema(written.schema)
        for name in table.column_names:
            values = [without_pairs(v) for v in python_values(table[name], as_text)]
            assert repr(python_values(written[name], as_text)) == repr(values)
            plain = plain_array(table[name].combine_chunks()).type
            plain = pa.string() if pa.types.is_large_string(plain) else plain
            assert written.schema.field(name).type == plain or is_told(name, told)


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("format", OUTPUTS)
@FEW
@given(tables())
def test_typed_rows_go_out_as_they_came(ending, format, table):
    check_table(table, ending, format)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("format", OUTPUTS)
@MANY
@given(tables())
def test_many_typed_rows_go_out_as_they_came(ending, format, table):
    check_table(table, ending, format)
