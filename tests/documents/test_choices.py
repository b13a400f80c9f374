import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import Fields, documents, open_pool, streamed
from curate.documents.choices import LISTED_SCHEMA, Drawn, Listed, write_listed
from curate.documents.shards import Choice, Shard
from curate.documents.stretches import Course
from curate.folders.local import open_folder

ROWS = 3000


def drawn(share: float, *, seed: int = 0, shard: str = "a") -> Drawn:
    return Drawn(seed=seed, shard=shard, share=share)


def test_a_row_is_drawn_whatever_stretch_is_asked_for():
    whole = drawn(0.1).rows(0, 10_000)
    pieces = np.concatenate([drawn(0.1).rows(i, i + 777) for i in range(0, 10_000, 777)])
    assert np.array_equal(whole, pieces[pieces < 10_000])


def test_shares_seeds_and_shards_decide_what_is_drawn():
    counts = [len(drawn(0.02, seed=seed).rows(0, 1_000_000)) for seed in range(4)]
    assert all(abs(count - 20_000) < 600 for count in counts)  # four standard deviations
    both = np.intersect1d(drawn(0.02).rows(0, 1_000_000), drawn(0.02, shard="b").rows(0, 1_000_000))
    assert abs(len(both) - 400) < 80
    assert np.isin(drawn(0.02).rows(0, 5000), drawn(0.04).rows(0, 5000)).all()
    assert len(drawn(1.0).rows(5, 50)) == 45


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    rows = [{"id": str(i), "text": f"text {i}"} for i in range(ROWS)]
    lines = "".join(json.dumps(r) + ("\n\n" if i % 7 == 0 else "\n") for i, r in enumerate(rows)).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.Table.from_pylist(rows), folder / "c.parquet", row_group_size=100)
    return folder


def ids(shard: Shard, choice: Choice | None, start: int = 0, course: Course | None = None) -> list[str | None]:
    return [d.doc_id for d in documents(replace(shard, choice=choice), Fields(), start=start, course=course)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_chosen_rows_of_every_format_are_those_of_the_whole(pool, number):
    shard = open_pool(pool).shards[number]
    choice = drawn(0.05, shard=shard.name)
    expected = [str(row) for row in choice.rows(0, ROWS)]
    assert ids(shard, choice) == expected
    assert ids(shard, choice, course=Course(1500)) == [row for row in expected if int(row) >= 1500]


def listing(folder: Path, rows: list[tuple[str, int]]) -> list[Listed]:
    place = open_folder(folder)
    columns = [pa.array([r[0] for r in rows], pa.string()), pa.array([r[1] for r in rows], pa.int64())]
    batches = pa.Table.from_arrays(columns, schema=LISTED_SCHEMA).to_batches(max_chunksize=3)
    write_listed(place, "chosen.parquet", batches)
    return [Listed(folder=place, name="chosen.parquet", shard=s) for s in ("a.jsonl", "b.jsonl.gz", "c.parquet")]


def test_a_list_gives_each_shard_its_rows(pool, tmp_path):
    rows = [("a.jsonl", r) for r in (3, 70, 71, 2999)] + [("c.parquet", r) for r in (0, 150)]
    lists = listing(tmp_path, rows)
    shards = open_pool(pool).shards
    assert [ids(s, c) for s, c in zip(shards, lists, strict=True)] == [["3", "70", "71", "2999"], [], ["0", "150"]]
    assert ids(shards[0], lists[0], 71) == ["71", "2999"]


def test_rows_that_are_not_chosen_are_neither_decoded_nor_read(pool, tmp_path, monkeypatch):
    lists = listing(tmp_path, [("a.jsonl", 5), ("c.parquet", 250)])
    decoded = []
    formats = open_pool(pool).shards
    from curate.documents.formats import jsonl

    read = jsonl.FORMAT.decode
    monkeypatch.setitem(vars(jsonl.FORMAT), "decode", lambda record, line: decoded.append(line) or read(record, line))
    opened = []
    monkeypatch.setattr(streamed, "open_binary", lambda url, open=streamed.open_binary: opened.append(url) or open(url))
    assert ids(formats[0], lists[0]) == ["5"]
    assert len(decoded) == 1
    assert ids(formats[1], lists[1]) == []
    assert opened == [formats[0].url]
    groups = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *a, **k: groups.append(k.get("row_groups")) or original(self, *a, **k),
    )
    assert ids(formats[2], lists[2]) == ["250"]
    assert [g for gs in groups for g in gs or ()] == [2]
