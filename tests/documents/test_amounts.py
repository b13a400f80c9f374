"""The rows of a pool are told from sizes and a few opened shards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from curate.documents import Shard, amounts, estimated_rows, open_pool, rows_of_all, rows_of_each
from curate.documents.streamed import Streamed
from tests.documents.writing import write


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards of lines that were opened for their number of rows."""
    names: list[str] = []
    original: Callable[[Streamed, Shard], float] = Streamed.estimated_rows

    def noted(self: Streamed, shard: Shard) -> float:
        names.append(shard.name)
        return original(self, shard)

    monkeypatch.setattr(Streamed, "estimated_rows", noted)
    return names


def write_shards(folder: Path, ending: str, numbers: range) -> None:
    for i in numbers:
        write(folder / f"{ending[1:]}-{i:03d}{ending}", [{"text": f"row {r} of {i}"} for r in range(3 + i % 5)])


def test_few_shards_are_counted_each(tmp_path: Path) -> None:
    write_shards(tmp_path, ".jsonl", range(6))
    write_shards(tmp_path, ".parquet", range(6))
    shards = open_pool(tmp_path).shards
    assert rows_of_each(shards) == [estimated_rows(s) for s in shards]
    assert rows_of_all(shards) == sum(rows_of_each(shards))


def test_of_many_shards_a_few_of_each_kind_are_opened(tmp_path: Path, opened: list[str]) -> None:
    write_shards(tmp_path, ".jsonl", range(300))
    write_shards(tmp_path, ".jsonl.gz", range(5))
    shards = open_pool(tmp_path).shards
    assert rows_of_all(shards) == pytest.approx(60 * (3 + 4 + 5 + 6 + 7) + 3 + 4 + 5 + 6 + 7, rel=0.05)
    assert len(opened) == amounts.PROBES + 5


def test_no_shards_have_no_rows() -> None:
    assert rows_of_all([]) == 0
    assert rows_of_each([]) == []
