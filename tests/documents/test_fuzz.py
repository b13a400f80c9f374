"""Whatever a file holds: each of its rows is a document or set aside, and nothing but CurateError is raised."""

import bz2
import gzip
import io
import json
import lzma
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import curate
from curate.documents import DamagedShard, documents
from curate.errors import CurateError
from curate.fields import Fields
from curate.schema import Document
from curate.scores.session import open_session
from curate.selection.select import select
from tests.documents.writing import shard_at
from tests.scoring import make_project
from tests.selection.generated import json_rows, json_value, text

SHAPES = (
    *("text", "messages", "conversations", "conversation", "prompt", "completion", "instruction", "input", "output"),
    *("system", "tools", "chosen", "id", "role", "content", "tool_calls", "question", "answer", "content_hash"),
)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def any_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(40))


def any_text(rng: random.Random) -> bytes:
    return (text(rng) + text(rng)).encode("utf-8", "surrogatepass")


def a_row(rng: random.Random) -> bytes:
    return json.dumps(json_rows(rng, 1)[0], ensure_ascii=rng.random() < 0.5).encode()


def a_shape(rng: random.Random) -> bytes:
    """A row with the keys of training rows, of which the values are anything."""
    turn = {rng.choice(("role", "from", "content", "value", "tool_calls")): json_value(rng) for _ in range(3)}
    turn |= {"role": rng.choice(("user", "assistant", "tool", 1))} if rng.random() < 0.8 else {}
    values = (
        lambda: json_value(rng),
        lambda: [turn],
        lambda: [turn, turn],
        lambda: "words",
        lambda: json.dumps([turn]),
    )
    return json.dumps({key: rng.choice(values)() for key in rng.sample(SHAPES, rng.randrange(1, 5))}).encode()


def deep(rng: random.Random) -> bytes:
    levels = rng.choice((5, 130, 300, 1100, 100_000))
    key = rng.choice(SHAPES).encode()
    return b'{"text": "t", "' + key + b'": ' + b"[" * levels + b"]" * rng.choice((levels, levels - 1)) + b"}"


def a_number(rng: random.Random) -> bytes:
    number = rng.choice(("9" * 5000, "1e999", "-0", "0.1e-400", "NaN", "-Infinity", "1" * 30, "00", "+1", "0x1"))
    return f'{{"text": "t", "{rng.choice(SHAPES)}": {number}}}'.encode()


def mutated(rng: random.Random) -> bytes:
    """A good row with some bytes of it lost, added or changed."""
    line = bytearray(rng.choice((a_row, a_shape))(rng))
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(line) + 1)
        line[place : place + rng.randrange(3)] = rng.choice((b"", b"\\", b'"', b"\\ud800", b"\xff", b"{", b"\0", b"\r"))
    return bytes(line)


def fuzzed(rng: random.Random, count: int) -> list[bytes]:
    """Lines of every kind, none of which holds a line end."""
    kinds = (any_bytes, any_text, a_row, a_shape, a_shape, mutated, mutated, a_number)
    lines = [rng.choice(kinds)(rng) if rng.random() < 0.999 else deep(rng) for _ in range(count)]
    return [line.replace(b"\n", b"") for line in lines]


def check_read(path: Path, count: int | None, cut: bool) -> int:
    """Read a file; return how many rows it gave."""
    numbers: list[int] = []
    reached: int | None = None
    try:
        for document in documents(shard_at(path), Fields()):
            assert isinstance(document, Document) or (document.reason and document.detail)
            numbers.append(document.row)
    except DamagedShard as error:
        reached, count = error.row, None
    except CurateError:  # the file as a whole: a csv without a header
        assert path.name.startswith("table")
    assert reached is None or (cut and reached == len(numbers))
    assert numbers == list(range(len(numbers)))
    assert count is None or len(numbers) == count
    return len(numbers)


def read_lines(folder: Path, rng: random.Random, count: int) -> int:
    lines = fuzzed(rng, count)
    packing = rng.choice(list(PACK))
    data = PACK[packing](b"\n".join([b'{"text": "first"}', *lines]) + b"\n")
    cut = bool(packing) and rng.random() < 0.5
    path = folder / f"lines.jsonl{packing}"
    path.write_bytes(data[: rng.randrange(len(data))] if cut else data)
    return check_read(path, 1 + sum(bool(line.strip(b" \t\r")) for line in lines), cut)


def read_table(folder: Path, rng: random.Random, count: int) -> int:
    kinds = (any_bytes, any_text, a_row)
    lines = [b",".join(rng.choice(kinds)(rng) for _ in range(rng.choice((1, 2, 2, 2, 3)))) for _ in range(count)]
    path = folder / f"table{rng.choice(('.csv', '.tsv', '.csv.gz'))}"
    data = b"\n".join([rng.choice((b"text,a", b"text\ta", b"\xef\xbb\xbftext,a", any_text(rng))), *lines])
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return check_read(path, None, cut=False)


def read_encoded(folder: Path, rng: random.Random, count: int) -> int:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in json_rows(rng, count))
    data = bytearray(lines.encode(rng.choice(("utf-16", "utf-32", "utf-16-le", "latin-1")), "replace"))
    for _ in range(rng.randrange(3)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    (folder / "encoded.jsonl").write_bytes(data)
    return check_read(folder / "encoded.jsonl", None, cut=True)


def read_bent_parquet(folder: Path, rng: random.Random, count: int) -> int:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [text(rng) for _ in range(count)], "n": range(count)}), sink, row_group_size=9)
    data = bytearray(sink.getvalue())
    place = rng.randrange(len(data))
    data[place : place + rng.randrange(3)] = rng.choice((b"", b"\xff", b"ab"))
    (folder / "bent.parquet").write_bytes(data)
    return check_read(folder / "bent.parquet", None, cut=True)


READERS = (read_lines, read_lines, read_lines, read_table, read_encoded, read_bent_parquet)


def read_many(folder: Path, files: int, seed: int) -> Counter[str]:
    rows: Counter[str] = Counter()
    for number in range(files):
        rng = random.Random(seed + number)
        read = READERS[number % len(READERS)]
        rows[read.__name__] += read(folder, rng, 100)
        for path in folder.iterdir():
            path.unlink()
    return rows


def test_each_row_of_any_file_is_a_document_or_set_aside(tmp_path):
    assert set(read_many(tmp_path, 24, seed=1)) == {read.__name__ for read in READERS}


@pytest.mark.slow
def test_each_of_100_000_rows_of_any_files_is_a_document_or_set_aside(tmp_path):
    assert read_many(tmp_path, 1800, seed=1000).total() >= 100_000


def score_and_select(folder: Path, shards: int, seed: int) -> int:
    """Take fuzzed rows the whole road; return how many there were."""
    make_project(folder, 1)
    rng = random.Random(seed)
    pool = folder / "fuzzed"
    pool.mkdir()
    expected: dict[str, int] = {}
    for number in range(shards):
        lines = fuzzed(rng, 100)
        ending = rng.choice((".jsonl", ".jsonl.gz", ".jsonl.zst"))
        good = json.dumps({"text": f"words of shard {number}"}).encode()
        (pool / f"{number}{ending}").write_bytes(PACK[ending[6:]](b"\n".join([good, *lines])))
        expected[f"{number}{ending}"] = 1 + sum(bool(line.strip(b" \t\r")) for line in lines)
    run = curate.score(
        target=str(folder / "val.jsonl"),
        pool=[str(pool)],
        method="length",
        model=str(folder / "proxy"),
        device="cpu",
        out=str(folder / "run"),
    )
    with open_session(run) as session:
        counted = (
            "SELECT shard, count(*) FROM (SELECT shard FROM scores UNION ALL SELECT shard FROM skipped) GROUP BY 1"
        )
        assert dict(session.query(counted).rows()) == expected
        (scored,) = session.query("SELECT count(*) FROM scores").rows()[0]
        joined = "SELECT count(*) FROM documents JOIN scores USING (shard, row)"
        assert session.query(joined).rows() == [(scored,)]
        assert len(session.query("SELECT * FROM documents").rows()) >= scored
    for format in ("arrow", "parquet", "jsonl.zst"):
        selection = select(run, top="100%", decontaminate=False, out=folder / format, format=format)
        assert selection.documents == scored
    return sum(expected.values())


@pytest.mark.filterwarnings("ignore:pool. .* rows cannot be read")
def test_fuzzed_rows_go_through_score_and_select(tmp_path):
    assert score_and_select(tmp_path, 3, seed=1) > 250


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pool. .* rows cannot be read")
def test_10_000_fuzzed_rows_go_through_score_and_select(tmp_path):
    assert score_and_select(tmp_path, 110, seed=2) >= 10_000
