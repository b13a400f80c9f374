from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.folders.frames import scan


def test_columns_whose_names_are_patterns_elsewhere_are_read_as_they_are(tmp_path: Path) -> None:
    tables = [pa.table({"a": [1], "*": [2], "^a$": [3]}), pa.table({"a": [4], "*": [5]})]
    for i, table in enumerate(tables):
        pq.write_table(table, tmp_path / f"{i}.parquet")
    files = [(tmp_path / f"{i}.parquet", table.schema) for i, table in enumerate(tables)]
    assert scan(files, empty=pa.schema([])).collect().rows() == [(1, 2, 3), (4, 5, None)]
