import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import Course, Fields, documents, hash_content, shapes
from curate.documents.shapes.contract import Refused
from curate.errors import SettingsError
from curate.schema import Document, Skipped
from tests.documents.writing import ENDINGS, shard_at, write
from tests.selection.generated import json_rows

CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]


def read(path, rows, **columns) -> list[Document | Skipped]:
    return list(documents(shard_at(write(path, rows)), Fields(**columns)))


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_documents(tmp_path, ending):
    rows = [
        {"id": 7, "text": "plain", "source": "web", "year": 2020, "messages": None, "tags": ["a"]},
        {"id": None, "text": None, "source": None, "year": None, "messages": CHAT, "tags": []},
    ]
    expected = read(tmp_path / "expected.jsonl", rows)
    found = read(tmp_path / f"a{ending}", rows)
    assert [(d.doc_id, d.content_hash, d.text, d.messages, d.metadata) for d in found] == [
        (d.doc_id, d.content_hash, d.text, d.messages, d.metadata) for d in expected
    ]
    assert found[0].doc_id == "7"
    assert found[1].doc_id == found[1].content_hash
    assert found[0].metadata == {"source": "web", "year": 2020}


@pytest.mark.parametrize("ending", ENDINGS)
def test_turns_hold_the_keys_they_were_written_with_in_every_format(tmp_path, ending):
    parts = [{"type": "text", "text": "yes"}, {"type": "image", "url": "x"}]
    turns = [{"role": "user", "content": parts, "name": "me"}, {"role": "assistant", "content": parts[:1]}]
    (found,) = read(tmp_path / f"a{ending}", [{"messages": turns}])
    assert found.messages == turns


def test_a_pool_may_mix_forms_row_by_row_in_a_fixed_order(tmp_path):
    pair = {"prompt": "2+2=", "completion": "4"}
    found = read(tmp_path / "a.jsonl", [{"text": "t", "messages": CHAT, **pair}, {"messages": CHAT, **pair}, pair])
    assert [d.text for d in found] == ["t", None, None]
    assert [d.messages for d in found] == [None, CHAT, None]
    assert [(d.prompt, d.completion) for d in found] == [(None, None), (None, None), ("2+2=", "4")]
    assert len({d.content_hash for d in found}) == 3


def test_columns_are_named_by_option_and_content_is_no_metadata(tmp_path):
    (found,) = read(tmp_path / "a.jsonl", [{"body": "b", "key": "k", "text": "meta"}], text="body", id="key")
    assert (found.text, found.doc_id, found.metadata) == ("b", "k", {"text": "meta"})


def test_the_hash_is_of_the_content_alone_and_of_its_kind(tmp_path):
    rows = [
        {"id": 1, "text": "ab", "n": 1},
        {"id": 2, "text": "ab", "n": 2},
        {"prompt": "a", "completion": "b"},
        {"prompt": "", "completion": "ab"},
        {"messages": [{"role": "assistant", "content": "ab"}]},
        {"messages": [{"content": "ab", "role": "assistant"}]},
    ]
    hashes = [d.content_hash for d in read(tmp_path / "a.jsonl", rows)]
    assert hashes[0] == hashes[1]
    assert hashes[4] == hashes[5]
    assert len(set(hashes)) == 4
    assert all(len(h) == 32 for h in hashes)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"body": "x", "n": 1}, "no text", "columns here: id, body, n"),
        ({"text": None}, "no text", "null: text"),
        ({"prompt": "only"}, "no text", "columns here: id, prompt"),
        ({}, "no text", "columns here: id"),
        ({"text": 5}, "not a string", "column 'text' holds int: 5"),
        ({"text": ["a"]}, "not a string", "holds list"),
        ({"prompt": 1, "completion": "x"}, "not a string", "column 'prompt'"),
        ({"prompt": "x", "completion": False}, "not a string", "column 'completion'"),
        ({"text": ""}, "empty text", "''"),
        ({"text": " \n\u3000"}, "empty text", "column 'text'"),
        ({"prompt": "x", "completion": " "}, "empty text", "column 'completion'"),
        ({"messages": []}, "invalid messages", "expected a list of turns"),
        ({"messages": "hi"}, "invalid messages", "found 'hi'"),
        ({"messages": [3]}, "invalid messages", "turn 0: expected an object, found int"),
        ({"messages": ["hi"]}, "no assistant turn", "roles here: user"),
        ({"messages": [{"who": "gpt", "said": "x"}]}, "invalid messages", "keys here: who, said"),
        ({"messages": [{"role": "assistant", "content": 3}]}, "invalid messages", "'content' must be"),
        ({"messages": CHAT[:1]}, "no assistant turn", "roles here: user"),
        ({"messages": [{"role": "assistant", "content": " "}]}, "no assistant turn", "with content"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "no assistant turn",
            "with content: text or tool calls",
        ),
    ],
)
def test_a_row_that_is_no_document_says_why(tmp_path, row, reason, detail):
    first, skipped, last = read(tmp_path / "a.jsonl", [{"text": "a"}, {"id": "r1", **row}, {"text": "b"}])
    assert (first.row, last.row) == (0, 2)
    assert isinstance(skipped, Skipped)
    assert (skipped.reason, skipped.row, skipped.doc_id) == (reason, 1, "r1")
    assert detail in skipped.detail


def test_turns_may_hold_parts_and_tool_calls(tmp_path):
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]
    found = read(tmp_path / "a.jsonl", [{"messages": parts}, {"messages": calls}])
    assert [d.messages for d in found] == [parts, calls]
    assert found[0].plain_text == "yes"


def test_scalar_columns_come_along_and_nested_ones_stay(tmp_path):
    moment = datetime(2024, 1, 2, 3, 4)
    table = pa.table(
        {
            "text": ["a"],
            "flag": [True],
            "price": pa.array([Decimal("1.5")], pa.decimal128(5, 2)),
            "number": pa.array([Decimal(10**24 + 1)], pa.decimal128(38, 0)),
            "day": [date(2024, 1, 2)],
            "at": [moment],
            "name": pa.array(["n\0ul"]).dictionary_encode(),
            "nothing": pa.array([None], pa.null()),
            "vector": [[1.0, 2.0]],
            "nested": [{"a": 1}],
            "blob": [b"x"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (found,) = documents(shard_at(tmp_path / "a.parquet"), Fields())
    assert found.metadata == {
        "flag": True,
        "price": 1.5,
        "number": str(10**24 + 1),
        "day": date(2024, 1, 2),
        "at": moment,
        "name": "n\0ul",
        "nothing": None,
    }
    (line,) = read(tmp_path / "a.jsonl", [{"text": "a", "big": 2**63, "list": [], "object": {}}])
    assert line.metadata == {"big": float(2**63)}
    pa.Table.from_pylist([found.metadata, line.metadata])


def test_an_id_is_read_as_a_string_and_a_nested_or_nan_one_does_not_count(tmp_path):
    found = read(tmp_path / "a.jsonl", [{"text": "a", "id": i} for i in (0, "", 1.5, [1], float("nan"), None)])
    content = found[0].content_hash
    assert [d.doc_id for d in found] == ["0", "", "1.5", content, content, content]


@pytest.mark.parametrize("columns", [{"text": ""}, {"text": "id"}, {"prompt": "x", "completion": "x"}])
def test_columns_need_distinct_names(columns):
    with pytest.raises(SettingsError, match="column"):
        Fields(**columns)


def test_a_row_that_is_nested_too_deep_to_work_on_is_set_aside(tmp_path):
    deep = "[" * 400 + "]" * 400
    line = f'{{"messages": [{{"role": "assistant", "content": "a", "tool_calls": {deep}}}]}}\n'
    (tmp_path / "a.jsonl").write_text(line + '{"text": "fine"}\n')
    first, second = documents(shard_at(tmp_path / "a.jsonl"), Fields())
    assert isinstance(first, Skipped)
    assert first.reason == "invalid messages"
    assert "nested more than 128 levels deep" in first.detail
    assert isinstance(second, Document)


def test_a_row_with_a_number_that_no_encoder_of_json_takes_is_set_aside(tmp_path):
    line = f'{{"messages": [{{"role": "assistant", "content": "a", "weight": 1, "n": {2**64}}}]}}\n'
    (tmp_path / "a.jsonl").write_text(line + '{"text": "fine"}\n')
    first, second = documents(shard_at(tmp_path / "a.jsonl"), Fields())
    assert isinstance(first, Skipped)
    assert first.reason == "too deep or too large"
    assert isinstance(second, Document)


ODD = [
    b'{"id": 1, "text": "caf\xe9 in latin-1"}',
    '{"id": "é", "text": "line\u2028separator\u0085 and \u3000space", "n": 1}'.encode(),
    b'{"id": "twice", "text": "a", "text": "b", "id": "again", "n": 1, "n": 2}',
    b'{"id": "big", "text": "a", "n": 123456789012345678901234567890, "m": -9223372036854775809}',
    b'{"id": "edge", "text": "a", "n": 18446744073709551615, "m": -9223372036854775808}',
    b'{"id": 123456789012345678901234567890, "text": "a number as id"}',
    b'{"text": "digits 123456789012345678901234567890 in the text", "n": [123456789012345678901]}',
    b'{"id": null, "text": null, "messages": [{"role": "assistant", "content": "Ho."}], "n": 1}',
    b'{"id": "n", "text": null, "source": null, "n": null}',
    b'{"text": "a", "source": null, "domain": "d"}',
    b'{"text": "nan", "n": NaN, "m": -Infinity}',
    b'{"text": "float", "n": 1e999, "m": 0.1, "z": -0.0}',
    b'{"text": "\\ud800 lone"}',
    b'{"text": "nested", "n": {"a": 1}, "m": [1], "ok": true}',
    b'{"prompt": "p", "completion": "c", "text": null, "instruction": "i"}',
    b'{"instruction": "do", "input": "this", "output": "done", "context": "c", "extra": 1}',
    b'{"question": "q", "answer": "a", "n": 12345678901234567890123}',
    b'{"text": 5}',
    b'{"text": ["a"]}',
    b'{"text": " \\n "}',
    b"{}",
    b"[1, 123456789012345678901234567890]",
    b"123456789012345678901234567890",
    b'"text"',
    b'{"text": torn',
    b'{"text": "cr"}\r',
    b'\xef\xbb\xbf{"text": "a mark within the file"}',
    b'  {"text": "blanks before"}\t',
    b"\t \r",
    b"",
    b'{"text": "form\x0cfeed"}',
    b'{"text": "deep", "n": ' + b"[" * 300 + b"]" * 300 + b"}",
]


def one_by_one(content: bytes, fields: Fields) -> Iterator[tuple[str, object] | Document]:
    """Read lines as plainly as can be: each by itself, with nothing remembered from one to the next."""
    unmarked = [line.removeprefix(b"\xef\xbb\xbf") for line in content.split(b"\n")]
    filled = [line for line in unmarked if line.strip(b" \t\r")]
    for row, line in enumerate(filled):
        try:
            raw = orjson.loads(line)
            raw = json.loads(line) if "0" * 19 in "".join("0" if c.isdecimal() else c for c in line.decode()) else raw
        except (ValueError, RecursionError):
            raw = json.loads(line) if b"NaN" in line or b"1e999" in line else None
        if not isinstance(raw, dict):
            yield "undecodable line" if raw is None else "not an object", row
            continue
        shape = shapes.shape_of(raw, fields)
        read = Refused("no text", "") if shape is None else shape.read(raw, fields)
        if isinstance(read, Refused):
            yield read.reason, row
            continue
        digest, own_id = hash_content(read), raw.get(fields.id)
        others = {
            k: v for k, v in raw.items() if k not in {*fields.columns, *(shape.columns(raw, fields) if shape else ())}
        }
        metadata = {
            k: str(v) if type(v) is int and not -(2**63) <= v < 2**64 else v
            for k, v in others.items()
            if not isinstance(v, dict | list)
        }
        doc_id = digest if own_id is None or isinstance(own_id, dict | list) else str(own_id)
        yield Document(doc_id=doc_id, shard="", row=row, content_hash=digest, metadata=metadata, **read)


@pytest.mark.parametrize("fields", [Fields(), Fields(text="body", id="text"), Fields(format_as="question_answer")])
@pytest.mark.parametrize("seed", range(3))
def test_odd_rows_are_read_as_each_by_itself(tmp_path: Path, fields: Fields, seed: int) -> None:
    rng = random.Random(seed)
    generated = [
        json.dumps(row, ensure_ascii=rng.random() < 0.5).encode() for _ in range(8) for row in json_rows(rng, 4)
    ]
    lines = rng.sample([*ODD, *ODD, *generated], 2 * len(ODD) + len(generated))
    content = b"\xef\xbb\xbf" * (seed == 1) + b"\n".join(lines) + b"\n" * (seed == 2)
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    expected = list(one_by_one(content, fields))
    for name, course in (("a.jsonl", None), ("a.jsonl", Course()), ("b.jsonl.gz", Course())):
        read = list(documents(shard_at(tmp_path / name), fields, course=course))
        told = [(d.reason, d.row) if isinstance(d, Skipped) else d for d in read]
        assert repr([replace(d, shard="") if isinstance(d, Document) else d for d in told]) == repr(expected)


def test_a_preview_is_the_first_words_on_one_line() -> None:
    rng = random.Random(0)
    for length in (0, 1, 100, 159, 160, 161, 200, 201, 239, 640, 641, 3000):
        for blank in (" ", "  \n\t", "\u3000 ", " " * 300):
            text = "".join(rng.choice(["word", "x", blank, "é"]) for _ in range(length))[:length]
            document = Document(doc_id="a", shard="a", row=0, content_hash="", text=text)
            assert document.preview == " ".join(text[:640].split())[:160]
