import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import open_pool
from curate.errors import CurateError
from tests.documents.writing import write

ROWS = [{"text": "one"}, {"text": "two"}]


def names(address: Any) -> list[str]:
    return [s.name for s in open_pool(address).shards]


def commit(table: Path, version: int, *actions: dict[str, Any]) -> None:
    (table / "_delta_log").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(action) + "\n" for action in actions)
    (table / f"_delta_log/{version:020}.json").write_text(lines)


def add(path: str, **more: Any) -> dict[str, Any]:
    return {"add": {"path": path, "size": 1} | more}


def remove(path: str) -> dict[str, Any]:
    return {"remove": {"path": path, "dataChange": True}}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose first file was rewritten, so that its rows lie there twice."""
    for name in ("a.parquet", "b.parquet", "lang=e n/c.parquet"):
        write(tmp_path / "t" / name, ROWS)
    commit(tmp_path / "t", 0, {"commitInfo": {}}, add("a.parquet"), add("lang=e%20n/c.parquet"))
    commit(tmp_path / "t", 1, remove("a.parquet"), add("b.parquet"))
    return tmp_path / "t"


def test_of_a_delta_table_its_present_files_are_read_and_the_others_said(table: Path) -> None:
    pool = open_pool(table)
    assert [s.name for s in pool.shards] == ["b.parquet", "lang=e n/c.parquet"]
    assert f"1 file of earlier versions of the Delta table {table}" in pool.listing
    assert names(f"{table}/*.parquet") == ["b.parquet"]
    assert names(table.parent) == ["t/b.parquet", "t/lang=e n/c.parquet"]
    assert names(table / "lang=e n") == ["c.parquet"]
    # A file that is named is what is wanted.
    assert names(table / "a.parquet") == ["a.parquet"]


def test_a_delta_tables_log_may_begin_with_a_checkpoint(table: Path) -> None:
    added = [{"path": "a.parquet"}, {"path": "lang=e%20n/c.parquet"}, None]
    checkpoint = pa.table({"add": added, "remove": [None, None, {"path": "gone.parquet"}]})
    pq.write_table(checkpoint, table / f"_delta_log/{0:020}.checkpoint.parquet")
    (table / f"_delta_log/{0:020}.json").unlink()
    assert names(table) == ["b.parquet", "lang=e n/c.parquet"]
    (table / f"_delta_log/{1:020}.json").unlink()
    assert names(table) == ["a.parquet", "lang=e n/c.parquet"]


def test_what_a_delta_tables_log_alone_does_not_say_is_refused(table: Path) -> None:
    commit(table, 2, remove("b.parquet"), add("b.parquet", deletionVector={"storageType": "u"}))
    with pytest.raises(CurateError, match=r"t/b\.parquet: the Delta table's log tells of rows .* deleted") as e:
        open_pool(table)
    assert f"delta_scan('{table}')" in str(e.value.hint)
    commit(table, 2, add("d.parquet"))
    with pytest.raises(CurateError, match=r"t/d\.parquet: listed in the log of a Delta table, but not there"):
        open_pool(table)
    commit(table, 2)
    write(table / f"_delta_log/{1:020}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json", [{}])
    with pytest.raises(CurateError, match="checkpoints of version 2"):
        open_pool(table)


def test_a_folder_of_that_name_without_commits_says_nothing(table: Path) -> None:
    for path in (table / "_delta_log").iterdir():
        path.unlink()
    write(table / "_delta_log/0.json", [{"commitInfo": {}}])
    assert names(table) == ["a.parquet", "b.parquet", "lang=e n/c.parquet"]


def test_a_delta_table_in_an_object_store_is_read_by_its_log(table: Path) -> None:
    store = fsspec.filesystem("memory")
    for path in table.rglob("*.*"):
        store.pipe(f"/lake/t/{path.relative_to(table).as_posix()}", path.read_bytes())
    for address in ("memory://lake", "memory://lake/t", "memory://lake/t/**/*.parquet", "memory://lake/**/*.parquet"):
        pool = open_pool(address)
        assert [s.name.removeprefix("t/") for s in pool.shards] == ["b.parquet", "lang=e n/c.parquet"]
        assert "earlier versions of the Delta table" in pool.listing
    store.rm("/lake", recursive=True)


@pytest.mark.parametrize(("operations", "said"), [(["append", "append"], None), (["append", "overwrite"], "overwrite")])
def test_an_iceberg_table_with_replaced_files_is_refused(tmp_path: Path, operations: list[str], said: Any) -> None:
    write(tmp_path / "data/a.parquet", ROWS)
    snapshots = [{"snapshot-id": i, "summary": {"operation": name}} for i, name in enumerate(operations)]
    for version, count in ((2, 1), (10, 2)):  # the latest of them counts
        content = {"format-version": 2, "snapshots": snapshots[:count]}
        path = tmp_path / f"metadata/{version:05}-80a083e8-7026-4e79-81be-64bd76c43a11.metadata.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    if said is None:
        assert names(tmp_path) == ["data/a.parquet"]
        return
    with pytest.raises(CurateError, match=rf"an Iceberg table with .* earlier versions \(its snapshots: {said}\)") as e:
        open_pool(tmp_path)
    assert f"iceberg_scan('{tmp_path}')" in str(e.value.hint)


def test_several_versions_of_a_hudi_tables_file_are_refused(tmp_path: Path) -> None:
    file = "80a083e8-7026-4e79-81be-64bd76c43a11-0"
    write(tmp_path / f"{file}_0-21-22_20240101000000000.parquet", ROWS)
    assert len(names(tmp_path)) == 1
    write(tmp_path / f"{file}_0-51-52_20240102000000000.parquet", ROWS)
    with pytest.raises(CurateError, match="one of several versions of a file of a Hudi table"):
        open_pool(tmp_path)
