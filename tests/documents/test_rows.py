import gzip
import io
import json
import tracemalloc
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.documents import (
    BadRow,
    Course,
    DamagedShard,
    Fields,
    check_fields,
    documents,
    estimated_rows,
    open_pool,
    raw_tables,
    rows,
)
from curate.documents.lines import split_lines
from curate.errors import CurateError
from tests.documents.writing import ENDINGS, TEXT_ENDINGS, lines_of, shard_at, write

NASTY = "a\u2028b\u2029c\x85d\rE\x0b\x0c\x1c f\r\ng\0h \ufeff 日本語 \U0001f600"
SOME = [{"id": i, "text": f"document {i} {NASTY}"} for i in range(10)]


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1).map(lambda t: f"x{t}"), min_size=1, max_size=8))
def test_every_text_survives_every_format(tmp_path, ending, texts):
    shard = shard_at(write(tmp_path / f"a{ending}", [{"text": t} for t in texts]))
    assert [d.text for d in documents(shard, Fields())] == texts


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
@pytest.mark.parametrize("start", [0, 1, 3, 5, 9, 10, 99])
def test_starting_at_a_row_equals_slicing(tmp_path, ending, start):
    shard = shard_at(write(tmp_path / f"a{ending}", SOME))
    assert list(rows(shard, start=start)) == list(rows(shard))[start:]
    assert [d.row for d in documents(shard, Fields())] == list(range(10))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("only", [[], [0], [2, 3, 9], list(range(10))])
@pytest.mark.parametrize("start", [0, 3])
def test_chosen_rows_come_alone_and_in_order(tmp_path, ending, only, start):
    shard = shard_at(write(tmp_path / f"a{ending}", SOME))
    expected = [(r, SOME[r]) for r in only if r >= start]
    assert list(rows(shard, only=only, start=start)) == expected
    tables = list(raw_tables(shard, only=only, start=start, batch_rows=2))
    assert [n for numbers, _ in tables for n in numbers.tolist()] == [r for r, _ in expected]
    assert [row for _, table in tables for row in table.to_pylist()] == [row for _, row in expected]
    assert all(len(numbers) == table.num_rows <= 2 for numbers, table in tables)


def test_lines_are_cut_at_newlines_only_whatever_the_blocks():
    data = "a\u2028\r\n\n\x0bb\x85\nlast".encode()
    for size in (1, 2, 5, 100):
        blocks = (data[i : i + size] for i in range(0, len(data), size))
        assert list(split_lines(blocks)) == data.split(b"\n")


def test_a_byte_order_mark_crlf_blank_lines_and_a_missing_last_newline_are_harmless(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n  \t\n{"text": "two"}')
    assert list(rows(shard_at(path))) == [(0, {"text": "one"}), (1, {"text": "two"})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "undecodable line"),
        (b'{"text": "\xff\xfe"}', "undecodable line"),
        (b'{"text": "\\ud800"}', "undecodable line"),
        (b'{"text": "\\ud800", "x": NaN}', "undecodable line"),
        (b'["text"]', "not an object"),
        (b"null", "not an object"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_line_number_and_the_rest_goes_on(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    (_, first), (row, bad), (_, last) = rows(shard_at(path))
    assert (first, last, row) == ({"text": "one"}, {"text": "two"}, 1)
    assert isinstance(bad, BadRow)
    assert bad.reason == reason
    assert bad.detail.startswith("line 3: ")
    (numbers, table) = next(raw_tables(shard_at(path)))
    assert numbers.tolist() == [0, 2]
    assert table.to_pylist() == [{"text": "one"}, {"text": "two"}]


def test_the_nan_that_python_writes_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "NaN", "x": float("inf")}))
    assert list(rows(shard_at(path))) == [(0, {"text": "NaN", "x": float("inf")})]


def test_a_number_beyond_any_double_costs_no_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "x": 1e400, "y": -2E999}\n')
    assert list(rows(shard_at(path))) == [(0, {"text": "a", "x": float("inf"), "y": -float("inf")})]


def test_a_very_long_line_is_one_row(tmp_path):
    text = "x" * 5_000_000
    shard = shard_at(write(tmp_path / "a.jsonl.gz", [{"text": text}, {"text": "short"}]))
    assert [len(d.text) for d in documents(shard, Fields())] == [5_000_000, 5]


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_members_and_frames_follow_one_another(tmp_path, ending, compress):
    path = tmp_path / f"a.jsonl.{ending}"
    data = lines_of(SOME)
    path.write_bytes(b"".join(compress(data[i : i + 50]) for i in range(0, len(data), 50)) + compress(b""))
    assert [r for _, r in rows(shard_at(path))] == SOME


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_streaming_a_large_compressed_shard_needs_little_memory(tmp_path, ending, compress):
    path = tmp_path / f"a.jsonl.{ending}"
    member = compress(lines_of([{"text": f"{i} " * 1000} for i in range(500)]))
    path.write_bytes(member * 20)  # 20 x 2 MB
    tracemalloc.start()
    count = sum(1 for _ in documents(shard_at(path), Fields()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 12 << 20


def test_a_zstandard_stream_without_its_size_and_zero_padding_after_gzip_are_read(tmp_path):
    sink = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(sink, closefd=False) as writer:
        writer.write(lines_of(SOME))
    (tmp_path / "a.jsonl.zst").write_bytes(sink.getvalue())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines_of(SOME)) + b"\0" * 100_000)
    for name in ("a.jsonl.zst", "b.jsonl.gz"):
        assert [r for _, r in rows(shard_at(tmp_path / name))] == SOME


def _gather(stream, found: list) -> None:
    for item in stream:
        found.append(item)  # noqa: PERF402 (what came before an error stays)


@pytest.mark.parametrize("ending", ["gz", "zst", "bz2", "xz"])
def test_a_truncated_stream_gives_what_was_readable_then_an_error(tmp_path, ending):
    many = [{"text": f"{i} " + str(i * i) * 40} for i in range(8_000)]
    path = write(tmp_path / f"a.jsonl.{ending}", many)
    path.write_bytes(path.read_bytes()[:-2000])
    found: list = []
    with pytest.raises(CurateError, match=rf"a.jsonl.{ending}.*ends before its end; \d+ rows") as error:
        _gather(rows(shard_at(path)), found)
    assert 2_000 < len(found) < 8_000
    assert [r for _, r in found] == many[: len(found)]
    assert f"{len(found)} rows could be read" in str(error.value)


@pytest.mark.parametrize("ending", ["gz", "zst", "bz2", "xz"])
def test_what_is_neither_text_nor_a_compressed_stream_is_an_error(tmp_path, ending):
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(b"\x00\x01 not compressed at all")
    with pytest.raises(CurateError, match=r"0 rows could be read"):
        list(rows(shard_at(path)))


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".file.arrow"])
@pytest.mark.parametrize("keep", [1, 10, 0.5])
def test_a_damaged_columnar_file_is_an_error_that_names_it(tmp_path, ending, keep):
    path = write(tmp_path / f"a{ending}", [{"text": f"{i} {NASTY}"} for i in range(300)], block=100)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CurateError, match=rf"a{ending}: not a whole .* file .*\d+ rows"):
        list(rows(shard_at(path)))


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".jsonl", ".jsonl.zst", ".csv", ".json"])
def test_a_pointer_of_git_lfs_is_no_row_and_is_called_one(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n")
    with pytest.raises(DamagedShard, match="pointer of Git LFS"):
        list(rows(shard_at(path)))
    write(tmp_path / "b.jsonl", [{"text": "a"}])
    with pytest.raises(CurateError, match="pointer of Git LFS"):
        check_fields(open_pool(path), Fields())
    check_fields(open_pool(tmp_path), Fields())


def test_a_string_that_is_not_utf8_sets_aside_its_row_only(tmp_path):
    good, bad = [f"row {i}" for i in range(5)], b"\xff\xfe"
    column = pa.array([t.encode() if i != 2 else bad for i, t in enumerate(good)], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    found = [r for _, r in rows(shard_at(tmp_path / "a.parquet"))]
    assert isinstance(found[2], BadRow)
    assert found[2].reason == "undecodable row"
    assert [r["text"] for i, r in enumerate(found) if i != 2] == [t for i, t in enumerate(good) if i != 2]


def test_nanoseconds_are_cut_to_what_a_datetime_holds(tmp_path):
    moment = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    exact = int(moment.timestamp()) * 10**9 + 678901234
    stamps = pa.array([exact], pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"text": ["a"], "when": stamps}), tmp_path / "a.parquet")
    (_, row), *_ = rows(shard_at(tmp_path / "a.parquet"))
    assert row["when"] == moment
    (_, table), *_ = raw_tables(shard_at(tmp_path / "a.parquet"))
    assert table["when"].cast(pa.int64()).to_pylist() == [exact]


def test_tables_keep_native_types_and_join_the_keys_of_lines(tmp_path):
    native = pa.table({"text": pa.array(["a"], pa.large_string()), "n": pa.array([1], pa.int8())})
    pq.write_table(native, tmp_path / "a.parquet")
    (_, table), *_ = raw_tables(shard_at(tmp_path / "a.parquet"))
    assert table.schema.types == native.schema.types
    mixed = [{"text": "a", "k": 1}, {"text": "b", "k": "x", "new": [1]}, {"text": "c", "k": {"z": None}}]
    (_, table), *_ = raw_tables(shard_at(write(tmp_path / "b.jsonl", mixed)))
    assert table.column_names == ["text", "k", "new"]
    assert table["k"].to_pylist() == ["1", "x", '{"z": null}']
    assert table["new"].to_pylist() == [None, [1], None]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".arrow", ".file.arrow"])
def test_a_shard_without_rows_gives_none(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", SOME[:1])
    if ending == ".jsonl":
        path.write_bytes(b"\n\n")
    elif ending == ".parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        schema = pa.schema([("text", pa.string())])
        opener = pa.ipc.new_file if "file" in ending else pa.ipc.new_stream
        with opener(str(path), schema):
            pass
    assert list(documents(shard_at(path), Fields())) == []
    assert list(raw_tables(shard_at(path))) == []


def test_reading_a_large_row_group_needs_little_memory(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.array([f"{i:07d}" * 100 for i in range(60_000)])  # 42 MB in one row group
    pq.write_table(pa.table({"text": text}), path, compression="none", use_dictionary=False)
    del text
    before = pa.total_allocated_bytes()
    peak = 0
    for n, _ in enumerate(documents(shard_at(path), Fields())):
        if n % 1000 == 0:
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert 0 < peak < 16 << 20


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]
)
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_text_of_another_unicode_encoding_is_read(tmp_path, encoding, ending):
    path = write(tmp_path / f"a{ending}", [{"text": "Grüße, \U0001f642"}, {"text": "two"}])
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert [r["text"] for _, r in rows(shard_at(path))] == ["Grüße, \U0001f642", "two"]
    assert estimated_rows(shard_at(path)) >= 2


def test_half_a_character_of_utf_16_sets_its_row_aside_and_a_missing_byte_ends_the_shard(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        '{"text": "one"}\n{"text": "\ud800"}\n{"text": "three"}\n'.encode("utf-16", "surrogatepass") + b"x"
    )
    found: list = []
    with pytest.raises(DamagedShard, match="the UTF-16-LE text is damaged") as error:
        _gather(rows(shard_at(path)), found)
    assert [type(r) for _, r in found] == [dict, BadRow, dict]
    assert error.value.row == 3


@pytest.mark.parametrize("ending", [*TEXT_ENDINGS, ".txt", ".txt.xz"])
def test_a_file_without_a_byte_holds_no_rows(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"")
    shard = shard_at(path)
    assert [r for _, r in rows(shard) if not ending.startswith(".txt")] == []
    assert list(raw_tables(shard)) == [] or ending.startswith(".txt")
    assert estimated_rows(shard) == 0 or ending.startswith(".txt")


@pytest.mark.parametrize("ending", [".jsonl.gz", ".parquet"])
def test_rows_before_the_damage_are_read_alone(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", [{"text": f"{i} " + str(i * i) * 40} for i in range(30_000)], block=10_000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    assert [n for n, _ in rows(shard_at(path), only=[0, 5_000])] == [0, 5_000]
    with pytest.raises(DamagedShard) as error:
        list(rows(shard_at(path)))
    assert 5_000 < error.value.row < 30_000


ODD = {
    "late": pa.array([2**59, None, 0], pa.timestamp("us")),
    "zone": pa.array([0, 1, 2], pa.timestamp("us", "tzlocal()")),
    "broken": pa.array([b"\xff", b"b", b"c"], pa.binary()).view(pa.string()),
    "views": pa.array(["x", None, "z"], pa.string_view()),
    "kinds": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.uint32()), pa.array(["k", "l"], pa.string_view())),
    "hash": pa.array([2**64 - 1, 2**63, 0], pa.uint64()),
}


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_a_bad_value_in_a_column_beside_the_text_costs_no_document(tmp_path, ending):
    table = pa.table({"text": ["a", "b", "c"], **ODD})
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        table = table.set_column(5, "kinds", table["kinds"].cast(pa.dictionary(pa.int32(), pa.string())))
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    found = list(documents(shard_at(path), Fields()))
    assert [d.text for d in found] == ["a", "b", "c"]
    assert [d.metadata["hash"] for d in found] == [2**64 - 1, 2**63, 0]
    assert [d.metadata["views"] for d in found] == ["x", None, "z"]
    assert [d.metadata["late"] for d in found][:2] == [None, None]
    assert found[1].metadata["zone"] == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert [d.metadata.get("broken") for d in found] == [None, "b", "c"]
    (numbers, taken), *_ = raw_tables(shard_at(path), only=[0, 2])
    assert (numbers.tolist(), taken["views"].to_pylist(), taken["kinds"].to_pylist()) == (
        [0, 2],
        ["x", "z"],
        ["k", "k"],
    )


def test_two_columns_of_one_name_are_refused_with_the_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(CurateError, match="two columns are called 'text'"):
        list(documents(shard_at(tmp_path / "a.arrow"), Fields()))


def test_numbers_of_any_length_keep_their_digits(tmp_path):
    numbers = {"n18": 10**18 + 1, "u64": 2**64 - 1, "n20": 2**64, "long": 10**40 + 1, "minus": -(2**63) - 1}
    path = write(tmp_path / "a.jsonl", [{"text": "12345678901234567890", **numbers, "deep": [{"n": 2**80 + 1}]}])
    ((_, row),) = rows(shard_at(path))
    assert row == {"text": "12345678901234567890", **numbers, "deep": [{"n": 2**80 + 1}]}
    (document,) = documents(shard_at(path), Fields())
    assert document.metadata["u64"] == 2**64 - 1
    assert document.metadata["n20"] == str(2**64)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_files_with_byte_order_marks_that_were_joined_are_read_without_them(tmp_path, name):
    lines = ['{"text": "one"}', "\ufeff", '\ufeff{"text": "two"}']
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    shard = open_pool(tmp_path / name, txt_lines=True).shards[0]
    expected = ["one", "two"] if name == "a.jsonl" else [lines[0], lines[2][1:]]
    for course in (None, Course()):
        assert [row["text"] for _, row in rows(shard, course=course)] == expected
