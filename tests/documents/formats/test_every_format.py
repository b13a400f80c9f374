from importlib import import_module

import pytest

from curate.documents import formats
from tests.documents.writing import TEXT_ENDINGS, shard_at, write

TESTED_APART = {".txt"}
"""Suffixes of formats whose files hold no columns."""


def test_the_folder_is_the_registry() -> None:
    assert {"arrow", "csv", "jsonl", "parquet", "saved", "txt", "txt_lines"} <= set(formats.names())
    assert not {"contract", "__init__"} & set(formats.names())


@pytest.mark.parametrize("name", formats.names())
def test_a_format_says_in_one_line_what_it_is_and_its_suffixes_are_its_own(name: str) -> None:
    first = (import_module(f"curate.documents.formats.{name}").__doc__ or "").splitlines()[0]
    assert 10 < len(first) <= 120
    for suffix in formats.get(name).suffixes:
        assert suffix.startswith(".")
        assert suffix == suffix.lower()
        assert formats.format_of(f"some.file{suffix}") == name


@pytest.mark.parametrize("name", [n for n in formats.names() if formats.get(n).suffixes])
def test_every_format_is_among_those_that_the_tests_of_rows_write(name: str) -> None:
    assert set(formats.get(name).suffixes) & {*TEXT_ENDINGS, *TESTED_APART}


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
def test_columns_and_numbers_of_rows_are_told_without_reading_all(tmp_path, ending: str) -> None:
    shard = shard_at(write(tmp_path / f"a{ending}", [{"id": f"{i}", "text": f"row {i}"} for i in range(300)], block=50))
    one = formats.get(shard.format)
    assert one.columns(shard) == ["id", "text"]
    assert one.estimated_rows(shard) == pytest.approx(300)


def test_what_lies_beside_data_is_no_shard() -> None:
    names = ["dataset_info.json", "state.json", "README.md", "a.parquet.gz", "a.gz", "jsonl", "a.jsonl.lz4"]
    assert [formats.format_of(n) for n in names] == [None] * len(names)
