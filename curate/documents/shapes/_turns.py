"""Turns of a conversation as people write them, in the one form that chat templates take."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from curate.documents.shapes.contract import BETWEEN, SYSTEM, Columns, Refused, answered, shown
from curate.schema import LOSS_MARKS, MASKED, THOUGHTS, carries_loss, message_text

_PARTIAL_MARKS = ("train_detail", "training_detail")
"""Keys by which axolotl's rows mark stretches of a turn."""
DEEPEST = 128
"""Levels of nesting: what is deeper overflows the stack of templates and of encoders of JSON."""
# Role and content of a turn, as it names them.
_KEYS = (
    ("role", "content"),
    ("from", "value"),
    ("role", "value"),
    ("from", "content"),
    ("speaker", "text"),
    ("sender", "text"),
    ("role", "parts"),
)
_WRITTEN = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")
"""The beginning of turns as a table of texts has them."""
SYSTEM_OF_TURNS = (*SYSTEM, "systemInstruction")
"""Names of a column of the system prompt beside turns."""
MARKS = "loss_mask"
"""A column beside turns that holds a list of what LOSS_MARKS say, one for each, as LLaMA-Factory's rows have it."""
CONVERSATIONS = ("conversations", "conversation")
_SPEAKERS = tuple(dict.fromkeys(role for role, _ in _KEYS))
_EXCHANGED = {
    "system": ("system",),
    "user": ("human", "user", "prompter", "instruction", "input", "question", "query", "prompt"),
    "assistant": ("assistant", "gpt", "bot", "chatgpt", "output", "answer", "response", "completion"),
}
"""What objects call what was said in an exchange, by its speaker."""
_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response", "tool_response", "function"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}


def read_turns(
    value: Any, column: str, *, system: Any = None, tools: Any = None, marks: Any = None
) -> dict[str, Any] | Refused:
    """Return the content of a chat row: its turns, and the tools that it offers; or why it has none.

    Turns may be a list, a list per key (as `datasets` writes a sequence of objects), JSON of either, or texts that are
    the user's and the assistant's in turn. `marks` is what the row's column MARKS holds: of a list one for each turn.
    """
    turns = listed_turns(in_turn(value), column)
    marks = parsed(marks) if isinstance(marks, str) else marks
    if not isinstance(turns, Refused) and isinstance(marks, list):
        turns = _marked(turns, marks)
    if isinstance(turns, Refused):
        return turns
    return content_of(with_system(turns, system), tools)


def _marked(turns: list[dict[str, Any]], marks: list[Any]) -> list[dict[str, Any]] | Refused:
    """Return turns with the marks of a list beside them, which may leave out the system's turn."""
    unmarked = turns[: len(turns) - len(marks)]
    if [turn["role"] for turn in unmarked] not in ([], ["system"]) or len(marks) > len(turns):
        return Refused("invalid messages", f"column {MARKS!r}: {len(marks)} marks for {len(turns)} turns")
    marked = [turn | {MARKS: mark} for turn, mark in zip(turns[len(unmarked) :], map(_mark, marks), strict=True)]
    if problem := next(filter(None, map(_wrong_mark, marked)), None):
        return Refused("invalid messages", f"column {MARKS!r}: {problem}")
    return [*unmarked, *marked]


def in_turn(value: Any) -> Any:
    """Return texts that were said in turn, the first by the user, as turns; anything else as it is."""
    value = parsed(value) if isinstance(value, str | bytes) else value
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        return value
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]


def turns_in(value: Any) -> Any:
    """Return the turns that JSON, or Python's writing of it, holds as a text; anything else as it is."""
    if not isinstance(value, str) or not _WRITTEN.match(value):
        return value
    turns = parsed(value)
    return value if isinstance(listed_turns(turns, ""), Refused) else turns


def waiting(value: Any) -> list[dict[str, Any]] | None:
    """Return the turns of a conversation that waits for an answer; None where it has one, or is none."""
    turns = listed_turns(in_turn(value), "") if isinstance(value, list | dict | str) else Refused("", "")
    return None if isinstance(turns, Refused) or turns[-1]["role"] == "assistant" else turns


def asks_for_a_choice(row: Columns, column: str) -> bool:
    """Return whether a row's conversation is but the prompt of an answer that was chosen, as LLaMA-Factory has it."""
    is_pair = all(isinstance(row.get(answer), str | list | dict) for answer in ("chosen", "rejected"))
    return is_pair and waiting(row[column]) is not None


def answered_after(row: Columns, blocks: Sequence[str], answer: str) -> dict[str, Any] | Refused:
    """Return what `answered` does; a block `history` holds exchanges or turns that came before."""
    history = row.get("history") if "history" in blocks else None
    value = parsed(history) if isinstance(history, str | bytes) else history
    if isinstance(value, list | dict):
        before = [exchange for exchange in in_turn(value) if exchange] if isinstance(value, list) else value
        turns = listed_turns(before, "history") if before else []
        if isinstance(turns, Refused):
            return Refused("invalid history", turns.detail)
        history = BETWEEN.join(text for turn in turns if (text := message_text(turn)).strip()) or None
    return answered({**row, "history": history}, blocks, answer)


def system_of(row: Columns) -> Any:
    """Return the system prompt that a row has in a column of its own: a text, or its parts, as Anthropic's may be."""
    return next((row[column] for column in SYSTEM_OF_TURNS if row.get(column)), None)


def with_system(turns: list[dict[str, Any]], system: Any) -> list[dict[str, Any]]:
    """Return turns behind a system prompt of a column of its own, unless they have one."""
    if isinstance(system, list | Mapping):
        parts = system if isinstance(system, Mapping) else {"content": system}
        system = message_text(_canonical({**parts, "role": "system"}))
    if not isinstance(system, str) or not system.strip() or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": system}, *turns]


def content_of(turns: Sequence[Mapping[str, Any]], tools: Any = None) -> dict[str, Any] | Refused:
    """Return turns as a document's content, unless no turn carries loss."""
    answers = [t for t in turns if t["role"] == "assistant" and (message_text(t).strip() or t.get("tool_calls"))]
    if not answers:
        roles = list(dict.fromkeys(t["role"] for t in turns))
        if "assistant" in roles:
            return Refused("no assistant turn", "no turn of the assistant with content: text or tool calls")
        return Refused("no assistant turn", f"no turn of the assistant; roles here: {', '.join(roles)}")
    if not any(map(carries_loss, answers)):
        return Refused("no assistant turn", "every turn of the assistant is marked to carry no loss")
    tools = parsed(tools) if isinstance(tools, str | bytes) and tools.strip() else tools
    if not tools:
        return {"messages": list(turns)}
    tools = [parsed(t) if isinstance(t, str) else t for t in tools] if isinstance(tools, list) else tools
    if not isinstance(tools, list) or not all(isinstance(t, Mapping) for t in tools) or _too_deep(tools):
        return Refused("invalid tools", f"expected a list of objects, found {shown(tools)}")
    return {"messages": list(turns), "tools": _without_nulls(tools)}


def listed_turns(value: Any, column: str) -> list[dict[str, Any]] | Refused:
    """Return the turns that a column holds, each with a role and content."""
    if isinstance(value, str | bytes):
        value = parsed(value)
    if isinstance(value, Mapping) and any(isinstance(value.get(role), str) for role in _SPEAKERS):
        value = [value]  # one turn, as LLaMA-Factory's answers are
    if isinstance(value, Mapping) and value and all(isinstance(v, list) for v in value.values()):
        value = [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not value:
        return Refused("invalid messages", f"column {column!r}: expected a list of turns, found {shown(value)}")
    turns, where = [], f"column {column!r}, " if column else ""
    for i, turn in ((i, turn) for i, exchange in enumerate(value) for turn in _exchanged(exchange)):
        if not isinstance(turn, Mapping):
            return Refused("invalid messages", f"{where}turn {i}: expected an object, found {type(turn).__name__}")
        if _too_deep([v for v in turn.values() if isinstance(v, list | dict)]):
            return Refused("invalid messages", f"{where}turn {i}: a value is nested more than {DEEPEST} levels deep")
        for canonical in _without_tool_parts(_canonical(turn)):
            if problem := _wrong_turn(canonical):
                return Refused(
                    "invalid messages", f"{where}turn {i}: {problem}; keys here: {', '.join(map(str, turn))}"
                )
            turns.append(canonical)
    return turns


def _exchanged(turn: Any) -> list[Any]:
    """Return the turns of an exchange: a question and its answer, as a list or as an object with a key for each."""
    if isinstance(turn, Mapping) and isinstance(turn.get("role"), str):  # as almost always
        return [turn]
    if isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn):
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turn, strict=True)]
    if not isinstance(turn, Mapping) or any(isinstance(turn.get(role), str) for role in _SPEAKERS):
        return [turn]
    said = {str(key).casefold(): text for key, text in turn.items() if isinstance(text, str) and text.strip()}
    by_role = {role: [said[name] for name in names if name in said] for role, names in _EXCHANGED.items()}
    marks = {mark: turn[mark] for mark in (*LOSS_MARKS, MASKED) if turn.get(mark) is not None}
    if turn.get("output_with_loss") is False:  # XTuner's mark
        marks["train"] = False
    turns = [{"role": role, "content": "\n".join(texts)} for role, texts in by_role.items() if texts]
    turns = [said | marks if said["role"] == "assistant" else said for said in turns]
    return turns or [turn]


def parsed(value: str | bytes) -> Any:
    """Return what JSON holds, or a literal of Python, which pandas writes into csv; anything else as it is."""
    try:
        return orjson.loads(value)
    except ValueError:
        pass
    try:
        # Through JSON, so that tuples become lists and what no tokenizer takes is refused.
        # An array of NumPy's has line ends where a list has commas; within texts they are written as \\n.
        literal = value.strip().replace("}\n {", "}, {") if isinstance(value, str) else ""
        return orjson.loads(orjson.dumps(ast.literal_eval(literal)))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return value


def _canonical(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn with `role` and `content` first, without null keys, and calls of functions as `tool_calls`."""
    role_key, content_key = _keys(turn)
    role = turn.get(role_key)
    role = _ROLES.get(role.strip().casefold(), role) if isinstance(role, str) else role
    said = (role_key, content_key, "role", "content")  # these may stand beside a pair of other names
    rest = {k: _without_nulls(v) for k, v in turn.items() if k not in said and v is not None}
    content = _without_nulls(turn.get(content_key))
    if isinstance(content, bytes):
        content = content.decode("utf-8", "replace")
    if isinstance(content, list):
        thoughts, content = _without_thoughts([_part(part) for part in content])
        rest |= {THOUGHTS[0]: thoughts} if thoughts else {}
    if isinstance(written := rest.get("tool_calls"), str | bytes):
        rest["tool_calls"] = parsed(written) if written.strip() else []
    calls: list[Any] = []
    if role == "function_call":
        role, calls = "assistant", list(_calls(content))
        content = None if calls else content
    elif role == "assistant" and isinstance(rest.get("function_call"), Mapping):
        calls = list(_calls(rest.pop("function_call")))
    if calls:
        rest["tool_calls"] = [*rest.get("tool_calls", ()), *calls]
    rest |= {mark: _mark(rest[mark]) for mark in (*LOSS_MARKS, MASKED) if isinstance(rest.get(mark), str)}
    given = {"content": content} if content_key in turn or calls else {}
    return {"role": role, **given, **rest}


def _mark(value: Any) -> Any:
    """Return a mark that a table of texts holds (`"0"`, `"False"`) as what it stands for; anything else as it is."""
    return parsed(value.strip().casefold()) if isinstance(value, str) else value


def _wrong_mark(turn: Mapping[str, Any]) -> str | None:
    for mark in (*LOSS_MARKS, MASKED):
        if not isinstance(value := turn.get(mark, True), bool | int | float):
            return f"{mark!r} is {shown(value)}; expected true or false, for the turn as a whole"
    if partial := next((mark for mark in _PARTIAL_MARKS if turn.get(mark)), None):
        return f"{partial!r} marks parts of the turn, which is not read; write a turn for each part, with 'train'"
    return None


def _keys(turn: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a turn calls its role and its content, which it may lack; one that is null gives way to another."""
    pairs = [(role, content) for role, content in _KEYS if isinstance(turn.get(role), str)]
    filled = (pair for pair in pairs if turn.get(pair[1]) is not None)
    present = (pair for pair in pairs if pair[1] in turn)
    return next(filled, None) or next(present, None) or next(iter(pairs), _KEYS[0])


def _part(part: Any) -> Any:
    """Return a part of a turn's content; text is of the type `text`, whatever an interface calls it."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Mapping) and part.get("type") == "text" and not isinstance(part.get("text"), str):
        name = next((name for name in ("content", "value") if isinstance(part.get(name), str)), None)
        part = {**{k: v for k, v in part.items() if k != name}, "text": part[name]} if name else part
    is_text = isinstance(part, Mapping) and isinstance(part.get("text"), str)
    return {**part, "type": "text"} if is_text and part.get("type") in (None, "input_text", "output_text") else part


def _without_thoughts(parts: list[Any]) -> tuple[str, list[Any]]:
    """Return what parts of thinking hold, as Anthropic writes them, and the other parts."""
    thoughts = [
        p
        for p in parts
        if isinstance(p, Mapping) and p.get("type") == "thinking" and isinstance(p.get("thinking"), str)
    ]
    return "\n".join(p["thinking"] for p in thoughts), [p for p in parts if p not in thoughts] if thoughts else parts


def _without_tool_parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a turn whose parts of tools, as Anthropic writes them, are calls, and results turns before the rest."""
    content = turn.get("content")
    parts = [p for p in content if isinstance(p, Mapping)] if isinstance(content, list) else []
    uses = [p for p in parts if p.get("type") == "tool_use" and isinstance(p.get("name"), str)]
    results = [p for p in parts if p.get("type") == "tool_result"]
    if not uses and not results:
        return [turn]
    rest = [p for p in parts if p not in uses and p not in results]
    calls = [
        {"id": p.get("id"), "type": "function", "function": {"name": p["name"], "arguments": p.get("input") or {}}}
        for p in uses
    ]
    answers = [
        _canonical({"role": "tool", "content": p.get("content") or "", "tool_call_id": p.get("tool_use_id")})
        for p in results
    ]
    turn = turn | {"content": rest or None} | ({"tool_calls": [*turn.get("tool_calls", ()), *calls]} if calls else {})
    return [*answers, *([turn] if rest or calls else [])]


def _calls(value: Any) -> Iterator[dict[str, Any]]:
    """Yield calls of functions in OpenAI's form, arguments as an object where they are JSON."""
    value = parsed(value) if isinstance(value, str) else value
    for call in value if isinstance(value, list) else [value]:
        if isinstance(call, Mapping) and isinstance(call.get("name"), str):
            arguments = call.get("arguments", {})
            arguments = parsed(arguments) if isinstance(arguments, str) else arguments
            yield {"type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _without_nulls(value: Any) -> Any:
    """Drop null keys: Arrow gives every object the keys of all objects, null where it had none."""
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _wrong_turn(turn: Mapping[str, Any]) -> str | None:
    if not isinstance(turn.get("role"), str):
        return f"'role' must be a string, found {type(turn.get('role')).__name__}"
    if turn["role"] == "assistant" and (problem := _wrong_mark(turn)):
        return problem
    content, calls = turn.get("content"), turn.get("tool_calls")
    if calls and not (isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls)):
        return f"'tool_calls' must be a list of objects, found {shown(calls)}"
    if isinstance(content, str) or (content is None and calls):
        return None
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        wrong = next((p for p in content if p.get("type") == "text" and not isinstance(p.get("text"), str)), None)
        return f"a part of the type 'text' has no text: {shown(wrong)}" if wrong is not None else None
    return f"'content' must be a string or a list of parts, found {type(content).__name__}"


def _too_deep(values: Iterable[Any]) -> bool:
    level = list(values)
    for _ in range(DEEPEST):
        if not level:
            return False
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, list | dict))
        level = [v for values in inner for v in values]
    return True
