import pytest

from curate.documents import Fields, read_target
from curate.errors import CurateError
from tests.documents.writing import write

ROWS = [
    {"id": "a", "text": "one", "lang": "en", "level": 2},
    {"id": "b", "text": "two", "lang": None, "level": 1},
    {"id": "c", "text": " ", "lang": "de", "level": 1},
    {"id": "d", "text": "four", "lang": "de", "level": 1},
]


def test_without_a_group_column_there_is_one_group(tmp_path):
    target = read_target(write(tmp_path / "t.jsonl", ROWS), Fields(), group_by=None)
    assert [d.doc_id for d in target.documents] == ["a", "b", "d"]
    assert target.groups == ["target"] * 3
    assert [(s.reason, s.row) for s in target.skipped] == [("empty text", 2)]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".parquet"])
def test_groups_follow_a_column_and_rows_without_a_value_are_set_aside(tmp_path, ending):
    target = read_target(write(tmp_path / f"t{ending}", ROWS), Fields(), group_by="lang")
    assert [(d.doc_id, g) for d, g in zip(target.documents, target.groups, strict=True)] == [
        ("a", "en"),
        ("d", "de"),
    ]
    assert [(s.doc_id, s.reason) for s in target.skipped] == [("b", "no group"), ("c", "empty text")]
    assert target.group_names == ("de", "en")


def test_group_values_become_strings_and_any_column_can_group(tmp_path):
    path = write(tmp_path / "t.jsonl", ROWS)
    assert read_target(path, Fields(), group_by="level").groups == ["2", "1", "1"]
    assert read_target(path, Fields(), group_by="id").groups == ["a", "b", "d"]


def test_a_missing_group_column_names_the_nearest(tmp_path):
    with pytest.raises(CurateError, match=r"no column 'langs'.*id, text, lang, level(.|\n)*mean 'lang'"):
        read_target(write(tmp_path / "t.jsonl", ROWS), Fields(), group_by="langs")


def test_a_target_without_documents_says_why(tmp_path):
    with pytest.raises(CurateError, match="holds no document; the first of 1 rows set aside: empty text"):
        read_target(write(tmp_path / "t.jsonl", ROWS[2:3]), Fields())


def test_the_fingerprint_is_of_content_and_groups_wherever_they_lie(tmp_path):
    here = read_target(write(tmp_path / "t.jsonl", ROWS), Fields()).fingerprint()
    there = read_target(write(tmp_path / "x/u.parquet", ROWS), Fields()).fingerprint()
    grouped = read_target(tmp_path / "t.jsonl", Fields(), group_by="level").fingerprint()
    fewer = read_target(write(tmp_path / "v.jsonl", ROWS[:3]), Fields()).fingerprint()
    assert here == there
    assert len({here, grouped, fewer}) == 3
