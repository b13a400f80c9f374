import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from curate.documents import Fields, check_fields, documents, look, open_pool
from curate.documents.check import refusal
from curate.errors import CurateError
from tests.documents.writing import ENDINGS, TEXT_ENDINGS, write


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
def test_a_shard_without_a_content_column_names_what_it_found_and_the_nearest(tmp_path, ending):
    write(tmp_path / f"a{ending}", [{"texts": "x", "n": 1}])
    with pytest.raises(CurateError, match=r"expected 'text', .*found: texts, n(.|\n)*Did you mean 'texts'"):
        check_fields(open_pool(tmp_path), Fields())


def test_a_column_of_another_case_is_the_nearest(tmp_path):
    write(tmp_path / "a.jsonl", [{"TEXT": "x", "tex": 1}])
    with pytest.raises(CurateError, match="Did you mean 'TEXT'"):
        check_fields(open_pool(tmp_path), Fields())


def test_where_another_column_is_named_than_the_usual_one_that_is_there_the_usual_is_meant(tmp_path):
    write(tmp_path / "a.jsonl", [{"id": "1", "text": "x", "domain": "y"}])
    with pytest.raises(CurateError, match="Did you mean 'text'"):  # not the one that is spelt a little like it
        check_fields(open_pool(tmp_path), Fields(text="body"))


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
def test_a_column_of_turns_that_no_shape_has_is_named_with_its_option(tmp_path, ending):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    write(tmp_path / f"a{ending}", [{"n": "1", "chat": turns}])
    with pytest.raises(CurateError) as error:
        check_fields(open_pool(tmp_path), Fields())
    assert "--messages-column chat" in error.value.hint
    check_fields(open_pool(tmp_path), Fields(messages="chat"))


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
def test_a_named_column_that_is_nowhere_is_an_error_even_where_others_would_do(tmp_path, ending):
    write(tmp_path / f"a{ending}", [{"messages": [], "content": "x"}])
    with pytest.raises(CurateError, match=r"no column 'contents'(.|\n)*Did you mean 'content'"):
        check_fields(open_pool(tmp_path), Fields(text="contents"))
    check_fields(open_pool(tmp_path), Fields(text="content"))


def test_a_named_column_may_come_in_a_later_shard_and_empty_shards_do_not_count(tmp_path):
    (tmp_path / "0.jsonl").write_bytes(b"\n")
    write(tmp_path / "1.jsonl", [{"messages": []}])
    write(tmp_path / "2.parquet", [{"body": "x"}])
    check_fields(open_pool(tmp_path), Fields(text="body"))


def test_a_prompt_without_a_completion_is_no_content(tmp_path):
    write(tmp_path / "a.jsonl", [{"prompt": "x"}])
    with pytest.raises(CurateError, match="'prompt' with 'completion', found: prompt"):
        check_fields(open_pool(tmp_path), Fields())


def test_a_column_that_first_comes_in_a_later_row_counts(tmp_path):
    write(tmp_path / "a.jsonl", [{"n": 1}, {"text": "x"}])
    check_fields(open_pool(tmp_path), Fields())


def test_a_pool_without_rows_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(CurateError, match="hold no rows"):
        check_fields(open_pool(tmp_path), Fields())


@pytest.mark.parametrize("text", ['[\n {"text": "x"},\n {"text": "y"}\n]', '{\n "text": "x"\n}'])
def test_an_array_and_objects_over_several_lines_have_columns(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    check_fields(open_pool(tmp_path), Fields())


def test_a_file_without_any_object_on_a_line_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text("{'text': 'x'}")
    with pytest.raises(CurateError, match=r"none of the first lines is an object; undecodable line, line 1"):
        check_fields(open_pool(tmp_path), Fields())


@pytest.mark.parametrize("bad", [b'{"rows": 3}\n', b"[1, 2]\n", b"\x1f\x8bnot really"])
def test_a_first_shard_that_is_damaged_or_something_else_stops_no_other(tmp_path, bad):
    (tmp_path / ("a.jsonl.gz" if b"not really" in bad else "a.jsonl")).write_bytes(bad)
    write(tmp_path / "b.jsonl", [{"text": "x"}])
    check_fields(open_pool(tmp_path), Fields())


def test_many_first_rows_that_cannot_be_read_are_told_with_the_first_and_a_shape_that_was_named(tmp_path):
    turns = {"prompt": [{"role": "user", "content": "x"}], "completion": [{"role": "assistant", "content": "y"}]}
    write(tmp_path / "a.jsonl", [{"prompt": "x", "completion": "y"}, *[turns] * 3])
    pool = open_pool(tmp_path)
    assert refusal(pool, Fields()) is None
    told = refusal(pool, Fields(format_as="prompt_completion"))
    assert told is not None
    assert "3 of the first 4 rows cannot be read as" in told
    assert "(--format-as prompt_completion). The first is a.jsonl, row 1: not a string, column 'prompt'" in told
    assert "Without --format-as" in told
    write(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}, {"text": 7}])
    assert refusal(open_pool(tmp_path), Fields()) is None


def test_a_column_that_is_nowhere_near_is_not_listed_twice(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(CurateError, match=r"found: text\.\n.*Name one of these, or leave the option out") as caught:
        check_fields(open_pool(tmp_path), Fields(), also=("zebra",))
    assert "Known" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "holder"),
    [
        ({"version": 2, "data": [{"text": "x"}]}, "['data']"),
        ({"features": [{"name": "text"}, {"name": "n"}], "rows": [{"text": "x"}]}, "['rows']"),
        ({"1": {"text": "x"}, "2": {"text": "y"}}, ".values()"),
    ],
)
def test_a_file_of_one_object_that_holds_rows_is_refused_with_the_line_that_writes_them_apart(tmp_path, value, holder):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    with pytest.raises(CurateError, match="one object that holds rows") as refused:
        check_fields(open_pool(tmp_path), Fields())
    assert f"json.load(open('{path}')){holder}" in str(refused.value.hint)
    command = str(refused.value.hint).split("in its place: ")[1]
    subprocess.run(command.replace("python ", f"{sys.executable} ", 1), shell=True, check=True)
    path.unlink()
    check_fields(open_pool(tmp_path), Fields())


def test_a_column_of_texts_is_named_as_one_that_may_be_a_conversation(tmp_path):
    write(tmp_path / "a.jsonl", [{"id": "1", "tags": ["x", "y"], "data": ["Where is it?", "It is there."]}])
    with pytest.raises(CurateError) as error:
        check_fields(open_pool(tmp_path), Fields())
    assert "--messages-column data" in str(error.value.hint)
    check_fields(open_pool(tmp_path), Fields(messages="data"))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": "def f():", "tests": "assert f()", "canonical": "    return 1"},
            "'prompt' holds prompts. Name that of their answers, one of tests, canonical: --completion-column NAME.",
        ),
        (
            {"question": "Who?", "context": "I am.", "answers": {"text": ["I"]}},
            "one of context: --prompt-column question",
        ),
        ({"question": "Who?", "choices": ["I am", "You are"]}, "holds prompts. Name that of their answers: --prompt"),
        ({"prompt": "Who?", "responses": ["It is I.", "It is you."], "scores": [0.1, 0.9]}, "--completion-column NAME"),
        ({"pairs": [["Who is it?", "It is I."]]}, "The column 'pairs' holds lists of texts"),
        ({"doc": {"question": "Who?", "answer": "I"}, "arguments": [["Who?", "I"]]}, "Write their keys as columns"),
    ],
)
def test_a_question_without_an_answer_as_text_is_told_how_to_get_one(tmp_path, ending, row, said):
    write(tmp_path / f"a{ending}", [row, row])
    with pytest.raises(CurateError) as refused:
        check_fields(open_pool(tmp_path), Fields())
    assert said in str(refused.value.hint)
    assert "Did you mean" not in str(refused.value.hint)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_rows_that_hold_rows_are_refused_with_the_line_that_writes_them_apart(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    some = [{"instruction": "Name it.", "instances": [{"input": "", "output": "Frog"}, {"input": "x", "output": "y"}]}]
    if name == "a.json":
        Path(name).write_text(json.dumps(some * 2, indent=1), encoding="utf-8")
    else:
        write(Path(name), some * 2)
    with pytest.raises(CurateError) as refused:
        check_fields(open_pool(name), Fields())
    command = str(refused.value.hint).split("a line each: ")[1].removesuffix(".")
    subprocess.run(command.replace("python ", f"{sys.executable} ", 1), shell=True, check=True)
    shard = open_pool("rows.jsonl").shards[0]
    assert [d.completion for d in documents(shard, Fields())] == ["Frog", "y"] * 2


@pytest.mark.parametrize(
    "value",
    [
        {"text": {"0": "x", "1": "y"}, "n": {"0": 1, "1": 2}},
        {"text": ["x", "y"]},
        {"prompt": ["x", "y"], "completion": ["z", "w"], "n": [1, 2]},
        {"instruction": {"0": "x", "1": "y"}, "output": {"0": "z", "1": "w"}},
        {"columns": ["text"], "index": [0, 1], "data": [["x"], ["y"]]},
    ],
)
def test_a_file_of_columns_is_refused_with_what_writes_rows(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(CurateError, match="one object that holds columns") as refused:
        check_fields(open_pool(tmp_path), Fields())
    assert "orient='records'" in str(refused.value.hint)
    write(tmp_path / "b.jsonl", [{"text": "x"}])
    check_fields(open_pool(tmp_path), Fields())


def test_a_file_of_one_conversation_of_texts_holds_no_columns(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"messages": ["Where is it?", "Here."]}), encoding="utf-8")
    check_fields(open_pool(tmp_path), Fields())


@pytest.mark.parametrize("name", ["a file.json", "a file.jsonl"])
@pytest.mark.parametrize(("role", "content"), [("role", "content"), ("from", "value")])
def test_rows_that_are_turns_are_refused_with_the_line_that_makes_them_a_conversation(tmp_path, name, role, content):
    turns = [{role: "user", content: "Where is it?"}, {role: "assistant", content: "Here."}]
    lines = "\n".join(map(json.dumps, turns))
    (tmp_path / name).write_text(lines if name.endswith("l") else json.dumps(turns, indent=1), encoding="utf-8")
    with pytest.raises(CurateError) as refused:
        check_fields(open_pool(tmp_path), Fields())
    command = str(refused.value.hint).split("one conversation: ")[1]
    assert command.startswith("jq -cs '{messages: flatten}' ")
    if shutil.which("jq"):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        (document,) = documents(open_pool(tmp_path / "rows.jsonl").shards[0], Fields())
        assert document.plain_text == "Where is it?\nHere."


def test_a_csv_without_a_header_is_told_so(tmp_path):
    (tmp_path / "a.csv").write_text("1,one two\n2,three\n")
    with pytest.raises(CurateError, match="first line of such a file names its columns"):
        check_fields(open_pool(tmp_path), Fields())


NESTED = {
    "custom_id": "1",
    "body": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_rows_within_a_columns_objects_are_refused_with_the_line_that_makes_their_keys_columns(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    if name == "a.json":
        Path(name).write_text(json.dumps([NESTED, NESTED], indent=1), encoding="utf-8")
    else:
        write(Path(name), [NESTED, NESTED])
    with pytest.raises(CurateError) as refused:
        check_fields(open_pool(name), Fields())
    said, command = str(refused.value.hint).split("columns: ")
    assert said == "The column 'body' holds objects that rows could be read from. Write their keys as "
    run(command)
    (path,) = tmp_path.glob("rows.*")
    assert [len(d.messages) for d in documents(open_pool(path).shards[0], Fields())] == [2, 2]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_name_that_leads_into_a_columns_objects_is_told_how_to_become_a_column(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(Path(name), [{"doc": {"text": "x"}, "n": "1"}])
    with pytest.raises(CurateError) as refused:
        check_fields(open_pool(name), Fields(text="doc.text"))
    assert "'text' lies within the column 'doc'" in str(refused.value.hint)
    run(str(refused.value.hint).split("of this name: ")[1])
    (path,) = tmp_path.glob("rows.*")
    assert [d.text for d in documents(open_pool(path).shards[0], Fields(text="doc.text"))] == ["x"]
    # Where another column is missing, such as that of groups, too.
    write(Path(name), [{"text": "x", "doc": {"group": "g"}}])
    with pytest.raises(CurateError, match=r"no column 'doc\.group'") as refused:
        check_fields(open_pool(name), Fields(), also=("doc.group",))
    assert "'group' lies within the column 'doc'" in str(refused.value.hint)


def test_an_export_of_a_chat_is_no_conversation_and_its_rows_are_written_apart(tmp_path):
    path = tmp_path / "a.json"
    export = {"guild": {"id": "1"}, "messages": [{"id": "1", "content": "x", "author": {"name": "n"}}]}
    path.write_text(json.dumps(export, indent=1), encoding="utf-8")
    with pytest.raises(
        CurateError, match=r"no conversation: column 'messages', turn 0: 'role' must be a string"
    ) as refused:
        check_fields(open_pool(tmp_path), Fields())
    run(str(refused.value.hint).split("in its place: ")[1])
    path.unlink()
    check_fields(open_pool(tmp_path), Fields(text="content"))


def run(command: str) -> None:
    subprocess.run(command.replace("python ", f"{sys.executable} ", 1), shell=True, check=True)


def test_answers_that_were_disliked_are_said(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "label": liked} for liked in (True, False)]
    first = look(open_pool(write(tmp_path / "a.jsonl", rows)), Fields())
    assert (
        str(first) == "prompt and completion (prompt, completion); answers of which label is false are read like others"
    )
    tagged = [{"messages": NESTED["body"]["messages"], "kto_tag": False}]
    assert "kto_tag is false" in str(look(open_pool(write(tmp_path / "b.jsonl", tagged)), Fields()))
    for others in ([rows[0]], [rows[0] | {"label": 0}], [{"text": "a", "label": False}]):
        assert "false" not in str(look(open_pool(write(tmp_path / "c.jsonl", others)), Fields()))


@pytest.mark.parametrize("ending", ENDINGS)
def test_parts_and_columns_that_are_no_text_are_said(tmp_path, ending):
    asked = [{"type": "image_url", "image_url": "x"}, {"type": "text", "text": "What is it?"}]
    said = {"role": "assistant", "content": [{"type": "text", "text": "A hut."}]}
    rows = [
        {"messages": [{"role": "user", "content": parts}, said], "images": ["x"]} for parts in (asked, asked, asked[1:])
    ]
    first = look(open_pool(write(tmp_path / f"a{ending}", rows)), Fields())
    assert str(first) == (
        "chat messages (messages); not read: images; parts of the type 'image_url' are no text and left out (in 2 of"
        " these rows)"
    )
    plain = look(open_pool(write(tmp_path / f"b{ending}", [{"messages": rows[2]["messages"]}])), Fields())
    assert str(plain) == "chat messages (messages)"


def test_weights_of_turns_between_none_and_one_are_said(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]
    for weight, said in ((1, False), (0.5, True), (2, True)):
        rows = [{"messages": [*turns, turns[1] | {"weight": weight}]}]
        first = str(look(open_pool(write(tmp_path / "a.jsonl", rows)), Fields()))
        assert ("weights of turns other than 0 are read as 1" in first) == said


@pytest.mark.parametrize("inner", [{"text": ["x"], "label": ["A"]}, {"messages": [{"role": "user", "content": "x"}]}])
def test_objects_that_would_be_no_rows_are_not_named_as_such(tmp_path, inner):
    write(tmp_path / "a.jsonl", [{"question": "Which?", "choices": inner}])
    with pytest.raises(CurateError) as refused:
        check_fields(open_pool(tmp_path), Fields())
    assert "choices" not in str(refused.value.hint)
