import random
import shutil
from collections import Counter

import pytest

from curate.documents import DAMAGED, Fields, documents, draw_sample, estimated_size, open_pool, sample_rows, streamed
from curate.documents import sample as sampling
from curate.documents.files import open_binary
from curate.errors import SettingsError
from curate.schema import Document
from tests.documents.writing import TEXT_ENDINGS, write

ENDINGS_BY_SHARD = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow", ".file.arrow"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    for i, ending in enumerate(ENDINGS_BY_SHARD):
        rows = [{"text": f"shard {i} row {r} " + "word " * (r % 7)} for r in range(400)]
        write(folder / f"{i}{ending}", rows, block=100)
    return open_pool(folder)


def places(found: list[Document]) -> list[tuple[str, int]]:
    return [(d.shard, d.row) for d in found]


def test_a_sample_is_spread_over_the_shards_in_order_without_repeats(pool):
    found = sample_rows(pool, 240, 0, Fields())
    assert len(set(places(found))) == 240
    assert places(found) == sorted(places(found))
    assert all(36 <= n <= 44 for n in Counter(d.shard for d in found).values())
    assert len({d.shard for d in found}) == 6
    everything = {(d.shard, d.row): d for s in pool.shards for d in documents(s, Fields())}
    assert all(everything[d.shard, d.row] == d for d in found)


def test_a_sample_depends_on_the_seed_alone_and_moves_with_the_pool(pool, tmp_path):
    first = sample_rows(pool, 50, 3, Fields())
    assert first == sample_rows(pool, 50, 3, Fields())
    assert places(first) != places(sample_rows(pool, 50, 4, Fields()))
    moved = shutil.copytree(pool.address[0], tmp_path / "moved")
    assert sample_rows(open_pool(moved), 50, 3, Fields()) == first


# Each way of reading: lines, a stream of bytes that cannot be gone back in, row groups, batches.
FAST = {".jsonl", ".jsonl.gz", ".parquet", ".arrow", ".csv"}


@pytest.mark.parametrize("ending", [pytest.param(e, marks=() if e in FAST else pytest.mark.slow) for e in TEXT_ENDINGS])
def test_every_row_is_equally_likely(tmp_path, ending):
    write(
        tmp_path / f"a{ending}",
        [{"text": f"row {r} " + "long " * (50 * (r % 2))} for r in range(40)],
        block=10,
    )
    pool = open_pool(tmp_path)
    drawn = Counter(d.row for seed in range(400) for d in sample_rows(pool, 10, seed, Fields()))
    # 400 draws of 10 from 40: 100 each on average, standard deviation below 9 (in Parquet, rows of one group
    # come together, which widens it).
    assert len(drawn) == 40
    assert all(60 <= n <= 140 for n in drawn.values())


def test_a_small_sample_reaches_every_shard_over_seeds(pool):
    shards = Counter(d.shard for seed in range(60) for d in sample_rows(pool, 2, seed, Fields()))
    assert len(shards) == 6


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
def test_rows_set_aside_are_replaced_as_long_as_there_are_others(tmp_path, ending):
    rows = [{"text": f"row {r}" if r % 10 == 0 else ""} for r in range(200)]
    write(tmp_path / f"a{ending}", rows, block=20)
    write(tmp_path / f"b{ending}", rows[1:10], block=20)
    pool = open_pool(tmp_path)
    assert len(sample_rows(pool, 15, 0, Fields())) == 15
    everything = sample_rows(pool, 500, 0, Fields())
    assert [d.row for d in everything] == list(range(0, 200, 10))


def test_a_pool_smaller_than_the_sample_gives_all_its_documents(pool):
    assert len(sample_rows(pool, 10_000, 0, Fields())) == 2400


def test_parquet_reads_only_the_row_groups_drawn_from(tmp_path):
    rows = [{"text": f"row {r}"} for r in range(1000)]
    write(tmp_path / "a.parquet", rows, block=50)
    found = sample_rows(open_pool(tmp_path), 50, 0, Fields())
    assert 1 <= len({d.row // 50 for d in found}) <= 2


def test_beyond_the_budget_at_least_eight_streamed_shards_stand_for_all(tmp_path, monkeypatch):
    for i in range(20):
        write(tmp_path / f"{i:02d}.jsonl.gz", [{"text": f"shard {i} row {r}"} for r in range(30)])
    write(tmp_path / "x.parquet", [{"text": f"row {r}"} for r in range(600)])
    monkeypatch.setattr(sampling, "_STREAMED_BYTES", 1)
    pool = open_pool(tmp_path)
    seen = Counter(d.shard for d in sample_rows(pool, 100, 0, Fields()))
    assert len(seen) == 9
    assert 40 <= seen["x.parquet"] <= 60
    assert len(sample_rows(pool, 1100, 0, Fields())) == 1100


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".jsonl.xz"])
def test_of_very_large_streamed_shards_the_beginning_is_read(tmp_path, monkeypatch, ending):
    rng = random.Random(0)
    rows = [{"text": f"row {r} {rng.randbytes(40).hex()}"} for r in range(6000)]
    write(tmp_path / f"a{ending}", rows)
    pool = open_pool(tmp_path)
    size = pool.shards[0].size or 0
    whole = sample_rows(pool, 100, 0, Fields())
    monkeypatch.setattr(sampling, "_MOST_BYTES", size)
    assert sample_rows(pool, 100, 0, Fields()) == whole  # it fits
    monkeypatch.setattr(sampling, "_MOST_BYTES", size // 2)
    sample = draw_sample(pool, 100, 0, Fields())
    assert sample == draw_sample(pool, 100, 0, Fields())
    assert not sample.skipped
    assert [d.plain_text for d in sample.documents] == [rows[d.row]["text"] for d in sample.documents]
    numbers = [d.row for d in sample.documents]
    assert len(set(numbers)) == 100
    assert min(numbers) < 600
    assert 2000 < max(numbers) < 3100
    everything = draw_sample(pool, 9000, 0, Fields())
    assert 2000 < len(everything.documents) < 3100
    assert not everything.skipped


def test_damage_within_the_beginning_of_a_large_shard_is_named(tmp_path, monkeypatch):
    rng = random.Random(0)
    path = write(tmp_path / "a.jsonl.gz", [{"text": rng.randbytes(40).hex()} for _ in range(900)])
    content = path.read_bytes() + b"no member of a gzip file" * 9000
    path.write_bytes(content)
    monkeypatch.setattr(sampling, "_MOST_BYTES", len(content) // 2)
    sample = draw_sample(open_pool(tmp_path), 5000, 0, Fields())
    assert [s.reason for s in sample.skipped if s.reason == DAMAGED] == [DAMAGED]


def test_of_very_many_shards_some_are_looked_into(tmp_path, monkeypatch):
    for i in range(12):
        write(tmp_path / f"{i:02d}.jsonl", [{"text": f"shard {i} row {r}"} for r in range(5)])
    monkeypatch.setattr(sampling, "_SHARDS", 4)
    pool = open_pool(tmp_path)
    assert len({d.shard for d in sample_rows(pool, 8, 0, Fields())}) == 4
    assert len(sample_rows(pool, 60, 0, Fields())) == 60


def test_the_size_of_a_pool_is_told_from_the_shards_that_are_looked_into(pool, tmp_path, monkeypatch):
    assert estimated_size(pool, 0) == 2400
    for i in range(30):
        write(tmp_path / f"{i}.parquet", [{"text": "a row"}] * 10, block=10)
    (tmp_path / "one.txt").write_text("a document")
    monkeypatch.setattr(sampling, "_SHARDS", 4)
    assert estimated_size(open_pool(tmp_path), 0) == 300
    assert estimated_size(open_pool([str(tmp_path), str(tmp_path / "one.txt")]), 0) == 301


def test_an_empty_sample_is_refused(pool):
    with pytest.raises(SettingsError, match="expected at least 1"):
        sample_rows(pool, 0, 0, Fields())


def test_a_damaged_file_gives_nothing_and_the_others_all_they_have(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": f"row {r}"} for r in range(30)])
    torn = write(tmp_path / "b.parquet", [{"text": "x"}] * 30)
    torn.write_bytes(torn.read_bytes()[:-9])
    assert len(sample_rows(open_pool(tmp_path), 50, 0, Fields())) == 30


@pytest.mark.slow
def test_of_text_files_only_those_drawn_are_read(tmp_path, monkeypatch):
    for i in range(300):
        (tmp_path / f"{i:03d}.txt").write_text(f"text {i}" if i % 2 else "")
    opened = []
    monkeypatch.setattr(streamed, "open_binary", lambda url: opened.append(url) or open_binary(url))
    monkeypatch.setattr(sampling, "_STREAMED_BYTES", 1)
    pool = open_pool(f"{tmp_path}/*.txt")
    found = sample_rows(pool, 10, 0, Fields())
    assert len(set(places(found))) == 10
    assert found == sample_rows(pool, 10, 0, Fields())
    assert places(found) != places(sample_rows(pool, 10, 1, Fields()))
    assert len(opened) < 3 * 60
    assert len(sample_rows(pool, 1000, 0, Fields())) == 150
    drawn = Counter(d.shard for seed in range(150) for d in sample_rows(pool, 10, seed, Fields()))
    assert len(drawn) == 150  # ten each on average
    assert max(drawn.values()) <= 25


def test_a_sample_names_what_it_could_not_read(tmp_path):
    rows = [{"text": f"row {r}"} for r in range(40)]
    write(tmp_path / "a.jsonl", rows)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": 7}\n{"text": \n')
    for name in ("b.jsonl.gz", "c.parquet"):
        whole = write(tmp_path / name, [{"text": f"{r} {r * r * 7919}"} for r in range(4000)]).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "d.parquet", rows)
    sample = draw_sample(open_pool(tmp_path), 10_000, 0, Fields())
    assert [(s.shard, s.reason) for s in sample.skipped] == [
        ("a.jsonl", "not a string"),
        ("a.jsonl", "undecodable line"),
        ("b.jsonl.gz", DAMAGED),
        ("c.parquet", DAMAGED),
    ]
    broken = sample.skipped[2]
    assert broken.row == sum(d.shard == "b.jsonl.gz" for d in sample.documents)
    assert broken.row > 100
    assert f"{broken.row} rows could be read before" in broken.detail
