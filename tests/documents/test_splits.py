import json
from pathlib import Path
from typing import Any

import pytest

from curate.documents import open_pool
from curate.errors import CurateError
from tests.documents.writing import write

NAMES = ("a/test.jsonl", "a/train.jsonl", "b/train.jsonl")


def names(address: Any) -> list[str]:
    return [s.name for s in open_pool(address).shards]


def folder(path: Path, configs: list[dict[str, Any]], files: tuple[str, ...] = NAMES) -> Path:
    for name in files:
        write(path / name, [{"text": name}])
    (path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n# Card\n", encoding="utf-8")
    return path


def config(name: str, splits: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"config_name": name, "data_files": [{"split": s, "path": p} for s, p in splits.items()], **more}


def test_a_default_configuration_stands_for_the_dataset_and_others_are_read_by_name(tmp_path):
    # As FineWeb's: samples of the default lie beside it.
    configs = [config("default", {"train": "a/train*"}), config("sample-10BT", {"train": "b/*"})]
    for rows in (configs, [config("x", {"train": "a/train*"}, default=True), configs[1]]):
        pool = open_pool(folder(tmp_path, rows))
        assert [s.name for s in pool.shards] == ["a/train.jsonl"]
        assert pool.other_splits == ("a/test.jsonl", "b/train.jsonl")
        assert names(f"{tmp_path}:sample-10BT") == ["b/train.jsonl"]


def test_configurations_without_a_default_are_read_together_and_said(tmp_path):
    configs = [config("en", {"train": "a/train*", "test": "a/test*"}), config("de", {"train": "b/*"})]
    pool = open_pool(folder(tmp_path, configs))
    assert [s.name for s in pool.shards] == ["a/train.jsonl", "b/train.jsonl"]
    assert "all of the card's configurations, each of which FOLDER:NAME reads: en, de" in pool.listing
    assert names(f"{tmp_path}:en") == ["a/train.jsonl"]
    assert names(f"{tmp_path}:test") == ["a/test.jsonl"]
    assert "configurations" not in open_pool(f"{tmp_path}:en").listing
    with pytest.raises(CurateError, match=r"Splits there: test, train, de, en"):
        open_pool(f"{tmp_path}:fr")


def test_a_split_that_trains_by_its_name_is_read_and_of_several_one_is_to_be_named(tmp_path):
    # As UltraChat's: `test_sft` is none of the training data.
    pool = open_pool(folder(tmp_path, [config("default", {"train_sft": "a/train*", "test_sft": "a/test*"})]))
    assert [s.name for s in pool.shards] == ["a/train.jsonl"]
    folder(tmp_path, [config("default", {"train_sft": "a/train*", "test_sft": "a/test*", "train_gen": "b/*"})])
    with pytest.raises(CurateError, match="several splits to train on: train_sft, train_gen") as refused:
        open_pool(tmp_path)
    assert f"{tmp_path}:train_sft" in str(refused.value.hint)
    assert names(f"{tmp_path}:train_gen") == ["b/train.jsonl"]
    folder(tmp_path, [config("default", {"en": "a/t*", "de": "b/*"})])
    assert names(tmp_path) == list(NAMES)


@pytest.mark.parametrize(
    "data_files",
    [
        {"train": "[!b]/train*", "test": ["a/test.jsonl"]},
        [{"split": "train", "path": "[!b]/train*"}],
        [{"split": "train", "path": ["a/[!e]rain*"]}],
    ],
)
def test_files_may_be_listed_by_split_and_by_letters_that_they_lack(tmp_path, data_files):
    assert names(folder(tmp_path, [{"config_name": "x", "data_files": data_files}])) == ["a/train.jsonl"]
