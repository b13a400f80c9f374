import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from fsspec.registry import known_implementations

from curate.documents import Fields, documents, open_pool
from curate.documents.addresses import ListedFile, find_shards, hub_url, of_split
from curate.errors import CurateError
from tests.documents.writing import lines_of, write

ROWS = [{"text": "one"}, {"text": "two"}]


def names(address) -> list[str]:
    return [s.name for s in open_pool(address).shards]


def test_a_folder_is_read_recursively_in_sorted_order_and_tells_what_it_ignored(tmp_path):
    for name in ["b.jsonl", "a.parquet", "sub/c.jsonl.zst", "sub/d.arrow"]:
        write(tmp_path / name, ROWS)
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    write(tmp_path / ".cache/e.jsonl", ROWS)
    write(tmp_path / "_delta_log/0.json", [{"commitInfo": {}}])
    write(tmp_path / ".hidden.jsonl", ROWS)
    pool = open_pool(tmp_path)
    assert [s.name for s in pool.shards] == ["a.parquet", "b.jsonl", "sub/c.jsonl.zst", "sub/d.arrow"]
    assert [s.format for s in pool.shards] == ["parquet", "jsonl", "jsonl", "arrow"]
    assert pool.ignored == ("README.md", "dataset_info.json")


def test_a_glob_takes_what_it_matches_and_names_shards_from_before_the_wildcard(tmp_path, monkeypatch):
    for name in ["x/a.jsonl", "x/b.jsonl.gz", "y/a.jsonl"]:
        write(tmp_path / name, ROWS)
    assert names(f"{tmp_path}/*/a.jsonl") == ["x/a.jsonl", "y/a.jsonl"]
    assert names(f"{tmp_path}/**/*.gz") == ["x/b.jsonl.gz"]
    monkeypatch.chdir(tmp_path)
    assert names("x/*.jsonl") == ["a.jsonl"]
    assert names("?") == ["x/a.jsonl", "x/b.jsonl.gz", "y/a.jsonl"]


def test_a_path_with_brackets_that_exists_is_no_glob(tmp_path):
    assert names(write(tmp_path / "part[1].jsonl", ROWS)) == ["part[1].jsonl"]


def test_an_address_with_the_file_protocol_is_a_local_path(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    assert open_pool(f"file://{tmp_path}").shards == open_pool(tmp_path).shards
    assert open_pool(f"file://{path}").shards[0].size == path.stat().st_size


def test_links_in_circles_end_and_a_link_to_nothing_is_an_error(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert names(tmp_path) == ["a.jsonl"]
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(CurateError, match=r"gone.jsonl: a link to a file that is not there"):
        open_pool(tmp_path)


def test_a_saved_dataset_gives_only_the_files_its_state_lists(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    write(tmp_path / "saved/cache-1234.arrow", [{"text": "left over by a map"}])
    pool = open_pool(tmp_path / "saved")
    assert [s.format for s in pool.shards] == ["saved"]
    assert [d.text for d in documents(pool.shards[0], Fields())] == ["one", "two"]
    assert "cache-1234.arrow" in pool.ignored


def test_a_saved_dataset_dict_gives_every_split(tmp_path):
    both = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list([{"text": "three"}])}
    DatasetDict(both).save_to_disk(tmp_path / "saved")
    shards = open_pool(tmp_path / "saved").shards
    assert [Path(s.name).parent.name for s in shards] == ["test", "train"]
    assert [d.text for s in shards for d in documents(s, Fields())] == ["three", "one", "two"]


def test_a_saved_dataset_with_a_missing_file_is_an_error(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path)
    (tmp_path / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(CurateError, match=r"data-00000-of-00001.arrow: listed in state.json"):
        open_pool(tmp_path)


@pytest.fixture
def store():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_an_object_store_is_read_by_folder_glob_and_file(store):
    store.pipe({"/pile/a.jsonl": lines_of(ROWS), "/pile/sub/b.jsonl": lines_of(ROWS), "/pile/card.md": b"x"})
    assert names("memory://pile") == ["a.jsonl", "sub/b.jsonl"]
    assert names("memory://pile/*.jsonl") == ["a.jsonl"]
    (shard,) = open_pool("memory://pile/sub/b.jsonl").shards
    assert (shard.name, shard.size) == ("b.jsonl", len(lines_of(ROWS)))
    assert [d.text for d in documents(shard, Fields())] == ["one", "two"]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow", ".file.arrow"])
def test_every_format_reads_from_an_object_store(store, tmp_path, ending):
    store.pipe(f"/p/a{ending}", write(tmp_path / f"a{ending}", ROWS).read_bytes())
    (shard,) = open_pool("memory://p").shards
    assert [d.text for d in documents(shard, Fields())] == ["one", "two"]


def test_a_missing_backend_names_the_package(monkeypatch):
    monkeypatch.setitem(known_implementations, "nowhere", {"class": "nowherefs.FS", "err": "Install it"})
    with pytest.raises(CurateError, match="pip install nowherefs"):
        open_pool("nowhere://bucket/x")


def test_an_unknown_protocol_says_what_is_known():
    with pytest.raises(CurateError, match="Protocol not known: xyz"):
        open_pool("xyz://a")


def test_a_missing_path_names_its_nearest_neighbour(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(CurateError, match=r"no such file or folder(.|\n)*Did you mean 'train.jsonl'"):
        open_pool(tmp_path / "trian.jsonl")


@pytest.mark.parametrize(
    ("files", "seen"),
    [([], "holds no files"), (["notes.txt", "state.json"], "no readable shard among 2 file.* notes.txt")],
)
def test_a_folder_without_shards_says_what_was_found_and_what_is_read(tmp_path, files, seen):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CurateError, match=rf"{seen}(.|\n)*\.jsonl.*\.parquet"):
        open_pool(tmp_path)


def test_a_pattern_without_matches_says_so(tmp_path):
    with pytest.raises(CurateError, match="the pattern matches no files"):
        open_pool(f"{tmp_path}/*.jsonl")


def test_a_local_path_wins_over_a_hub_id(tmp_path, monkeypatch):
    write(tmp_path / "org/name/a.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert names("org/name") == ["a.jsonl"]


def test_a_hub_id_becomes_an_hf_address_at_its_revision():
    assert hub_url("org/name", None) == "hf://datasets/org/name"
    assert hub_url("org/name", "refs/convert/parquet") == "hf://datasets/org/name@refs%2Fconvert%2Fparquet"


def test_a_hub_id_that_cannot_be_reached_names_both_readings(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CurateError, match=re.escape("no such local file or folder, and as a hub dataset id")):
        find_shards("org/name@main:train")


def test_a_split_is_a_whole_word_of_the_path():
    files = [
        ListedFile(name=n, url=n, size=1)
        for n in [
            "data/train-00000-of-00002.parquet",
            "data/test-00000.parquet",
            "constrained.jsonl",
            "train.md",
        ]
    ]
    assert [f.name for f in of_split(files, "train", "org/name")] == ["data/train-00000-of-00002.parquet"]
    with pytest.raises(CurateError, match=r"no file of the split 'dev'.*test-00000"):
        of_split(files, "dev", "org/name")


def test_a_selection_is_a_pool_without_what_it_rejected(tmp_path: Path) -> None:
    for name in ("train/data-00000.parquet", "rejected/00000-00000.parquet", "manifest.json"):
        (tmp_path / "selected" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            (tmp_path / "selected" / name).write_text("{}")
        else:
            pq.write_table(pa.table({"text": ["a"]}), tmp_path / "selected" / name)
    pool = open_pool(tmp_path / "selected")
    assert [s.name for s in pool.shards] == ["train/data-00000.parquet"]
