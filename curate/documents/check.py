"""Check column names and tell the shapes of rows before any model loads."""

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from curate.documents import formats, shapes
from curate.documents.files import file_name, plain_name
from curate.documents.nested import column_of_a_row, lifted, taken_out
from curate.documents.pool import Pool
from curate.documents.records import DocumentMaker, useful_of
from curate.documents.results import result_of
from curate.documents.rows import rows
from curate.documents.shards import BadRow, Row, Shard
from curate.errors import CurateError, nearest
from curate.fields import COLUMNS, Fields
from curate.schema import Document, Skipped

_SHARDS = 8
_LOOKED_INTO, _ROWS = 8, 16
_SPLIT = frozenset({"columns", "data"})
"""Keys of an object of columns as pandas writes it with orient='split'."""
_QUESTIONS = ("prompt", "question", "query", "problem", "instruction", "inputs", "input")
_NAMED = 8
_LIKED = ("label", "kto_tag")
"""Columns by which TRL and LLaMA-Factory tell answers that were liked from others, for KTO."""
# What trainers read in rows of some shape: worth a word where it lies beside another shape's columns.
_NOTABLE = frozenset(
    {"instruction", "input", "context", "system", "history", "tools", "chosen", "rejected", "role", "parent_id"}
    | {"image", "images", "video", "videos", "audio", "audios"}
)


@dataclass(frozen=True, kw_only=True)
class FirstRows:
    """What the first rows of a few shards, spread over the pool, are."""

    shapes: dict[str, list[str]]
    """The columns that they are read from, by the shapes' titles."""
    not_read: list[str]
    """Columns beside those that other shapes would be read from."""
    chat: bool
    """Whether all of them are conversations, which need a chat template."""
    some_chat: bool = False
    """Whether some of them are."""
    notes: tuple[str, ...] = ()
    """What else there is to know of how they are read."""

    def __str__(self) -> str:
        shapes = ", ".join(f"{title} ({', '.join(columns)})" for title, columns in self.shapes.items())
        unread = f"; not read: {', '.join(self.not_read)}" if self.not_read else ""
        return "; ".join([f"{shapes}{unread}", *self.notes])


def look(pool: Pool, fields: Fields) -> FirstRows | None:
    """Tell what the first rows are read as; None where none of them is a document."""
    titles: dict[str, list[str]] = {}
    seen: dict[str, None] = {}
    chats: set[bool] = set()
    disliked: str | None = None
    weighed = False
    others: Counter[str] = Counter()
    """Rows with a part of a type that is no text, by the type."""
    for raw, document in _first_rows(pool, fields):
        if isinstance(document, Document) and not isinstance(raw, BadRow):
            if document.text is None:
                disliked = disliked or next((column for column in _LIKED if raw.get(column) is False), None)
            others.update(_other_parts(document))
            weighed = weighed or any(turn.get("weight", 1) not in (0, 1) for turn in document.messages or ())
            chats.add(document.messages is not None)
            seen.update(dict.fromkeys(raw))
            if (shape := shapes.shape_of(raw, fields)) is not None:
                read_from = titles.setdefault(shape.title, [])
                read_from += [c for c in shape.columns(raw, fields) if c not in read_from]
    content = _NOTABLE | shapes.content_columns(seen, replace(fields, format_as=None)) if seen else _NOTABLE
    used = {fields.id, *(c for columns in titles.values() for c in columns)}
    not_read = [c for c in seen if c in content and c not in used]
    if not titles:
        return None
    notes = [f"answers of which {disliked} is false are read like others"] if disliked else []
    notes += [
        f"parts of the type {kind!r} are no text and left out (in {n} of these rows)" for kind, n in others.items()
    ]
    notes += ["weights of turns other than 0 are read as 1"] * weighed
    return FirstRows(
        shapes=titles, not_read=not_read, chat=chats == {True}, some_chat=True in chats, notes=tuple(notes)
    )


def _other_parts(document: Document) -> set[str]:
    """Return the types of the parts of a document's turns that are no text."""
    contents = [turn["content"] for turn in document.messages or () if isinstance(turn.get("content"), list)]
    parts = [part for content in contents for part in content if not isinstance(part.get("text"), str)]
    return {str(part.get("type", "unknown")) for part in parts}


def refusal(pool: Pool, fields: Fields) -> str | None:
    """Say that half of the first rows or more are no documents, and why the first is none; None where fewer are."""
    documents = [document for _, document in _first_rows(pool, fields)]
    refused = [d for d in documents if isinstance(d, Skipped)]
    if not refused or 2 * len(refused) < len(documents):
        return None
    first = refused[0]
    shape = f" as {shapes.expected(fields)}" if fields.format_as else ""
    others = " Without --format-as each row is read by its own shape." if fields.format_as else ""
    return (
        f"{len(refused)} of the first {len(documents)} rows cannot be read{shape}. The first is {first.shard}, row "
        f"{first.row}: {first.reason}, {first.detail}.{others}"
    )


def _first_rows(pool: Pool, fields: Fields) -> Iterator[tuple[Row, Document | Skipped]]:
    """Yield the first rows of a few shards, columns that are not read as null, and what they are as documents."""
    count = min(_LOOKED_INTO, len(pool.shards))
    # Files of one shape have names beside each other.
    for shard in (pool.shards[i * len(pool.shards) // count] for i in range(count)):
        with suppress(CurateError):  # a damaged shard is reported where it is read
            make, schema = DocumentMaker(shard.name, fields), formats.get(shard.format).schema(shard)
            columns = None if schema is None else useful_of(schema, fields)
            unread = dict.fromkeys(name for name in schema.names if name not in columns) if schema and columns else {}
            for number, raw in islice(rows(shard, columns=columns), _ROWS):
                yield raw if isinstance(raw, BadRow) else {**raw, **unread}, make(number, raw)


def fallen_back(pool: Pool, fields: Fields, others: Fields) -> Fields:
    """Return a target's fields: what it shares with the pool's (`others`) holds where its first rows have it.

    A column of the pool's that they lack gives way to the column's own default, a shape to the rows' own.
    """
    columns: set[str] = set()
    for _, names in islice(_filled_shards(pool), _SHARDS):
        columns.update([] if isinstance(names, CurateError) else names)
    chosen = {name: getattr(fields, name) for name in COLUMNS}
    for name, column in chosen.items():
        shared = column == getattr(others, name)
        if shared and column != name and column not in columns and name not in chosen.values():
            chosen[name] = name
    shape = fields.format_as
    if shape and shape == others.format_as and not shapes.content_columns(columns, fields):
        shape = None
    return replace(fields, **chosen, format_as=shape)


def check_fields(
    pool: Pool,
    fields: Fields,
    *,
    also: tuple[str, ...] = (),
    may_lack: Collection[str] = (),
    prefix: str = "--",
) -> None:
    """Read the first rows of the first shards; raise where they cannot give a document.

    Raises CurateError when none of the first eight shards with rows has a content column, or when a column the
    user named (`fields` other than the default, `also`) is nowhere in their first rows;
    the error names the columns and the nearest one. Other columns, and those in `may_lack`, may
    differ from row to row and are not checked. A shard that cannot be read stops no other. `prefix` begins the
    options that errors name.
    """
    columns_seen: dict[str, None] = {}
    missing = (set(fields.renamed) - set(may_lack)) | set(also)
    first_problem: CurateError | None = None
    has_content, num_filled = False, 0
    for shard, columns in _filled_shards(pool):
        if isinstance(columns, CurateError):
            first_problem = first_problem or columns
            continue
        num_filled += 1
        if (problem := _no_rows(shard, columns, fields)) is not None:
            first_problem = first_problem or problem
        elif shapes.content_columns(columns, fields):
            has_content = True
        else:
            first_problem = first_problem or _no_content(shard, columns, fields, prefix)
        columns_seen.update(dict.fromkeys(columns))
        missing -= set(columns)
        if has_content and not missing:
            return
        if num_filled == _SHARDS:
            break
    if first_problem and not has_content:
        raise first_problem
    if not has_content:
        raise CurateError(f"{', '.join(pool.address)}: the {len(pool.shards)} shard(s) hold no rows.")
    column = min(missing)
    raise CurateError(
        f"{', '.join(pool.address)}: no column {column!r} in the first rows; found: {', '.join(columns_seen)}.",
        hint=_within(pool, column)
        or _close(column, list(columns_seen))
        or "Name one of these, or leave the option out.",
    )


def _within(pool: Pool, name: str) -> str | None:
    """Say how a name that leads into a column's objects becomes a column, where some first row has it."""
    for shard, columns in islice(_filled_shards(pool), _SHARDS):
        if not isinstance(columns, CurateError) and (said := lifted(shard, _first_row(shard), name)) is not None:
            return said
    return None


def _first_row(shard: Shard) -> Mapping[str, Any]:
    """Return a shard's first row, as one without columns where it has none that can be decoded."""
    row = next((row for _, row in rows(shard)), {})
    return {} if isinstance(row, BadRow) else row


def _filled_shards(pool: Pool) -> Iterator[tuple[Shard, list[str] | CurateError]]:
    for shard in pool.shards:
        try:
            columns = formats.get(shard.format).columns(shard)
        except CurateError as error:
            yield shard, error
            continue
        if columns:
            yield shard, [*columns, *(name for name in shard.partitions if name not in columns)]


def _no_content(shard: Shard, columns: list[str], fields: Fields, prefix: str) -> CurateError:
    is_one_object = _only_object(shard) is not None
    row = {} if fields.format_as else _first_row(shard)
    if (folder := result_of(shard.url)) is not None:
        hint = f"{folder} holds results of curate, and no documents. What `curate select` writes is a pool like others."
    elif fields.format_as:
        hint = f"Leave {prefix}format-as out: each row is then read by its own shape."
    elif shapes.is_turn(row):
        hint = (
            'A row is one turn; expected conversations, {"messages": [...]}: write the turns of each into one row;'
            f" of a file that holds one conversation: jq -cs '{{messages: flatten}}' {_plain(shard)} > rows.jsonl"
        )
    elif not is_one_object and (column := _column_of_rows(row, fields)) is not None:
        hint = f"The column {column!r} of a row holds several rows. Write them a line each{_apart(shard, column)}."
    elif (turns := _column_of_turns(row)) is not None:
        hint = f"The column {turns!r} holds turns of conversations: give {prefix}messages-column {turns}."
    elif (inner := next((said for name in fields.columns if (said := lifted(shard, row, name))), None)) is not None:
        hint = inner
    elif not is_one_object and (column := column_of_a_row(row, fields)) is not None:
        hint = taken_out(shard, column)
    elif (question := _question(row, fields)) is not None:
        hint = _unanswered(row, question, fields, prefix)
    elif (texts := _column_of_texts(row)) is not None:
        hint = (
            f"The column {texts!r} holds lists of texts: where these were said in turn, the first by the user, give"
            f" {prefix}messages-column {texts}."
        )
    elif is_one_object and (holder := _holder_of_rows(row, fields)) is not None:
        hint = _rows_apart(shard, holder)
    else:
        names = zip(fields.columns[:-1], COLUMNS[:-1], strict=True)
        usual = next((usual for name, usual in names if name != usual and usual in columns), None)
        near = next((s for w in fields.columns[:-1] if (s := _close(w, columns))), "")
        suggestion = near if usual is None else f"Did you mean {usual!r}?"
        hint = (
            f"Name the column that holds the text ({prefix}text-column), or those of prompts and their answers"
            f" ({prefix}prompt-column and {prefix}completion-column). {suggestion}"
        ).strip()
        if shard.format == "csv" and not suggestion:
            hint += " The first line of such a file names its columns; write one that does, where there is none."
    return CurateError(
        f"{shard.url}: no column to read text from; expected {shapes.expected(fields, prefix)}, "
        f"found: {', '.join(columns)}.",
        hint=hint,
    )


def _plain(shard: Shard) -> str:
    """Return what a command calls a shard."""
    return shlex.quote(PurePosixPath(shard.url).name if "://" in shard.url else shard.url)


def _question(row: Mapping[str, Any], fields: Fields) -> str | None:
    """Return the column of a row that holds a question or a prompt, if one does."""
    names = (fields.prompt, *_QUESTIONS)
    return next((name for name in names if isinstance(row.get(name), str | list)), None)


def _unanswered(row: Mapping[str, Any], question: str, fields: Fields, prefix: str) -> str:
    """Say how rows with a question get an answer: from another column, or from one that is to be written."""
    named = "" if question == fields.prompt else f"{prefix}prompt-column {question} "
    others = [c for c, v in row.items() if isinstance(v, str) and c not in (question, fields.id)]
    of_text = f", one of {', '.join(others[:_NAMED])}" if others else ""
    return (
        f"The column {question!r} holds prompts. Name that of their answers{of_text}: {named}{prefix}completion-column"
        f" NAME. Where the answer is no text, but a number or a list, write it as text into a column of its own."
    )


def _only_object(shard: Shard) -> Mapping[str, Any] | None:
    """Return the row of a file of JSON that is one object; None for all other files."""
    first = [row for _, row in islice(rows(shard), 2)] if plain_name(shard.url).endswith(".json") else []
    return first[0] if len(first) == 1 and not isinstance(first[0], BadRow) else None


def _no_rows(shard: Shard, columns: list[str], fields: Fields) -> CurateError | None:
    """Return the error of a file of JSON that is one object, of columns or of rows, where rows are expected."""
    only = _only_object(shard)
    return None if only is None else _holds_columns(shard, only, columns, fields) or _holds_rows(shard, only, fields)


def _holds_rows(shard: Shard, only: Mapping[str, Any], fields: Fields) -> CurateError | None:
    """Return the error of a file's only object that is no document, but holds rows, as exports of chats do."""
    if not isinstance(only.get(fields.messages), list):
        return None
    document, holder = DocumentMaker(shard.name, fields)(0, only), _holder_of_rows(only, fields)
    if isinstance(document, Document) or document.reason != "invalid messages" or holder is None:
        return None
    return CurateError(f"{shard.url}: no conversation: {document.detail}.", hint=_rows_apart(shard, holder))


def _rows_apart(shard: Shard, holder: str) -> str:
    name = PurePosixPath(shard.url).name if "://" in shard.url else shard.url
    rows_of = f"python -c \"import json; [print(json.dumps(r)) for r in json.load(open('{name}')){holder}]\""
    return f"The file is one object that holds rows. Write them a line each, in its place: {rows_of} > {name}l"


def _holds_columns(shard: Shard, only: Mapping[str, Any], columns: list[str], fields: Fields) -> CurateError | None:
    """Return the error of a file's only object that holds columns, as pandas writes it unless told otherwise."""
    is_split = set(columns) >= _SPLIT
    if not (isinstance(only.get("data"), list) if is_split else _are_columns(only, fields)):
        return None
    if isinstance(DocumentMaker(shard.name, fields)(0, only), Document):  # texts that were said in turn
        return None
    orient = ", orient='split'" if is_split else ""
    as_rows = f"pandas.read_json('{shard.url}'{orient}).to_json('rows.jsonl', orient='records', lines=True)"
    return CurateError(
        f"{shard.url}: one object that holds columns; expected rows.", hint=f"Write it again as rows, say by {as_rows}."
    )


def _are_columns(only: Mapping[str, Any], fields: Fields) -> bool:
    """Return whether a file's only object has a list or an object of texts for each column that rows are read from."""
    read_from = {c: only[c] for c in (fields.text, *_first_columns(only, fields)) if only.get(c) is not None}
    values = [list(v.values()) if isinstance(v, dict) else v for v in read_from.values()]
    lists = [v for v in values if isinstance(v, list) and v and all(isinstance(text, str | None) for text in v)]
    return len(lists) == len(values) > 0 and len(set(map(len, lists))) == 1


def _first_columns(row: Mapping[str, Any], fields: Fields) -> list[str]:
    """Return the columns of the first shape that a row's columns may have."""
    filled = [c for c, v in row.items() if v is not None]
    return [c for shape in shapes.of_columns(filled, fields)[:1] for c in shape.columns(filled, fields)]


def _apart(shard: Shard, column: str) -> str:
    """Return the command that writes the rows in a column of a plain file of JSON a line each; '' for other files."""
    name = PurePosixPath(shard.url).name if "://" in shard.url else shard.url
    if shard.format != "jsonl" or plain_name(name) != file_name(name):
        return ""
    each = f"json.load(open('{name}'))" if name.lower().endswith(".json") else f"map(json.loads, open('{name}'))"
    command = f"[print(json.dumps({{**r, **s}})) for r in {each} for s in r.pop('{column}')]"
    return f': python -c "import json; {command}" > rows.jsonl'


def _holder_of_rows(row: Mapping[str, Any], fields: Fields) -> str | None:
    """Return what in a JSON file's only object holds its rows, in Python; None where nothing does.

    Of several lists it is one whose rows have a shape, or the longest.
    """
    lists = {c: v for c, v in row.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)}
    if lists:
        return f"[{max(lists, key=lambda c: (shapes.shape_of(lists[c][0], fields) is not None, len(lists[c])))!r}]"
    return ".values()" if row and all(isinstance(v, dict) for v in row.values()) else None


def _column_of_turns(row: Mapping[str, Any]) -> str | None:
    """Return the column of a row that holds a conversation, if one does; lists of texts may be anything else."""
    return next((c for c, v in row.items() if not _are_lists(v) and shapes.are_turns(v)), None)


def _are_lists(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(inner, list) for inner in value)


def _column_of_rows(row: Mapping[str, Any], fields: Fields) -> str | None:
    """Return the column of a row whose objects would be documents beside its other columns, if one holds such.

    Objects that are a conversation by themselves are no rows.
    """
    for column, value in row.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            others = {c: v for c, v in row.items() if c != column}
            inner = others | dict(value[0])
            shape = shapes.shape_of(inner, fields)
            if shape and (not shapes.are_turns(value) or not others.keys().isdisjoint(shape.columns(inner, fields))):
                return column
    return None


def _column_of_texts(row: Mapping[str, Any]) -> str | None:
    """Return the column of a row that holds several texts, or pairs of them, if one does."""
    if pairs := next((c for c, v in row.items() if _are_lists(v) and shapes.are_turns(v)), None):
        return pairs
    lists = {c: v for c, v in row.items() if isinstance(v, list) and len(v) > 1}
    return next((c for c, v in lists.items() if all(isinstance(text, str) and " " in text for text in v)), None)


def _close(name: str, columns: list[str]) -> str:
    return sentence if (sentence := nearest(name, columns)).startswith("Did") else ""
