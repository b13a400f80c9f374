import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.documents import Fields, check_fields, documents, look, open_pool, read_target, shapes
from curate.errors import CurateError, SettingsError
from curate.schema import Document, Skipped, carries_loss
from tests.documents.writing import ENDINGS, shard_at, write

ASK, SAY = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}
CHAT = [ASK, SAY]
CALL = {"type": "function", "function": {"name": "seek", "arguments": {"what": "key"}}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
TOOLS = [{"type": "function", "function": {"name": "seek"}}]


def read(path: Path, rows: list[dict[str, Any]], **fields: Any) -> list[Document | Skipped]:
    return list(documents(shard_at(write(path, rows)), Fields(**fields)))


def only(path: Path, row: dict[str, Any], **fields: Any) -> Document:
    (document,) = read(path, [row], **fields)
    assert isinstance(document, Document), document
    return document


def test_every_shape_is_a_file_and_says_its_name() -> None:
    assert {"text", "messages", "sharegpt", "alpaca", "trl", "prompt_completion", "preference"} <= set(shapes.names())
    every = [shapes.get(name) for name in shapes.names()]
    assert len({shape.order for shape in every}) == len({shape.title for shape in every}) == len(every)
    assert all(name in Fields.__dataclass_fields__["format_as"].metadata["option"].help for name in shapes.names())


TURNS = [
    (
        {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]},
        CHAT,
    ),
    (
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "function_call", "value": '{"name": "seek", "arguments": {"what": "key"}}'},
                {"from": "observation", "value": "drawer"},
                {"from": "gpt", "value": "There.", "weight": 1},
            ],
        },
        [
            {"role": "system", "content": "Be brief."},
            ASK,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "drawer"},
            SAY | {"weight": 1},
        ],
    ),
    ({"conversations": CHAT}, CHAT),
    ({"conversation": CHAT}, CHAT),
    (
        {
            "conversations": [
                {"from": "human", "value": "Where?", "role": None, "content": ""},
                {"from": "gpt", "value": "There.", "content": "Elsewhere.", "role": "assistant"},
            ]
        },
        [ASK, {"role": "assistant", "content": "Elsewhere.", "from": "gpt", "value": "There."}],
    ),
    (
        {
            "messages": [
                {"role": "user", "content": None, "value": "Where?"},
                {"role": "assistant", "value": None, "content": "There."},
            ]
        },
        CHAT,
    ),
    ({"messages": {"role": ["user", "assistant"], "content": ["Where?", "There."]}}, CHAT),
    ({"messages": '[{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]'}, CHAT),
    ({"messages": repr(CHAT)}, CHAT),
    ({"messages": [ASK, {"role": "model", "content": "There."}]}, CHAT),
    ({"messages": [{"role": "User ", "content": "Where?"}, {"role": " Assistant", "content": "There."}]}, CHAT),
    ({"messages": [ASK, {"role": "Assistant", "content": ["There."]}]}, None),
    *[
        (
            {"messages": [ASK | {"content": [{"type": "text", name: "Where?"}]}, SAY]},
            [ASK | {"content": [{"type": "text", "text": "Where?"}]}, SAY],
        )
        for name in ("content", "value")
    ],
    (
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "seek", "arguments": '{"what": "key"}'},
                },
                {"role": "function", "name": "seek", "content": "drawer"},
            ]
        },
        [
            ASK,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "drawer", "name": "seek"},
        ],
    ),
    ({"prompt": [ASK], "completion": [SAY]}, CHAT),
    ({"prompt": "Where?", "completion": [SAY]}, CHAT),
    ({"prompt": [ASK, SAY, ASK], "completion": [SAY]}, [ASK, SAY | {"train": False}, ASK, SAY]),
    ({"chosen": [ASK, SAY], "rejected": [ASK, SAY | {"content": "Here."}]}, CHAT),
    ({"prompt": "Where?", "chosen": [SAY], "rejected": [SAY | {"content": "Here."}]}, CHAT),
    ({"prompt": [ASK], "chosen": "There.", "rejected": "Here."}, CHAT),
    ({"prompt": "Where?", "chosen": SAY, "rejected": SAY | {"content": "Here."}}, CHAT),
    ({"question": "Where?", "chosen": [SAY], "rejected": [SAY | {"content": "Here."}]}, CHAT),
    (
        {
            "conversations": [ASK],
            "chosen": {"from": "gpt", "value": "There."},
            "rejected": {"from": "gpt", "value": "No."},
        },
        CHAT,
    ),
    (
        {"messages": [ASK, SAY | {"content": "Here."}, ASK], "system": "Be brief.", "chosen": SAY, "rejected": "No."},
        [
            {"role": "system", "content": "Be brief."},
            ASK,
            {"role": "assistant", "content": "Here.", "train": False},
            *CHAT,
        ],
    ),
    ({"conversations": '[{"role": "user", "content": "Where?"}]', "chosen": "There.", "rejected": "No."}, CHAT),
    ({"messages": CHAT, "chosen": [ASK, SAY | {"content": "No."}], "rejected": CHAT}, CHAT),
    (
        {"messages": [*CHAT, ASK], "chosen": 1, "rejected": 0},
        [*CHAT, ASK],
    ),
    ({"chosen": json.dumps(CHAT), "rejected": json.dumps([ASK, SAY | {"content": "No."}])}, CHAT),
    ({"prompt": repr([ASK]), "completion": json.dumps([SAY])}, CHAT),
    ({"system": "Be brief.", "messages": CHAT}, [{"role": "system", "content": "Be brief."}, *CHAT]),
    (
        {"system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}], "messages": CHAT},
        [{"role": "system", "content": "Be\nbrief."}, *CHAT],
    ),
    (
        {"system": "x", "messages": [{"role": "system", "content": "y"}, *CHAT]},
        [{"role": "system", "content": "y"}, *CHAT],
    ),
    (
        {"system": "", "system_prompt": "Be brief.", "conversations": CHAT},
        [{"role": "system", "content": "Be brief."}, *CHAT],
    ),
    (
        {"systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]}, "messages": CHAT},
        [{"role": "system", "content": "Be brief."}, *CHAT],
    ),
    ({"turns": [{"sender": "human", "text": "Where?"}, {"sender": "assistant", "text": "There."}]}, CHAT),
    (
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, "There."]},
            ]
        },
        [
            ASK,
            {"role": "assistant", "content": [{"type": "text", "text": "There."}], "reasoning_content": "Hm."},
        ],
    ),
    (
        {
            "input": {"messages": [ASK, SAY, ASK], "parallel_tool_calls": True},
            "preferred_output": [SAY],
            "non_preferred_output": [SAY | {"content": "Here."}],
        },
        [ASK, SAY | {"train": False}, *CHAT],
    ),
    ({"input": [ASK], "output": "There."}, CHAT),
    (
        {"system_prompt": "Be brief.", "input": [ASK], "output": "There."},
        [{"role": "system", "content": "Be brief."}, *CHAT],
    ),
    ({"messages": [ASK, {"role": "assistant", "tool_calls": json.dumps([CALL])}]}, [ASK, CALLING]),
    ({"messages": [ASK, SAY | {"tool_calls": ""}]}, [ASK, SAY | {"tool_calls": []}]),
    (
        {"messages": [ASK, {"role": "assistant", "content": [{"type": "output_text", "text": "There."}]}]},
        None,
    ),
    ({"messages": [ASK, {"role": "assistant", "content": [{"text": "There."}]}]}, None),
    (
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c1", "name": "seek", "input": {"what": "key"}}],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "drawer"}, "Where?"],
                },
                SAY,
            ]
        },
        [
            ASK,
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"} | CALL]},
            {"role": "tool", "content": "drawer", "tool_call_id": "c1"},
            {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
            SAY,
        ],
    ),
    ({"dialogue": ["Where?", "There."]}, CHAT),
    ({"turns": [{"speaker": "human", "text": "Where?"}, {"speaker": "bot", "text": "There."}]}, CHAT),
    ({"conversations": ["Where?", "There."]}, CHAT),
    ({"messages": '["Where?", "There."]'}, CHAT),
    ({"conversation": [["Where?", "There."]]}, CHAT),
    ({"conversation": [{"human": "Where?", "assistant": "There."}]}, CHAT),
    ({"conversations": [{"Human": "Where?"}, {"gpt": "There."}]}, CHAT),
    ({"dialog": [{"input": "Where?", "output": "There."}]}, CHAT),
    ({"rounds": [{"question": "Where?", "answer": "There.", "id": 3}]}, CHAT),
    (
        {
            "conversation": [
                {"system": "Be brief.", "input": "Where?", "output": "Here.", "output_with_loss": False},
                {"system": "", "instruction": "Look", "input": "again.", "output": "There.", "weight": 1},
            ]
        },
        [
            {"role": "system", "content": "Be brief."},
            ASK,
            {"role": "assistant", "content": "Here.", "train": False},
            {"role": "user", "content": "Look\nagain."},
            SAY | {"weight": 1},
        ],
    ),
    ({"messages": "[" + "\n ".join(map(repr, CHAT)) + "]"}, CHAT),  # an array of NumPy's
    (
        {"messages": [{"role": "user", "parts": [{"text": "Where?"}]}, {"role": "model", "parts": [{"text": "No."}]}]},
        [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in (("user", "Where?"), ("assistant", "No."))],
    ),
]
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "text": "Where?",
        "role": "prompter",
        "replies": [
            {"text": "Here.", "role": "assistant", "rank": 1, "replies": []},
            {
                "text": "There.",
                "role": "assistant",
                "rank": 0,
                "replies": [{"text": "Thanks.", "role": "prompter", "replies": []}],
            },
            {"text": "Nowhere.", "role": "assistant", "rank": None, "replies": []},
        ],
    },
}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_of_a_tree_the_best_path_that_ends_with_an_answer_is_read(tmp_path: Path, ending: str) -> None:
    document = only(tmp_path / f"a{ending}", TREE | {"lang": "en"})
    assert document.messages == CHAT
    assert document.metadata == {"lang": "en"}
    bare = TREE | {"prompt": TREE["prompt"] | {"replies": []}}
    skipped, _ = read(tmp_path / f"b{ending}", [bare, TREE])
    assert isinstance(skipped, Skipped)
    assert (skipped.reason, skipped.detail) == ("no assistant turn", "no turn of the assistant; roles here: user")


@pytest.mark.parametrize(("row", "turns"), TURNS)
def test_conversations_of_every_form_are_read_as_turns(tmp_path: Path, row: dict[str, Any], turns: Any) -> None:
    expected = turns or [ASK, {"role": "assistant", "content": [{"type": "text", "text": "There."}]}]
    assert only(tmp_path / "a.jsonl", row).messages == expected


@pytest.mark.parametrize("ending", ENDINGS)
def test_of_ranked_completions_the_best_is_read_with_what_it_answers(tmp_path: Path, ending: str) -> None:
    worse = {"role": "assistant", "content": "Elsewhere."}
    ranked = [{"rank": 2, "completion": [worse]}, {"rank": 1, "completion": [SAY]}]
    assert only(tmp_path / f"a{ending}", {"context": [ASK], "completions": ranked}).messages == CHAT
    earlier = [ASK, worse, ASK]
    learnt = only(tmp_path / "b.jsonl", {"context": earlier, "completions": ranked[1:]}).messages or ()
    assert list(map(carries_loss, learnt)) == [False, False, False, True]


@pytest.mark.parametrize("ending", ENDINGS)
def test_segments_with_loss_are_the_answer_to_those_without(tmp_path: Path, ending: str) -> None:
    segments = [
        {"label": label, "text": text} for label, text in [(False, "a"), (False, "b "), (True, "c"), (True, "d")]
    ]
    document = only(tmp_path / f"a{ending}", {"segments": segments})
    assert (document.prompt, document.completion) == ("ab ", "cd")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_list_of_marks_beside_turns_says_which_carry_loss(tmp_path: Path, ending: str, column: str) -> None:
    again = [*CHAT, ASK, {"role": "assistant", "content": "Here."}]
    row = {column: again, "loss_mask": [0, 0, 0, 1]}
    assert list(map(carries_loss, only(tmp_path / f"a{ending}", row).messages or ())) == [False, False, False, True]
    behind_system = row | {"system": "Be brief.", "loss_mask": [1, "true", "0", False]}
    marked = only(tmp_path / "b.jsonl", behind_system).messages or ()
    assert [(turn["role"], carries_loss(turn)) for turn in marked if turn["role"] != "user"] == [
        ("system", False),
        ("assistant", True),
        ("assistant", False),
    ]
    assert only(tmp_path / "b.jsonl", row | {"loss_mask": 1}).messages == again
    within = [{"role": "system", "content": "Be brief."}, *CHAT]
    marked = only(tmp_path / "b.jsonl", {column: within, "loss_mask": [0, 1]}).messages or ()
    assert list(map(carries_loss, marked)) == [False, False, True]


@pytest.mark.parametrize("ending", ENDINGS)
def test_conversations_are_the_same_in_every_format(tmp_path: Path, ending: str) -> None:
    rows = [{"system": None} | row for row, _ in TURNS[:2]]
    found = read(tmp_path / f"a{ending}", rows)
    assert [d.messages for d in found if isinstance(d, Document)] == [turns for _, turns in TURNS[:2]]


TEXTS = [
    ({"instruction": "Name it.", "input": "a frog", "output": "Frog"}, "Name it.\n\na frog\n\n", "Frog"),
    ({"instruction": "Name it.", "input": "", "output": "Frog"}, "Name it.\n\n", "Frog"),
    ({"instruction": "Name it.", "output": "Frog"}, "Name it.\n\n", "Frog"),
    ({"instruction": "Name it.", "context": "a frog", "response": "Frog"}, "Name it.\n\na frog\n\n", "Frog"),
    (
        {"system": "Be brief.", "history": [["Hi", "Ho"]], "instruction": "Name it.", "input": "x", "output": "Frog"},
        "Be brief.\n\nHi\n\nHo\n\nName it.\n\nx\n\n",
        "Frog",
    ),
    ({"question": "Who?", "answer": "Me."}, "Who?\n\n", "Me."),
    ({"system_prompt": "Be brief.", "question": "Who?", "response": "Me."}, "Be brief.\n\nWho?\n\n", "Me."),
    ({"context": "We two.", "question": "Who?", "answer": "Me."}, "We two.\n\nWho?\n\n", "Me."),
    ({"query": "Who?", "response": "Me."}, "Who?\n\n", "Me."),
    ({"input": "Who?", "output": "Me."}, "Who?\n\n", "Me."),
    ({"inputs": "Who?", "targets": "Me."}, "Who?\n\n", "Me."),
    ({"query": "Who?", "response": "Me.", "history": [["Hi", "Ho"]]}, "Hi\n\nHo\n\nWho?\n\n", "Me."),
    ({"query": "Who?", "response": "Me.", "history": []}, "Who?\n\n", "Me."),
    ({"prompt": "Who?", "response": "Me.", "history": [["Hi", "Ho"], []]}, "Hi\n\nHo\n\nWho?\n\n", "Me."),
    ({"query": "Who?", "response": "Me.", "history": '[["Hi", "Ho"]]'}, "Hi\n\nHo\n\nWho?\n\n", "Me."),
    (
        {
            "instruction": "Who?",
            "output": "Me.",
            "history": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
        },
        "Hi\n\nHo\n\nWho?\n\n",
        "Me.",
    ),
    (
        {"instruction": "Who?", "output": "Me.", "history": [{"human": "Hi", "assistant": "Ho"}]},
        "Hi\n\nHo\n\nWho?\n\n",
        "Me.",
    ),
    ({"input": "Who?", "target": "Me."}, "Who?\n\n", "Me."),
    ({"prompt": "Who? ", "chosen": "Me.", "rejected": "You."}, "Who? ", "Me."),
    ({"system": "", "question": "Who?", "chosen": "Me.", "rejected": "You."}, "Who?\n\n", "Me."),
    (
        {"instruction": "Name it.", "input": "a frog", "history": [["Hi", "Ho"]], "chosen": "Frog", "rejected": "Toad"},
        "Hi\n\nHo\n\nName it.\n\na frog\n\n",
        "Frog",
    ),
    ({"system": "Be brief.", "input": "Who?", "chosen": "Me.", "rejected": "You."}, "Be brief.\n\nWho?\n\n", "Me."),
    ({"prompt": "Write turns.", "completion": json.dumps(CHAT)}, "Write turns.", json.dumps(CHAT)),
    (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: Who?\n\nAssistant: Me.", "rejected": "x"},
        "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: Who?\n\nAssistant:",
        " Me.",
    ),
]


@pytest.mark.parametrize(("row", "prompt", "completion"), TEXTS)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_prompts_and_answers_in_columns_of_any_name(
    tmp_path: Path, row: dict[str, Any], prompt: str, completion: str, ending: str
) -> None:
    document = only(tmp_path / f"a{ending}", row | {"source": "web"})
    assert (document.prompt, document.completion) == (prompt, completion)
    assert document.metadata == {"source": "web"}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_are_words_of_a_document(tmp_path: Path, key: str) -> None:
    document = only(tmp_path / "a.jsonl", {"messages": [ASK, SAY | {key: "Hm."}, ASK | {key: ""}, SAY | {key: None}]})
    assert document.plain_text == "Where?\nHm.\nThere.\nWhere?\nThere."


def test_rows_that_differ_in_their_input_alone_are_different_documents(tmp_path: Path) -> None:
    rows = [{"instruction": "Name it.", "input": animal, "output": "Yes."} for animal in ("a frog", "a cat", "")]
    for named in ({}, {"prompt": "instruction", "completion": "output"}):
        found = read(tmp_path / "a.jsonl", rows, **named)
        assert len({d.doc_id for d in found}) == 3
        assert all("input" not in d.metadata for d in found if isinstance(d, Document))
    # Without an input, named columns are put together as they are.
    assert (found[2].prompt, found[2].completion) == ("Name it.", "Yes.")


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_column_of_empty_text_gives_way_to_other_content(tmp_path: Path, blank: str) -> None:
    rows = [
        {"text": blank, "messages": CHAT},
        {"text": blank, "prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": blank, "conversations": CHAT},
        {"text": blank, "prompt": "a", "completion": blank},
        {"text": "a", "messages": CHAT},
    ]
    chat, pair, other, nothing, text = read(tmp_path / "a.jsonl", rows)
    assert [d.messages for d in (chat, other) if isinstance(d, Document)] == [CHAT, CHAT]
    assert isinstance(pair, Document)
    assert (pair.prompt, pair.completion) == ("a", "b")
    assert isinstance(nothing, Skipped)
    assert (nothing.reason, nothing.detail) == ("empty text", f"column 'text' holds {blank!r}")
    assert isinstance(text, Document)
    assert (text.text, text.messages) == ("a", None)
    first = look(open_pool(tmp_path), Fields())
    assert first is not None
    assert {"chat messages", "prompt and completion", "ShareGPT conversations", "plain text"} == set(first.shapes)


def test_text_may_be_bytes_of_utf8(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["né".encode(), b"\xff"], pa.binary())}), tmp_path / "a.parquet")
    text, bad = documents(shard_at(tmp_path / "a.parquet"), Fields())
    assert isinstance(text, Document)
    assert text.text == "né"
    assert isinstance(bad, Skipped)
    assert (bad.reason, "not UTF-8" in bad.detail) == ("not a string", True)


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS), [json.dumps(tool) for tool in TOOLS]])
def test_tools_belong_to_a_conversation(tmp_path: Path, tools: Any) -> None:
    plain = only(tmp_path / "a.jsonl", {"messages": CHAT})
    with_tools = only(tmp_path / "a.jsonl", {"messages": CHAT, "tools": tools})
    assert (plain.tools, with_tools.tools) == (None, TOOLS)
    functions = only(tmp_path / "a.jsonl", {"messages": CHAT, "functions": [tool["function"] for tool in TOOLS]})
    assert functions.tools == TOOLS
    written = only(tmp_path / "a.jsonl", {"messages": CHAT, "functions": json.dumps([TOOLS[0]["function"]])})
    assert written.tools == TOOLS
    for others in (["seek"], "seek", [TOOLS], {}):
        assert only(tmp_path / "a.jsonl", {"messages": CHAT, "functions": others}).tools is None
    assert plain.content_hash != with_tools.content_hash
    assert only(tmp_path / "a.jsonl", {"messages": CHAT, "tools": []}).content_hash == plain.content_hash


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"conversations": [{"from": "human", "value": "x"}]}, "no assistant turn", "roles here: user"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "invalid messages", "keys here: from, value"),
        ({"messages": [ASK, SAY | {"weight": 0}]}, "no assistant turn", "marked to carry no loss"),
        ({"messages": [ASK, SAY | {"train": False}]}, "no assistant turn", "marked to carry no loss"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "body": "Where?"}]}, SAY]},
            "invalid messages",
            "turn 0: a part of the type 'text' has no text: {'type': 'text', 'body': 'Where?'}",
        ),
        (
            {"context": [ASK], "completions": [{"completion": [SAY], "rank": 0}, {"completion": [SAY], "rank": None}]},
            "invalid ranks",
            "the rank of each, found [0, None]",
        ),
        ({"segments": [{"label": True, "text": "a"}, {"label": False, "text": "b"}]}, "invalid segments", "follows"),
        ({"segments": [{"label": False, "text": "a"}, {"label": True, "text": " "}]}, "empty text", "no text carries"),
        ({"messages": [ASK, SAY | {"weight": "0"}]}, "no assistant turn", "marked to carry no loss"),
        ({"messages": [ASK, SAY | {"masked": 1}]}, "no assistant turn", "marked to carry no loss"),
        (
            {"messages": [ASK, SAY | {"train": "some"}]},
            "invalid messages",
            "column 'messages', turn 1: 'train' is 'some'",
        ),
        ({"messages": [ASK, SAY | {"loss_mask": [0, 1]}]}, "invalid messages", "'loss_mask' is [0, 1]"),
        (
            {"messages": [ASK, SAY | {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}]},
            "invalid messages",
            "turn 1: 'train_detail' marks parts",
        ),
        ({"messages": CHAT, "loss_mask": [0, 0]}, "no assistant turn", "marked to carry no loss"),
        ({"messages": CHAT, "loss_mask": [0, 0, 1]}, "invalid messages", "'loss_mask': 3 marks for 2 turns"),
        ({"conversations": CHAT, "loss_mask": [1]}, "invalid messages", "'loss_mask': 1 marks for 2 turns"),
        ({"messages": CHAT, "loss_mask": [0, [1]]}, "invalid messages", "column 'loss_mask': 'loss_mask' is [1]"),
        ({"messages": [ASK, SAY | {"note": nested(300)}]}, "invalid messages", "more than 128 levels"),
        ({"messages": CHAT, "tools": nested(300)}, "invalid tools", "expected a list of objects"),
        ({"messages": "[" * 300}, "invalid messages", "expected a list of turns"),
        ({"messages": [ASK, SAY | {"tool_calls": "seek()"}]}, "invalid messages", "'tool_calls' must be a list"),
        ({"prompt": [ASK], "completion": []}, "invalid messages", "column 'completion'"),
        ({"chosen": "a", "rejected": "b"}, "no prompt", "'prompt'"),
        ({"instruction": 3, "output": "x"}, "not a string", "column 'instruction'"),
        ({"question": "Who?", "answer": " "}, "empty text", "column 'answer'"),
        ({"query": "Who?", "response": "Me.", "history": [["Hi"]]}, "invalid history", "turn 0: expected an object"),
        ({"dialog": [{"tool": "x", "result": "y"}]}, "invalid messages", "keys here: tool, result"),
    ],
)
def test_a_row_of_a_shape_that_is_no_document_says_why(
    tmp_path: Path, row: dict[str, Any], reason: str, detail: str
) -> None:
    skipped, after = read(tmp_path / "a.jsonl", [row, {"text": "goes on"}])
    assert isinstance(skipped, Skipped)
    assert skipped.reason == reason
    assert detail in skipped.detail
    assert isinstance(after, Document)


@pytest.mark.parametrize("column", ["text", "messages", "tools", "conversations", "instruction", "history", "id"])
def test_values_nested_as_deep_as_json_may_be_end_no_shard(tmp_path: Path, column: str) -> None:
    row = {"messages": CHAT} if column == "tools" else {"instruction": "a"} if column == "history" else {}
    line = json.dumps({**row, "output": "b", column: "HERE"}).replace('"HERE"', "[" * 1000 + "]" * 1000)
    (tmp_path / "a.jsonl").write_text(f'{line}\n{{"text": "goes on"}}\n')
    skipped, after = documents(shard_at(tmp_path / "a.jsonl"), Fields())
    assert isinstance(skipped, Skipped)
    assert isinstance(after, Document)


def test_a_shape_that_is_named_reads_every_row(tmp_path: Path) -> None:
    rows = [{"text": "a", "messages": CHAT}, {"text": "b"}]
    chat, other = read(tmp_path / "a.jsonl", rows, format_as="messages")
    assert isinstance(chat, Document)
    assert (chat.text, chat.messages) == (None, CHAT)
    assert isinstance(other, Skipped)
    assert (other.reason, "chat messages (--format-as messages)" in other.detail) == ("no text", True)


def test_an_unknown_shape_names_the_nearest_before_any_work(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(SettingsError, match="no shape of rows 'sharegtp'") as error:
        check_fields(open_pool(tmp_path), Fields(format_as="sharegtp"))
    assert "'sharegpt'" in str(error.value.hint)


@pytest.mark.parametrize(
    ("rows", "said", "chat"),
    [
        ([{"conversations": CHAT, "system": "x"}], "ShareGPT conversations (conversations, system)", True),
        ([{"text": "a", "messages": CHAT}], "plain text (text); not read: messages", False),
        ([{"text": "a"}, {"messages": CHAT}], "plain text (text), chat messages (messages)", False),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "c"}],
            "preference pairs, the chosen answer of each (chosen, rejected, prompt)",
            False,
        ),
        (
            [{"question": "a", "answer": "b", "input": "c"}],
            "questions and answers (question, answer); not read: input",
            False,
        ),
    ],
)
def test_what_rows_are_read_as_is_told_from_the_first(
    tmp_path: Path, rows: list[dict[str, Any]], said: str, chat: bool
) -> None:
    write(tmp_path / "a.jsonl", rows)
    check_fields(open_pool(tmp_path), Fields())
    first_rows = look(open_pool(tmp_path), Fields())
    assert (str(first_rows), first_rows and first_rows.chat) == (said, chat)


def test_shapes_are_told_from_files_all_over_the_pool(tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path / f"{i:02d}.jsonl", [{"text": "a"} if i < 20 else {"conversations": CHAT}])
    assert str(look(open_pool(tmp_path), Fields())) == "plain text (text), ShareGPT conversations (conversations)"


def test_nothing_is_said_of_a_pool_without_a_document(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": " "}])
    assert look(open_pool(tmp_path), Fields()) is None


@pytest.mark.parametrize(
    ("pool_fields", "own", "rows"),
    [
        ({"text": "body"}, None, [{"text": "a"}]),
        ({"text": "body"}, None, [{"body": "a", "text": "no"}]),
        ({"prompt": "ask", "completion": "say"}, None, [{"messages": CHAT}]),
        ({"format_as": "sharegpt"}, None, [{"instruction": "a", "output": "b"}]),
        ({"text": "body", "id": "key"}, {"text": "passage", "id": "key"}, [{"passage": "a"}]),
    ],
)
def test_a_target_that_lacks_the_pools_columns_is_read_by_its_own(
    tmp_path: Path, pool_fields: dict[str, str], own: dict[str, str] | None, rows: list[dict[str, Any]]
) -> None:
    fields = Fields(**own) if own else None
    target = read_target(write(tmp_path / "t.jsonl", rows), fields, pool_fields=Fields(**pool_fields))
    assert [d.plain_text for d in target.documents] in (["a"], ["Where?\nThere."], ["a\n\nb"])
    assert target.read_as is not None


def test_a_column_that_the_target_alone_was_given_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"text": "a"}])
    with pytest.raises(CurateError, match="expected 'body'"):
        read_target(path, Fields(text="body"), pool_fields=Fields(text="content"))
    with pytest.raises(CurateError, match="no column to read text from; expected ShareGPT"):
        read_target(path, Fields(format_as="sharegpt"), pool_fields=Fields())
