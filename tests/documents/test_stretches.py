"""Reading of a large file of lines is taken up near where it ended, and its rows keep their numbers."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate.documents import Course, Fields, Marks, Shard, documents, open_pool, streamed, stretches
from curate.documents import lines as text_lines
from curate.documents.files import open_binary
from curate.documents.rows import Row, rows
from curate.folders.local import LocalFolder

STRETCH = 500


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "STRETCH", STRETCH)
    monkeypatch.setattr(text_lines, "_BLOCK", 64)


def lines(seed: int) -> bytes:
    """Lines of all lengths, blank ones, lines without sense and marks of byte order."""
    rng = random.Random(seed)
    kinds = [
        lambda: json.dumps({"text": "x" * rng.randrange(1, 200)}).encode(),
        lambda: json.dumps({"text": "x" * STRETCH * 3}).encode(),
        lambda: b"",
        lambda: b" \t\r",
        lambda: b'\xef\xbb\xbf{"text": "marked"}',
        lambda: b'{"text": torn',
    ]
    drawn = [rng.choices(kinds, [12, 1, 4, 1, 1, 1])[0]() for _ in range(80)]
    return b"\n".join(drawn) + b"\n" * rng.randrange(2)


def shard_of(path: Path, content: bytes) -> Shard:
    path.write_bytes(content)
    return open_pool(path, txt_lines=True).shards[0]


def marks_in(folder: Path) -> Marks:
    return Marks(LocalFolder(folder), "marks/00000.json")


def read_on(shard: Shard, folder: Path, start: int = 0) -> Iterator[tuple[int, Row]]:
    """Read from the last mark before a row on, and keep marks."""
    marks = marks_in(folder)
    course = Course(start, marks.before(start))
    for numbered_row in rows(shard, course=course):
        marks.reach(course.mark)
        yield numbered_row


@pytest.mark.parametrize("header", [b"text,n\n", b"\nsep=;\n\ntext;n\n", b",n\n"])
def test_a_csv_goes_on_below_whatever_its_header_is(tmp_path: Path, header: bytes) -> None:
    content = header + b'"a\nb";1\nc;2\n'.replace(b";", b";" if b";" in header else b",") * 200
    shard = shard_of(tmp_path / "a.csv", content)
    whole = list(rows(shard))
    assert len(whole) == 400
    assert list(read_on(shard, tmp_path)) == whole
    assert list(read_on(shard, tmp_path, 300)) == whole[300:]


@pytest.mark.parametrize("ending", [".jsonl", ".txt", ".jsonl.gz", ".csv"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_and_what_is_said_of_them_are_those_of_the_whole_file(tmp_path: Path, ending: str, seed: int) -> None:
    content = lines(seed) if ending != ".csv" else b"text,n\n" + b'"a\nb",1\nc,2\n' * 200
    shard = shard_of(tmp_path / f"a{ending}", gzip.compress(content) if ending.endswith("gz") else content)
    whole = list(rows(shard))
    assert list(read_on(shard, tmp_path)) == whole
    for start in (1, 7, len(whole) // 2, len(whole) - 1, len(whole)):
        assert list(read_on(shard, tmp_path, start)) == whole[start:]
    assert (tmp_path / "marks").exists() == (ending != ".jsonl.gz")


def test_marks_depend_on_the_file_alone_and_lie_a_stretch_apart(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.jsonl", lines(0))
    whole = list(read_on(shard, tmp_path / "first"))
    stream = read_on(shard, tmp_path / "later")
    for _ in range(len(whole) // 2):
        next(stream)
    stream.close()
    list(read_on(shard, tmp_path / "later", len(whole) // 2))
    first, later = marks_in(tmp_path / "first"), marks_in(tmp_path / "later")
    assert first.before(len(whole)) == later.before(len(whole))
    assert first.passed == later.passed
    offsets = [mark.offset for mark in first.passed]
    assert len({offset // STRETCH for offset in offsets}) == len(offsets) > 5
    content = (tmp_path / "a.jsonl").read_bytes()
    assert all(content[offset - 1 : offset] == b"\n" for offset in offsets)
    assert [mark.line for mark in first.passed] == [content.count(b"\n", 0, offset) for offset in offsets]


def test_nothing_before_the_mark_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(tmp_path / "a.jsonl", b"".join(b'{"text": "row %d"}\n' % i for i in range(3000)))
    list(read_on(shard, tmp_path))
    mark = marks_in(tmp_path).before(2900)
    read: list[int] = []

    class Noting:
        def __init__(self, stream) -> None:
            self.stream = stream
            self.seek = stream.seek

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def read(self, size: int) -> bytes:
            block = self.stream.read(size)
            read.append(len(block))
            return block

    monkeypatch.setattr(streamed, "open_binary", lambda url: Noting(open_binary(url)))
    assert len(list(documents(shard, Fields(), course=Course(2900, mark)))) == 100
    assert sum(read) < 4 * 100 * 20 + STRETCH


def test_marks_of_another_file_are_forgotten_at_its_first_row(tmp_path: Path) -> None:
    list(read_on(shard_of(tmp_path / "a.jsonl", lines(0)), tmp_path))
    shard = shard_of(tmp_path / "a.jsonl", lines(1))
    whole = list(rows(shard))
    stream = read_on(shard, tmp_path)
    next(stream)
    stream.close()
    assert list(read_on(shard, tmp_path, 40)) == whole[40:]


def test_other_encodings_are_read_whole(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.jsonl", "".join(f'{{"text": "é {i}"}}\n' for i in range(200)).encode("utf-16"))
    whole = list(rows(shard))
    assert len(whole) == 200
    assert list(read_on(shard, tmp_path, 50)) == whole[50:]
