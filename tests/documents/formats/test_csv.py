import gzip
import random
import tracemalloc

import pandas as pd
import pyarrow as pa
import pytest

from curate.documents import BadRow, Course, Fields, documents, estimated_rows, open_pool, raw_tables, rows, sample_rows
from curate.documents.check import check_fields
from curate.documents.formats.csv import FORMAT
from curate.errors import CurateError
from curate.schema import Skipped
from tests.documents.writing import shard_at, write


def shard_of(tmp_path, data: bytes, name: str = "a.csv"):
    (tmp_path / name).write_bytes(data)
    return shard_at(tmp_path / name)


def values(shard) -> list:
    return [row for _, row in rows(shard)]


def test_every_column_is_text_and_an_empty_field_is_null(tmp_path):
    shard = shard_of(tmp_path, b"id,text,n,empty\n007,one,1.50,\nNA,two,-0,\n")
    assert values(shard) == [
        {"id": "007", "text": "one", "n": "1.50", "empty": None},
        {"id": "NA", "text": "two", "n": "-0", "empty": None},
    ]
    assert [d.doc_id for d in documents(shard, Fields())] == ["007", "NA"]
    (_, table), *_ = raw_tables(shard)
    assert [str(t) for t in table.schema.types] == ["string"] * 4
    assert table.to_pylist() == values(shard)


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "|"), ("a.tsv", ",")])
def test_names_that_stand_between_other_separators_are_told_from_the_header(tmp_path, name, separator):
    shard = shard_of(tmp_path, f"\nid{separator}text\n1{separator}one two\n".encode(), name)
    assert values(shard) == [{"id": "1", "text": "one two"}]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (b'id;text;"a, b and c"', ["id", "text", "a, b and c"]),
        (b"id,text,a|b", ["id", "text", "a|b"]),
        (b"text,a;b;c", ["text,a", "b", "c"]),
    ],
)
def test_what_a_header_has_most_of_outside_of_quotes_separates(tmp_path, header, names):
    row = header.replace(b"text", b"one")
    assert FORMAT.columns(shard_of(tmp_path, header + b"\n" + row + b"\n")) == names


@pytest.mark.parametrize("line", [b"sep=;\r\n", b'\xef\xbb\xbf"sep=;"\n', b"\nSEP=;\n", b"sep=;\r"])
def test_a_line_that_states_the_separator_holds_and_is_no_row(tmp_path, line):
    end = b"\n" if b"\n" in line else b"\r"
    shard = shard_of(tmp_path, line + end.join([b"text;a,b,c", b"one, two;1", b"short", b""]))
    first, aside = values(shard)
    assert first == {"text": "one, two", "a,b,c": "1"}
    assert aside.detail.startswith("line 5: " if line.startswith(b"\n") else "line 4: ")


def test_lines_may_end_with_returns_alone(tmp_path):
    lines = [b"id,text", b'1,"one\rtwo"', b"", b"2,three", b"short", b"3," + b"x" * 2000]
    shard = shard_of(tmp_path, b"\r".join(lines) + b"\r")
    first, second, aside, last = values(shard)
    assert (first["text"], second["text"], len(last["text"])) == ("one\rtwo", "three", 2000)
    assert aside.detail.startswith("line 6: ")
    assert [n for n, _ in rows(shard, course=Course(start=2))] == [2, 3]


def test_the_index_that_pandas_leaves_without_a_name_has_its_name(tmp_path):
    assert values(shard_of(tmp_path, b",text\n0,one\n")) == [{"Unnamed: 0": "0", "text": "one"}]


def test_an_encoding_that_is_not_utf8_is_named_with_what_to_do(tmp_path):
    shard_of(tmp_path, "text\ncaf\u00e9\n".encode("cp1252"))
    with pytest.raises(CurateError, match="not UTF-8 in 'text'") as error:
        check_fields(open_pool(tmp_path), Fields())
    assert "iconv" in (error.value.hint or "")


def test_a_single_column_may_hold_what_separates_others(tmp_path):
    assert values(shard_of(tmp_path, b"text\none;two\n")) == [{"text": "one;two"}]


def test_a_byte_order_mark_crlf_and_blank_lines_are_harmless_and_quoted_line_ends_stay(tmp_path):
    shard = shard_of(tmp_path, b'\xef\xbb\xbftext,n\r\n"one,\r\n\r\n""1""",1\r\n\r\n  \r\ntwo,2')
    assert values(shard) == [{"text": 'one,\r\n\r\n"1"', "n": "1"}, {"text": "two", "n": "2"}]


def test_tabs_separate_tsv_and_commas_are_text_there(tmp_path):
    assert values(shard_of(tmp_path, b"text\tn\na,b\t1\n", "my.csv.tsv")) == [{"text": "a,b", "n": "1"}]
    packed = gzip.compress(b'text\tn\n"a\tb"\t1\n')
    assert values(shard_of(tmp_path, packed, "B.TSV.GZ")) == [{"text": "a\tb", "n": "1"}]


def test_a_row_of_one_empty_column_is_a_row_and_a_blank_line_is_none(tmp_path):
    assert values(shard_of(tmp_path, b'text\n""\n\nx\n')) == [{"text": None}, {"text": "x"}]


@pytest.mark.parametrize(
    ("bad", "reason", "said"),
    [
        (b"short", "wrong number of fields", "1 fields; expected 2: text, n"),
        (b"a,b,c", "wrong number of fields", "3 fields"),
        (b'"he said "hi" twice",1', "undecodable line", "',' expected after '\"'"),
        (b"\xff\xfe,1", "undecodable line", "not UTF-8"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line_and_keeps_its_number(tmp_path, bad, reason, said):
    shard = shard_of(tmp_path, b'text,n\n"one\ntwo",1\n\n' + bad + b"\nlast,2\n")
    (_, first), (row, aside), (end, last) = rows(shard)
    assert (first["text"], last["text"], row, end) == ("one\ntwo", "last", 1, 2)
    assert isinstance(aside, BadRow)
    assert aside.reason == reason
    assert aside.detail.startswith("line 5: ")
    assert said in aside.detail
    numbers, table = next(raw_tables(shard))
    assert (numbers.tolist(), table.column("n").to_pylist()) == ([0, 2], ["1", "2"])
    skipped = [d for d in documents(shard, Fields()) if isinstance(d, Skipped)]
    assert [(s.row, s.reason) for s in skipped] == [(1, reason)]


@pytest.mark.parametrize("index", ["", "n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_within_a_file_that_was_joined_is_set_aside(tmp_path, index, mark):
    part = f"{index},text\n0,one\n1,text\n"
    first, own, aside, *_ = values(shard_of(tmp_path, (part + mark + part).encode()))
    assert (first["text"], own["text"]) == ("one", "text")
    assert isinstance(aside, BadRow)
    assert (aside.reason, aside.detail[:7]) == ("a second header", "line 4:")


def test_a_quote_that_is_never_closed_sets_aside_what_it_takes_in(tmp_path):
    shard = shard_of(tmp_path, b'text,n\none,1\n"two,2\nthree,3\n')
    first, aside = values(shard)
    assert first == {"text": "one", "n": "1"}
    assert (aside.reason, aside.detail) == ("undecodable line", "line 3: a quoted field is never closed")


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (b"text,id,text", "line 1: the header names 'text' twice"),
        (b",,text", "line 1: column 2 of the header has no name"),
        (b",text,Unnamed: 0", "line 1: column 1 of the header has no name"),
        (b"text,id, ", "line 1: column 3 of the header has no name"),
        (b"\n\ntext,\xff", "line 3: the header is not UTF-8"),
        (b'text,"id"x', "line 1: the header cannot be read"),
    ],
)
def test_a_header_that_does_not_name_its_columns_is_refused(tmp_path, header, seen):
    shard = shard_of(tmp_path, header + b"\n1,2,3\n")
    with pytest.raises(CurateError, match=f"a.csv, {seen}") as error:
        check_fields(open_pool(tmp_path), Fields())
    assert error.value.hint
    with pytest.raises(CurateError, match=seen):
        values(shard)
    assert estimated_rows(shard) == 0


def test_a_file_without_a_whole_row_is_an_error_before_any_work(tmp_path):
    shard_of(tmp_path, b"text,n\none,1,5\ntwo,2,5\n")
    with pytest.raises(CurateError, match=r"none of the first lines is a whole row; wrong number of fields, line 2"):
        check_fields(open_pool(tmp_path), Fields())


@pytest.mark.parametrize("data", [b"", b"text,n\n", b"\n\n"])
def test_a_file_without_rows_gives_none(tmp_path, data):
    shard = shard_of(tmp_path, data)
    assert values(shard) == []
    assert list(raw_tables(shard)) == []
    with pytest.raises(CurateError, match="hold no rows"):
        check_fields(open_pool(tmp_path), Fields())


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv.zst"])
def test_the_number_of_rows_is_estimated_by_rows_not_by_lines(tmp_path, ending):
    many = [{"id": f"{i:05d}", "text": f"{i}\n" * 40} for i in range(5000)]
    shard = shard_at(write(tmp_path / f"a{ending}", many))
    assert 0.7 * 5000 < estimated_rows(shard) < 1.4 * 5000


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("only", [[], [0], [1, 3, 4]])
def test_chosen_rows_come_alone_and_in_order(tmp_path, only, start):
    some = [{"id": f"0{i}", "text": f'document {i}, "quoted"\nand more'} for i in range(6)]
    shard = shard_at(write(tmp_path / "a.csv", some))
    expected = [(r, some[r]) for r in only if r >= start]
    assert list(rows(shard, only=only, start=start)) == expected
    tables = list(raw_tables(shard, only=only, start=start, batch_rows=2))
    assert [row for _, table in tables for row in table.to_pylist()] == [row for _, row in expected]
    assert [n for numbers, _ in tables for n in numbers.tolist()] == [r for r, _ in expected]


def test_a_field_may_be_longer_than_pythons_own_limit(tmp_path):
    shard = shard_at(write(tmp_path / "a.csv", [{"text": "x" * 200_000}, {"text": "y"}]))
    assert [len(row["text"]) > 1 for row in values(shard)] == [True, False]


@pytest.mark.slow
def test_streaming_a_large_file_needs_little_memory(tmp_path):
    rng = random.Random(0)
    many = [{"text": "\n".join(rng.randbytes(40).hex() for _ in range(20))} for _ in range(10_000)]
    shard = shard_at(write(tmp_path / "a.csv.gz", many))  # 16 MB
    del many
    tracemalloc.start()
    assert sum(1 for _ in rows(shard)) == 10_000
    assert len(sample_rows(open_pool(tmp_path), 5, 0, Fields())) == 5
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20


def test_text_that_is_not_utf8_costs_a_row_only_where_its_column_is_read(tmp_path):
    data = "text,note\none,fine\ntwo,caf\u00e9\n".encode("latin1") + b"na\xefve,fine\n"
    shard = shard_of(tmp_path, data)
    first, second, third = documents(shard, Fields())
    assert (first.text, second.text) == ("one", "two")
    assert (third.reason, third.detail) == ("undecodable line", "line 4: not UTF-8 in 'text'")
    ((numbers, table),) = raw_tables(shard, only=[0, 1, 2])
    assert numbers.tolist() == [0, 1, 2]
    assert table.schema.types == [pa.string()] * 2
    assert table["note"].cast(pa.binary()).to_pylist() == [b"fine", b"caf\xe9", b"fine"]


@pytest.mark.parametrize("separator", [",", ";"])
def test_quotes_behind_backslashes_are_refused_with_the_line_that_doubles_them(tmp_path, separator):
    path = tmp_path / "a.csv"
    path.write_text(f'text{separator}n\n"he said \\"hi\\" there"{separator}007\n')
    ((_, refused),) = rows(shard_at(path))
    assert isinstance(refused, BadRow)
    assert refused.detail.startswith(f"line 2: '{separator}' expected after")
    command = refused.detail.partition("write ")[2].replace("FILE,", f"FILE, sep={separator!r},")
    exec(command, {"pandas": pd, "FILE": path, "NEW": tmp_path / "b.csv"})
    assert list(rows(shard_at(tmp_path / "b.csv"))) == [(0, {"text": 'he said "hi" there', "n": "007"})]
