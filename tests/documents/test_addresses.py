import json
import os
import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from fsspec.registry import known_implementations

from curate import score, select
from curate.documents import Fields, check_fields, documents, open_pool, raw_tables, sample_rows
from curate.documents.addresses import find_shards, hub_url
from curate.documents.splits import of_split
from curate.errors import CurateError
from tests.documents.writing import lines_of, write
from tests.scoring import make_proxy_folder

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
    (tmp_path / "gone.jsonl").unlink()
    (tmp_path / "round.jsonl").symlink_to(tmp_path / "round.jsonl")
    with pytest.raises(CurateError, match=r"round.jsonl: a link to a file that is not there"):
        open_pool(tmp_path)


def test_a_name_that_is_no_text_is_refused_where_it_is_a_shards(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        Path(os.fsdecode(odd)).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    assert open_pool(tmp_path).ignored == ("caf\\xe9",)
    os.rename(odd, odd + b".jsonl")
    with pytest.raises(CurateError, match=r"caf\\xe9.jsonl: the path is not UTF-8"):
        open_pool(tmp_path)


def test_locks_of_office_programs_are_hidden(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "~$a.csv").write_bytes(b"\x05user")
    pool = open_pool(tmp_path)
    assert [s.name for s in pool.shards] == ["a.jsonl"]
    assert pool.ignored == ()


def test_a_saved_dataset_gives_only_the_files_its_state_lists(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    write(tmp_path / "saved/cache-1234.arrow", [{"text": "left over by a map"}])
    pool = open_pool(tmp_path / "saved")
    assert [s.format for s in pool.shards] == ["saved"]
    assert [d.text for d in documents(pool.shards[0], Fields())] == ["one", "two"]
    assert "cache-1234.arrow" in pool.ignored


def test_what_datasets_keeps_of_maps_beside_a_dataset_in_its_cache_is_left_out(tmp_path):
    for name in ("json-train.arrow", "cache-0a1b2c3d4e5f6789.arrow", "cache-0a1b2c3d4e5f6789_00001_of_00002.arrow"):
        write(tmp_path / "cache" / name, ROWS)
    (tmp_path / "cache/dataset_info.json").write_text("{}")
    write(tmp_path / "alone/cache-0a1b2c3d4e5f6789.arrow", ROWS)
    assert names(tmp_path) == ["alone/cache-0a1b2c3d4e5f6789.arrow", "cache/json-train.arrow"]


def test_a_saved_dataset_dict_gives_train_and_another_split_where_it_is_named(tmp_path):
    both = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list([{"text": "three"}])}
    DatasetDict(both).save_to_disk(tmp_path / "saved")
    for address, split, texts in [("saved", "train", ["one", "two"]), ("saved:test", "test", ["three"])]:
        shards = open_pool(f"{tmp_path}/{address}").shards
        assert [Path(s.name).parent.name for s in shards] == [split]
        assert [d.text for s in shards for d in documents(s, Fields())] == texts


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


def test_a_pattern_in_an_object_store_takes_what_lies_in_folders_too(store):
    store.pipe({name: lines_of(ROWS) for name in ("/pile/a.jsonl", "/pile/sub/b.jsonl", "/pile/.git/c.jsonl")})
    assert names("memory://pile/*") == ["a.jsonl", "sub/b.jsonl"]
    assert names("memory://pile/s*") == ["sub/b.jsonl"]


def test_a_pattern_is_read_where_a_store_refuses_to_look_above_its_buckets(store, monkeypatch):
    isdir = type(store).isdir

    def refusing(self, path):
        if path == "/pile/_delta_log":
            raise NotImplementedError("lists of repositories")
        return isdir(self, path)

    monkeypatch.setattr(type(store), "isdir", refusing)
    store.pipe({"/pile/sub/a.parquet": b"PAR1"})
    assert names("memory://pile/*/*.parquet") == ["sub/a.parquet"]


def test_a_split_in_an_object_store_is_read_where_it_is_named(store):
    store.pipe({f"/pile/{name}.jsonl": lines_of(ROWS) for name in ("train", "test")})
    assert names("memory://pile") == ["train.jsonl"]
    assert names("memory://pile:test") == ["test.jsonl"]
    with pytest.raises(CurateError, match="no file of the split 'dev'"):
        open_pool("memory://pile:dev")


@pytest.mark.parametrize(
    ("address", "said"),
    [("{a,b}/*.jsonl", "Braces"), ("a-{00..01}.jsonl", "Braces"), ("a.jsonl,b.jsonl", "Commas separate no addresses")],
)
def test_braces_and_commas_for_several_addresses_are_told_so(tmp_path, address, said):
    write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(CurateError) as refused:
        open_pool(f"{tmp_path}/{address}")
    assert str(refused.value.hint).startswith(said)
    (tmp_path / address.partition("/")[0]).mkdir()
    write(tmp_path / address.partition("/")[0] / "c.jsonl", ROWS)
    assert names(f"{tmp_path}/{address.partition('/')[0]}") == ["c.jsonl"]


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
    [
        ([], "holds no files"),
        (["notes.txt", "state.json"], r"no readable shard among 2 file.* notes.txt(.|\n)*/\*\*/\*.txt'"),
        (["a.parquet.gz"], r"no readable shard among 1 file(.|\n)*Unpack a.parquet.gz"),
        (["notes.md", "0.tar"], r"no readable shard among 2 file(.|\n)*Unpack 0.tar"),
    ],
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
    names = ["data/train-00000-of-00002.parquet", "data/test-00000.parquet", "constrained.jsonl"]
    assert of_split(names, "train", card=None, address="org/name") == ["data/train-00000-of-00002.parquet"]
    with pytest.raises(CurateError, match=r"no file of the split 'dev'.*test-00000"):
        of_split(names, "dev", card=None, address="org/name")


def test_of_a_folder_with_splits_train_is_read_and_files_without_a_split_with_it(tmp_path):
    for name in ["data/train-0.parquet", "data/test-0.parquet", "dev.jsonl", "more.jsonl", "contest.jsonl"]:
        write(tmp_path / name, ROWS)
    pool = open_pool(tmp_path)
    assert [s.name for s in pool.shards] == ["contest.jsonl", "data/train-0.parquet", "more.jsonl"]
    assert pool.other_splits == ("data/test-0.parquet", "dev.jsonl")
    assert pool.listing == "3 shards; of other splits, which FOLDER:SPLIT reads: data/test-0.parquet, dev.jsonl"
    assert names(f"{tmp_path}:train") == ["data/train-0.parquet"]
    assert names(f"{tmp_path}:validation") == ["dev.jsonl"]
    with pytest.raises(CurateError, match=r"no file of the split 'tset'(.|\n)*Splits there: test, train, validation"):
        open_pool(f"{tmp_path}:tset")


def test_a_folder_of_test_files_alone_is_read_whole_and_so_is_a_pattern(tmp_path):
    write(tmp_path / "test-0.jsonl", ROWS)
    write(tmp_path / "test-1.jsonl", ROWS)
    assert names(tmp_path) == ["test-0.jsonl", "test-1.jsonl"]
    write(tmp_path / "train.jsonl", ROWS)
    assert names(f"{tmp_path}/*.jsonl") == ["test-0.jsonl", "test-1.jsonl", "train.jsonl"]


def test_a_card_that_lists_data_files_decides_their_splits(tmp_path):
    for name in ["en/a.jsonl", "en/b.jsonl", "de/a.jsonl", "notes/x.jsonl"]:
        write(tmp_path / name, ROWS)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/a.*\n"
        "  - split: held_out\n    path: [en/b.jsonl]\n- config_name: de\n  data_files: de/**\n---\ntext"
    )
    assert names(tmp_path) == ["de/a.jsonl", "en/a.jsonl"]
    assert names(f"{tmp_path}:held_out") == ["en/b.jsonl"]
    assert open_pool(tmp_path).other_splits == ("en/b.jsonl", "notes/x.jsonl")


def test_a_folder_whose_name_ends_like_a_split_is_itself(tmp_path):
    write(tmp_path / "web:train/a.jsonl", ROWS)
    assert names(tmp_path / "web:train") == ["a.jsonl"]
    assert names(tmp_path / "web:train/a.jsonl") == ["a.jsonl"]


@pytest.mark.parametrize("name", ["A.JSONL", "b.Parquet", "c.jsonl.GZ", "d.jsonl.gz?download=true", "e.jsonl?x=1.csv"])
def test_endings_in_capitals_and_before_a_query_are_known(tmp_path, name):
    kind = name.split("?")[0].lower()
    write(tmp_path / f"x{kind[1:]}", ROWS).rename(tmp_path / name)
    (shard,) = open_pool(tmp_path).shards
    assert [d.text for d in documents(shard, Fields())] == ["one", "two"]


def test_a_question_mark_in_a_name_is_no_query(tmp_path):
    write(tmp_path / "what? [1] #2 100%.jsonl", ROWS)
    assert names(tmp_path) == ["what? [1] #2 100%.jsonl"]


def test_json_that_is_no_data_is_left_out_beside_shards_and_said(tmp_path):
    write(tmp_path / "data/a.parquet", ROWS)
    write(tmp_path / "b.json", [{"text": "three", "id": 3}])
    (tmp_path / "stats.json").write_text('{"rows": 2,\n "columns": [\n{"name": "text"}\n]}')
    (tmp_path / "index.json").write_text('{"weights": {"a": 1}}')
    (tmp_path / "list.json").write_text('["a", "b"]')
    pool = open_pool(tmp_path)
    assert [s.name for s in pool.shards] == ["b.json", "data/a.parquet"]
    assert pool.listing == "2 shards; not read: 3 .json"


def test_an_index_of_files_that_are_not_read_is_no_data(tmp_path):
    index = {"shards": [{"column_names": ["text"], "raw_data": {"basename": "shard.0.mds"}}], "version": 2}
    (tmp_path / "train").mkdir()
    (tmp_path / "train/index.json").write_text(json.dumps(index))
    (tmp_path / "train/shard.0.mds").write_bytes(b"\1")
    with pytest.raises(CurateError, match=r"no readable shard among 2 file.*: train/index\.json, train/shard") as no:
        open_pool(tmp_path)
    assert "Of train/shard.0.mds, write the rows as Parquet" in str(no.value.hint)
    (tmp_path / "train/shard.0.mds").rename(tmp_path / "notes.md")
    assert names(tmp_path) == ["train/index.json"]


def test_rows_in_a_json_array_are_data_where_they_have_a_column_of_the_others(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "rows.json").write_text('\ufeff [\n {"text": "three"},\n {"text": "four"}\n]', encoding="utf-8")
    (tmp_path / "stats.json").write_text('[\n1,\n{"rows": 2}\n]')
    (tmp_path / "index.json").write_text('[{"file": "a.jsonl"}, {"file": "b.jsonl"}]')
    pool = open_pool(tmp_path)
    assert [s.name for s in pool.shards] == ["a.jsonl", "rows.json"]
    assert pool.listing == "2 shards; not read: 2 .json"


def test_beside_arrays_alone_a_single_object_is_no_data(tmp_path):
    (tmp_path / "rows.json").write_text('[{"text": "three"}, {"text": "four"}]')
    (tmp_path / "config.json").write_text('{\n "rows": 2\n}')
    assert names(tmp_path) == ["rows.json"]


def test_a_folder_of_json_alone_is_read_as_lines(tmp_path):
    write(tmp_path / "a.json", ROWS)
    write(tmp_path / "b.json", [{"text": "three"}])
    (tmp_path / "stats.json").write_text('{\n "rows": 2\n}')
    assert names(tmp_path) == ["a.json", "b.json"]


def test_what_is_not_read_is_one_line_by_ending(tmp_path):
    for name in ["a.jsonl", "b.jsonl.gz"]:
        write(tmp_path / name, ROWS)
    for name in ["README.md", "x.csv.lz4", "y.tar.gz", "z.tar.gz", "LICENSE"]:
        (tmp_path / name).write_text("x")
    assert open_pool(tmp_path).listing == "2 shards; not read: LICENSE, README.md, x.csv.lz4, 2 .tar.gz"
    (tmp_path / "c.jsonl.gz").write_bytes(b"")
    assert open_pool(tmp_path).listing.startswith("3 shards; without a byte: c.jsonl.gz; not read: LICENSE")


def test_a_file_beside_its_compressed_form_is_said(tmp_path):
    for name in ("a.jsonl", "a.jsonl.gz", "b.jsonl", "c.jsonl.gz", "sub/b.jsonl.zst"):
        write(tmp_path / name, ROWS)
    listing = open_pool(tmp_path).listing
    assert listing == "5 shards; by their names the same, plain and compressed: a.jsonl, a.jsonl.gz"


def test_folders_that_name_a_value_give_rows_a_column_unless_the_file_has_it(tmp_path):
    write(tmp_path / "lang=en/year=2024/a.parquet", [{"text": "one", "year": 1}])
    write(tmp_path / "lang=d%20e/year=__HIVE_DEFAULT_PARTITION__/a.jsonl", [{"text": "two"}])
    pool = open_pool(tmp_path)
    found = [d.metadata for s in pool.shards for d in documents(s, Fields())]
    assert found == [{"lang": "d e", "year": None}, {"lang": "en", "year": 1}]
    assert [t.to_pylist() for s in pool.shards for _, t in raw_tables(s)] == [
        [{"text": "two", "lang": "d e", "year": None}],
        [{"text": "one", "year": 1, "lang": "en"}],
    ]
    assert {d.metadata["lang"] for d in sample_rows(pool, 2, 0, Fields())} == {"en", "d e"}
    check_fields(pool, Fields(), also=("lang",))


def test_a_pattern_below_a_folder_with_pattern_characters_is_found(tmp_path):
    write(tmp_path / "data [1]*/a.jsonl", ROWS)
    assert names(f"{tmp_path}/data [1]*/*.jsonl") == ["a.jsonl"]


def test_a_selection_is_a_pool_without_what_it_rejected(tmp_path: Path) -> None:
    for name in ("train/data-00000.parquet", "rejected/00000-00000.parquet", "manifest.json"):
        (tmp_path / "selected" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            (tmp_path / "selected" / name).write_text("{}")
        else:
            pq.write_table(pa.table({"text": ["a"]}), tmp_path / "selected" / name)
    pool = open_pool(tmp_path / "selected")
    assert [s.name for s in pool.shards] == ["train/data-00000.parquet"]


def test_what_curate_wrote_below_a_pool_is_no_part_of_it(tmp_path: Path) -> None:
    proxy, data = make_proxy_folder(tmp_path / "proxy"), tmp_path / "data"
    write(data / "a.jsonl", ROWS)
    before = open_pool(data).fingerprint()
    target = write(tmp_path / "target.jsonl", [{"text": "three and four"}])
    run = score(target=target, pool=data, model=str(proxy), method="length", out=data / "runs" / "one")
    select(run, top="100%", out=data / "kept", decontaminate=False)
    select(run, top="50%", out=data / "again", decontaminate=False)
    assert open_pool(data).fingerprint() == before
    # Another tool's records may have the names of ours.
    write(data / "other" / "b.jsonl", ROWS)
    (data / "other" / "run.json").write_text('{"settings": 1}')
    pool = open_pool(data)
    assert [s.name for s in pool.shards] == ["a.jsonl", "other/b.jsonl"]
    assert {"again/", "kept/", "runs/one/"} <= set(pool.ignored)
    assert open_pool(data / "kept").shards
    # Nor do patterns reach it that match its tables, but for those that lead into it.
    pattern = open_pool(f"{data}/**/*.*")
    assert [s.name for s in pattern.shards] == ["a.jsonl", "other/b.jsonl"]
    assert {"again/", "kept/", "runs/one/"} <= set(pattern.ignored)
    tables = open_pool(f"{data}/runs/one/scores/*.parquet")
    with pytest.raises(CurateError, match=r"no column to read text from(.|\n)*runs/one holds results of curate"):
        check_fields(tables, Fields())


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    for name in ("a.jsonl", "closed/b.jsonl", ".hidden/c.jsonl"):
        write(tmp_path / name, ROWS)
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) in ("closed", ".hidden"):  # the superuser of tests may list any folder
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CurateError, match=r"closed: the folder cannot be listed \(Permission denied\)") as refused:
        open_pool(tmp_path)
    assert "Allow reading it" in str(refused.value.hint)
    (tmp_path / "closed/b.jsonl").unlink()
    (tmp_path / "closed").rmdir()
    assert names(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("part-00000", "name it part-00000.jsonl. "),
        ("part-00000.gz", "name it part-00000.jsonl.gz. "),
        ("a.tar.gz", "Unpack a.tar.gz"),
        ("a.jsonl.lz4", "Unpack a.jsonl.lz4"),
        ("a.warc.wet.gz", "name it a.warc.wet.jsonl.gz. "),
    ],
)
def test_what_to_do_about_files_that_are_not_read_depends_on_their_endings(tmp_path, name, advice):
    write(tmp_path / "a.jsonl", ROWS).rename(tmp_path / name)
    with pytest.raises(CurateError, match="no readable shard") as refused:
        open_pool(tmp_path)
    assert advice in str(refused.value.hint)


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("a.jsonl-00000-of-00002", b'{"text": "x"}\n', "begins as JSON does; name it a.jsonl-00000-of-00002.jsonl. "),
        ("a.jl", b'{"text": "x"}\n', "a.jl begins as JSON does; name it a.jl.jsonl. "),
        ("a.psv", b"text|n\nx|1\n", "name a.psv so. "),
        ("a.tfrecord-00000-of-00002", b"\x10\0\0\0", "Of a.tfrecord-00000-of-00002, write the rows as Parquet"),
        ("a.db", b"SQLite format 3\0", "a.db is a database, and no text. Write its table"),
        ("a.wet", b"WARC/1.0\r\n", "Readable: "),
        ("rows", b"Obj\1\4\x14avro.codec", "rows is an Avro file, and no text. Write its rows"),
    ],
)
def test_what_to_do_about_files_that_are_not_read_depends_on_their_first_bytes(tmp_path, name, content, advice):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "_SUCCESS").write_bytes(b"")
    with pytest.raises(CurateError, match="no readable shard") as refused:
        open_pool(tmp_path)
    assert advice in str(refused.value.hint)
    assert str(refused.value.hint).startswith("Readable: ") == (advice == "Readable: ")


@pytest.mark.parametrize(
    ("page", "data"),
    [
        ("https://huggingface.co/datasets/org/name", "org/name"),
        ("huggingface.co/datasets/org/na.me/", "org/na.me"),
        ("https://hf.co/datasets/org/name/viewer/default/train?p=1", "org/name"),
        ("https://huggingface.co/datasets/org/name?row=3", "org/name"),
        ("https://huggingface.co/datasets/org/name/tree/main", "org/name"),
        ("https://huggingface.co/datasets/org/name/tree/v2", "org/name@v2"),
        ("https://huggingface.co/datasets/org/name/tree/main/data", "hf://datasets/org/name@main/data"),
        ("https://huggingface.co/datasets/org/name/blob/main/a/b.jsonl", "hf://datasets/org/name@main/a/b.jsonl"),
    ],
)
def test_a_page_of_the_hub_is_refused_with_the_address_of_its_data(page, data):
    with pytest.raises(CurateError, match="a page of the hub, and no data") as refused:
        open_pool(page)
    assert refused.value.hint == f"Give {data}."


def test_a_link_to_a_file_of_the_hub_is_no_page(monkeypatch):
    monkeypatch.setattr("curate.documents.addresses._remote_files", lambda url: [])
    with pytest.raises(CurateError, match="holds no files"):
        open_pool("https://huggingface.co/datasets/org/name/resolve/main/a.jsonl")


@pytest.mark.parametrize("key", ["_indices_data_files", "_indices_files"])
def test_a_saved_dataset_with_a_list_of_its_rows_is_refused(tmp_path, key):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "d")
    state = json.loads((tmp_path / "d/state.json").read_text())
    (tmp_path / "d/state.json").write_text(json.dumps(state | {key: []}))
    assert len(names(tmp_path / "d")) == 1
    (tmp_path / "d/state.json").write_text(json.dumps(state | {key: [{"filename": "indices.arrow"}]}))
    with pytest.raises(CurateError, match="a list of the rows") as refused:
        open_pool(tmp_path / "d")
    assert "flatten_indices" in str(refused.value.hint)
