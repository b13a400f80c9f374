import gzip

import pytest
import zstandard

from curate.documents import BadRow, Fields, documents, estimated_rows, open_pool, raw_tables, read_target, rows
from curate.documents.check import check_fields
from curate.documents.formats import txt
from curate.documents.holdout import hold_out
from curate.errors import CurateError, SettingsError
from curate.folders.local import open_folder

TEXT = "\ufeffone\r\n\r\n two\u2028 \nthree"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"four\n"))
    (tmp_path / "c.TXT.zst").write_bytes(zstandard.compress(b"five\n\nsix"))
    return tmp_path


def everything(pool) -> list:
    return [row for shard in pool.shards for _, row in rows(shard)]


def test_a_file_is_one_document_as_it_is(folder):
    pool = open_pool([f"{folder}/*.txt", f"{folder}/*.txt.gz", folder / "c.TXT.zst"])
    assert [row["text"] for row in everything(pool)] == [TEXT[1:], "four\n", "five\n\nsix"]
    assert [estimated_rows(s) for s in pool.shards] == [1, 1, 1]
    assert [t.to_pylist() for s in pool.shards for _, t in raw_tables(s)][1] == [{"text": "four\n"}]
    check_fields(pool, Fields())


def test_by_line_every_line_that_is_not_blank_is_a_document(folder):
    pool = open_pool([folder / "a.txt", folder / "c.TXT.zst"], txt_lines=True)
    assert [row["text"] for row in everything(pool)] == ["one", " two\u2028 ", "three", "five", "six"]
    assert list(rows(pool.shards[0], start=1, only=[0, 2])) == [(2, {"text": "three"})]
    assert [d.row for d in documents(pool.shards[0], Fields())] == [0, 1, 2]
    check_fields(pool, Fields(txt_lines=True))


def test_text_files_are_read_only_where_an_address_names_them(folder):
    with pytest.raises(CurateError, match=r"no readable shard among 3 file(.|\n)*\.txt \(where the address names them"):
        open_pool(folder)
    (folder / "d.jsonl").write_text('{"text": "x"}\n')
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    pool = open_pool(folder)
    assert [s.name for s in pool.shards] == ["d.jsonl"]
    assert "a.txt" in pool.ignored
    assert [s.name for s in open_pool([folder, folder / "a.txt"]).shards] == ["a.txt", "d.jsonl"]


@pytest.mark.parametrize("by_line", [False, True])
def test_what_is_not_utf8_is_set_aside_with_its_line(tmp_path, by_line):
    (tmp_path / "a.txt").write_bytes("ein\n\nZürich\n".encode("latin-1"))
    *_, aside = everything(open_pool(tmp_path / "a.txt", txt_lines=by_line))
    assert isinstance(aside, BadRow)
    assert aside.reason == "undecodable line"
    assert aside.detail.startswith("line 3: not UTF-8")


def test_a_pool_of_text_that_cannot_be_read_is_an_error_that_says_how_to_convert_it(tmp_path):
    (tmp_path / "a.txt").write_bytes("Zürich\n".encode("latin-1"))
    with pytest.raises(CurateError, match=r"none of the first lines is text(.|\n)*iconv"):
        check_fields(open_pool(tmp_path / "a.txt"), Fields())


def test_a_file_too_large_to_be_a_document_says_how_to_read_its_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(txt, "_LARGEST", 1 << 20)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a line\n" * 200_000))
    (aside,) = everything(open_pool(tmp_path / "a.txt.gz"))
    assert aside.reason == "too large"
    assert "--txt-lines" in aside.detail
    assert len(everything(open_pool(tmp_path / "a.txt.gz", txt_lines=True))) == 200_000


def test_an_empty_file_is_set_aside(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    (found,) = documents(open_pool(tmp_path / "a.txt").shards[0], Fields())
    assert found.reason == "empty text"


def test_a_target_of_lines_keeps_lines_aside(tmp_path):
    (tmp_path / "t.txt").write_text("".join(f"row {i}\n" for i in range(10)))
    target = read_target(tmp_path / "t.txt", Fields(txt_lines=True))
    assert len(target.documents) == 10
    split = hold_out(target, 0.3, 0, address=[str(tmp_path / "t.txt")])
    (tmp_path / "run").mkdir()
    split.write(open_folder(tmp_path / "run"))
    kept = open_pool(tmp_path / "run" / "target" / "heldout.jsonl")
    assert [r["text"] for r in everything(kept)] == [d.text for d in split.heldout.documents]
    assert len(read_target(tmp_path / "t.txt", Fields()).documents) == 1


def test_fields_without_the_setting_are_named_as_ever(tmp_path):
    plain = "Fields(text='text', messages='messages', prompt='prompt', completion='completion', id='id')"
    assert str(Fields()) == plain
    assert str(Fields(txt_lines=True)) != plain
    assert Fields(txt_lines=True).renamed == ()
    with pytest.raises(SettingsError, match="txt_lines is 'yes'; expected true or false"):
        Fields(txt_lines="yes")
