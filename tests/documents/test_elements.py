import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.documents import BadRow, DamagedShard, Fields, documents, json_lines, open_pool, rows
from curate.documents.elements import elements
from curate.documents.lines import Truncated
from curate.schema import Document
from tests.documents.writing import shard_at

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(['"', "\\", "],[", '{"', "\n,", "\u2028"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def in_blocks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def cut(data: bytes, size: int = 1 << 20) -> list[bytes]:
    return [text for _, text in elements(in_blocks(data, size), lambda _: True)]


@given(values=st.lists(VALUES, max_size=6), size=st.integers(1, 40), indent=st.sampled_from([None, 0, 2]))
def test_elements_of_an_array_are_those_of_its_json_however_it_is_read_and_laid_out(values, size, indent):
    found = cut(json.dumps(values, ensure_ascii=False, indent=indent).encode(), size)
    assert [json.loads(text) for text in found] == values
    assert not any(b"\n" in text for text in found)


@given(values=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5), size=st.integers(1, 40))
def test_objects_one_after_another_are_elements(values, size):
    text = "\n".join(json.dumps(value, indent=1) for value in values)
    assert [json.loads(text) for text in cut(text.encode(), size)] == values


def test_an_element_knows_the_line_that_it_begins_on():
    data = b'\xef\xbb\xbf[\n {"a": 1},\n\n {"b":\n 2}, 3\n]\n'
    numbered = list(elements(iter([data]), lambda _: True))
    assert numbered == [(2, b'{"a": 1}'), (4, b'{"b": 2}'), (5, b"3")]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_odd_element_costs_no_other(tmp_path, size):
    data = b'[\n{"text": "one"},\nnull,\n{"text": "never closed},\n{"text": "nan", "x": NaN}\n,{"text": "two"}\n]'
    (tmp_path / "a.json").write_bytes(data)
    found = [row for _, row in rows(shard_at(tmp_path / "a.json"))]
    assert [isinstance(row, BadRow) for row in found] == [False, True, True, False, False]
    assert [r["text"] for r in found if isinstance(r, dict)] == ["one", "nan", "two"]
    assert cut(b'[{"a": 1}, x y, {"b": [2,3]},,]\n{"c": 1} 7', size) == [
        b'{"a": 1}', b"x y", b'{"b": [2,3]}', b'{"c": 1}', b"7"
    ]  # fmt: skip


def test_an_array_that_is_never_closed_gives_what_can_be_read_and_says_so(tmp_path):
    with pytest.raises(Truncated, match="array is never closed"):
        cut(b'[{"a": 1}, {"b": ')
    (tmp_path / "a.json").write_bytes(b'[{"text": "one"}, {"text": "two"}, {"te')
    read = []
    with pytest.raises(DamagedShard, match="never closed; 2 rows could be read before"):
        read.extend(row for row in documents(shard_at(tmp_path / "a.json"), Fields()))
    assert [d.text for d in read] == ["one", "two"]


TURNS = [
    [{"role": "user", "content": f"What is {n}, [in] words?"}, {"role": "assistant", "content": f"{n} \n"}]
    for n in range(3)
]
SHAREGPT = [[{"from": "human", "value": "Hello"}, {"value": "Hello yourself", "from": "gpt"}] for _ in range(3)]


@pytest.mark.parametrize("conversations", [TURNS, SHAREGPT, [[dict(reversed(t.items())) for t in c] for c in TURNS]])
@pytest.mark.parametrize("layout", ["lines", "array", "array over lines"])
def test_lists_of_turns_are_conversations_whether_lines_or_elements_of_an_array(tmp_path, conversations, layout):
    path = tmp_path / "a.json"
    if layout == "lines":
        path.write_text("".join(json.dumps(c) + "\n" for c in conversations), encoding="utf-8")
    else:
        path.write_text(json.dumps(conversations, indent=2 if layout == "array over lines" else None), encoding="utf-8")
    read = [row.messages or [] for row in documents(shard_at(path), Fields()) if isinstance(row, Document)]
    told = [[(t.get("role") or t["from"], t.get("content") or t["value"]) for t in c] for c in conversations]
    roles = {"human": "user", "gpt": "assistant"}
    assert [[(t["role"], t["content"]) for t in turns] for turns in read] == [
        [(roles.get(role, role), content) for role, content in c] for c in told
    ]


def test_a_list_that_is_no_conversation_costs_no_other_line(tmp_path):
    odd = [[], ["a"], [{"role": "user", "content": "x"}, 3], [{"text": "x"}]]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [TURNS[0], *odd, {"text": "y"}]), encoding="utf-8")
    read = list(documents(shard_at(path), Fields()))
    assert [getattr(row, "reason", None) for row in read] == [None, *["not an object"] * len(odd), None]


def test_a_chosen_list_of_turns_is_an_object_with_the_folders_columns(tmp_path):
    path = tmp_path / "lang=en" / "a.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(c) + "\n" for c in TURNS), encoding="utf-8")
    chosen = json_lines(open_pool(tmp_path).shards[0], only=[0, 2])
    assert chosen is not None
    [(numbers, lines, read)] = chosen
    assert numbers.tolist() == [0, 2]
    assert [json.loads(line) for line in lines] == read == [{"messages": TURNS[n], "lang": "en"} for n in (0, 2)]
