import os
import shutil
from hashlib import md5

import fsspec
import pytest

from curate.documents import open_pool
from curate.errors import SettingsError
from tests.documents.writing import lines_of, write

ROWS = [{"text": "one"}, {"text": "two"}]


def test_a_moved_and_touched_pool_keeps_its_fingerprint(tmp_path):
    write(tmp_path / "a/x.jsonl", ROWS)
    write(tmp_path / "a/sub/y.parquet", ROWS)
    before = open_pool(tmp_path / "a").fingerprint()
    shutil.move(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b/x.jsonl", (1, 1))
    assert open_pool(tmp_path / "b").fingerprint() == before


def test_content_names_and_number_of_shards_change_the_fingerprint(tmp_path):
    path = write(tmp_path / "a/x.jsonl", ROWS)
    seen = {open_pool(tmp_path / "a").fingerprint()}
    path.write_bytes(path.read_bytes().replace(b"one", b"eno"))
    seen.add(open_pool(tmp_path / "a").fingerprint())
    path.rename(tmp_path / "a/z.jsonl")
    seen.add(open_pool(tmp_path / "a").fingerprint())
    write(tmp_path / "a/w.jsonl", ROWS)
    seen.add(open_pool(tmp_path / "a").fingerprint())
    assert len(seen) == 4


def test_a_change_at_the_end_of_a_large_file_changes_the_fingerprint(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": "a" * 1_000_000}, {"text": "end"}])
    before = open_pool(path).fingerprint()
    path.write_bytes(path.read_bytes().replace(b"end", b"END"))
    assert open_pool(path).fingerprint() != before


def test_equal_names_from_several_addresses_are_told_apart_by_their_folders(tmp_path):
    for folder in ["web/en", "web/de", "books"]:
        write(tmp_path / folder / "0.jsonl", ROWS)
    pool = open_pool([tmp_path / "web/en", tmp_path / "web/de", tmp_path / "books"])
    assert [s.name for s in pool.shards] == ["books/0.jsonl", "de/0.jsonl", "en/0.jsonl"]


def test_a_file_reached_twice_is_one_shard(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    assert len(open_pool([tmp_path, path, f"{tmp_path}/*.jsonl"]).shards) == 1


@pytest.mark.parametrize("address", [[], "", [""]])
def test_no_address_is_refused(address):
    with pytest.raises(SettingsError, match="address"):
        open_pool(address)


def test_a_stored_pool_is_known_by_the_digests_of_its_store(monkeypatch):
    store = fsspec.filesystem("memory")
    plain_find = store.find

    def find_with_digests(path, **kwargs):
        found = plain_find(path, **kwargs)
        return {name: {**info, "ETag": md5(store.cat_file(name)).hexdigest()} for name, info in found.items()}

    monkeypatch.setattr(store, "find", find_with_digests)  # memory keeps no digests; S3 and the hub do
    files = {
        "/pa/x.jsonl": lines_of(ROWS),
        "/pb/x.jsonl": lines_of(ROWS),
        "/pc/x.jsonl": lines_of(ROWS[::-1]),
    }
    store.pipe(files)
    first, moved, changed = (open_pool(f"memory://p{folder}").fingerprint() for folder in "abc")
    store.rm(list(files))
    assert first == moved
    assert first != changed


def test_files_of_one_name_in_several_formats_are_said(tmp_path):
    for name in ("a.jsonl", "b/a.parquet", "c.d.jsonl", "c.e.jsonl"):
        write(tmp_path / name, [{"text": "one"}])
    assert "several formats" not in open_pool(tmp_path).listing
    write(tmp_path / "a.csv.gz", [{"text": "one"}])
    assert "by their names the same, in several formats: a.csv, a.jsonl" in open_pool(tmp_path).listing
