"""Let only queries run, by DuckDB's own parser rather than by how they look."""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from curate.errors import CurateError

# DuckDB 2.0 lets COPY, INSERT … stand inside WITH, in a statement whose own type is SELECT.
_QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE", "STATEMENT_NODE"}
# These run SQL given to them as a string, which the parsed statement does not show.
_RUNS_STRINGS = {"query", "json_execute_serialized_sql", "from_substrait", "from_substrait_json"}
_EXPLAIN = re.compile(r"^\s*EXPLAIN(\s+ANALYZE)?(\s*\([^)]*\))?\s+", re.IGNORECASE)
_HINT = "A session reads only: SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW, PIVOT, EXPLAIN."


def check_query(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    """Return the names of the tables that one query reads, in lower case.

    Raises CurateError for anything but one query, naming the kind of statement.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise sql_error(error) from error
    if len(statements) != 1:
        raise CurateError(f"There are {len(statements)} SQL statements; expected one.", hint="Run them one by one.")
    statement_type = statements[0].type.name
    if statement_type == "EXPLAIN":
        return check_query(connection, _EXPLAIN.sub("", statements[0].query, count=1))
    if statement_type != "SELECT":
        raise CurateError(f"{_named(statement_type)} is not a query.", hint=_HINT)
    # fetchall, not fetchone: DuckDB 2 keeps a connection busy until a result is read to its end.
    row = connection.execute("SELECT json_serialize_sql(?)", [statements[0].query]).fetchall()
    tree = json.loads(row[0][0])
    if tree["error"]:
        raise CurateError(f"This is not a plain query: {tree.get('error_message')}.", hint=_HINT)
    return _tables(tree)


def without_semicolon(sql: str) -> str:
    """Return a statement that can stand inside another: without its final semicolon and the comments behind it."""
    head, semicolon, tail = sql.rpartition(";")
    try:
        ends = bool(semicolon) and not duckdb.extract_statements(tail)
    except duckdb.Error:  # that semicolon was inside a string or a comment
        return sql
    return head if ends else sql


def was_interrupted(error: BaseException) -> bool:
    """Return whether an error is what DuckDB makes of Ctrl-C."""
    return isinstance(error, duckdb.InterruptException) or "query interrupted" in str(error).casefold()


def sql_error(error: duckdb.Error) -> CurateError:
    """Return an error with DuckDB's message, which names the nearest column or table, and a hint for closed files."""
    text = str(error).strip()
    hint = None
    if "Permission Error" in text or "disabled by configuration" in text:
        hint = "A session reads only the runs; --allow FOLDER opens one more folder."
    elif match := re.search(r'Ambiguous reference to column name "(\w+)"', text):
        hint = f"Two views of the query have it: say which, scores.{match[1]} or documents.{match[1]}."
    return CurateError(text, hint=hint)


def _named(statement_type: str) -> str:
    return "A PIVOT without IN (…)" if statement_type == "MULTI" else statement_type.replace("VARIABLE_", "")


def _tables(tree: Any) -> set[str]:
    names: set[str] = set()
    for node in _walk(tree):
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _QUERY_NODES:
            statement = kind.removesuffix("_NODE").removesuffix("_QUERY")
            raise CurateError(f"{statement} inside WITH is not a query.", hint=_HINT)
        if str(node.get("function_name", "")).lower() in _RUNS_STRINGS:
            name = node["function_name"]
            raise CurateError(f"{name}() runs SQL from a string, which is refused.", hint="Write the query itself.")
        if kind == "BASE_TABLE":
            names.add(str(node.get("table_name", "")).lower())
        elif kind == "SHOW_REF":
            names.add(str(node.get("table_name", "")).strip('"').lower())
    return names


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
