import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import DAMAGED, Fields, read_target
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


def test_a_group_that_is_no_number_is_no_group(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "one", "level": NaN}\n{"text": "two", "level": 1.5}\n')
    target = read_target(tmp_path / "t.jsonl", Fields(), group_by="level")
    assert target.groups == ["1.5"]
    assert [s.reason for s in target.skipped] == ["no group"]


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


@pytest.mark.parametrize("ending", [".jsonl.gz", ".parquet"])
def test_a_damaged_file_gives_what_can_be_read_of_the_target(tmp_path, ending):
    rows = [{"text": f"{r} {r * r * 7919}", "lang": "en"} for r in range(4000)]
    whole = write(tmp_path / f"a{ending}", rows).read_bytes()
    (tmp_path / f"a{ending}").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "b.jsonl", ROWS)
    target = read_target(tmp_path, Fields(), group_by="lang")
    (damage, *others) = [s for s in target.skipped if s.shard != "b.jsonl"]
    assert (damage.reason, damage.row) == (DAMAGED, len(target.documents) - 2)
    assert (damage.row > 0) == (ending == ".jsonl.gz")
    assert not others
    (tmp_path / "b.jsonl").unlink()
    if ending == ".parquet":
        with pytest.raises(CurateError, match="not a whole Parquet file"):
            read_target(tmp_path, Fields())


def test_a_bad_value_in_another_column_costs_no_row_its_group(tmp_path):
    good = pa.table({"text": ["one", "two"], "lang": ["en", "de"], "note": pa.array([b"\xff", b"x"])})
    pq.write_table(good.set_column(2, "note", [good["note"].chunk(0).view(pa.string())]), tmp_path / "t.parquet")
    assert read_target(tmp_path / "t.parquet", Fields(), group_by="lang").groups == ["en", "de"]


def test_the_fingerprint_is_of_content_and_groups_wherever_they_lie(tmp_path):
    here = read_target(write(tmp_path / "t.jsonl", ROWS), Fields()).fingerprint()
    there = read_target(write(tmp_path / "x/u.parquet", ROWS), Fields()).fingerprint()
    grouped = read_target(tmp_path / "t.jsonl", Fields(), group_by="level").fingerprint()
    fewer = read_target(write(tmp_path / "v.jsonl", ROWS[:3]), Fields()).fingerprint()
    assert here == there
    assert len({here, grouped, fewer}) == 3


def test_a_target_beside_a_pool_names_its_own_options(tmp_path):
    file = write(tmp_path / "t.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(CurateError, match=r"--target-format-as messages(.|\n)*Leave --target-format-as out"):
        read_target(file, Fields(format_as="messages"), pool_fields=Fields())
    with pytest.raises(CurateError, match=r"\(--format-as messages(.|\n)*Leave --format-as out"):
        read_target(file, Fields(format_as="messages"))


def test_a_target_whose_answers_are_no_text_says_what_to_do(tmp_path):
    write(tmp_path / "a.jsonl", [{"question": "Two and two?", "choices": ["3", "4"], "answer": 1}] * 2)
    with pytest.raises(
        CurateError, match="first of 2 rows set aside: not a string, column 'answer' holds int: 1"
    ) as no:
        read_target(tmp_path / "a.jsonl", None, pool_fields=Fields())
    assert "--target-completion-column" in str(no.value.hint)
