"""OpenAI's chat messages: a list of turns; the system prompt and the tools may have columns of their own."""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes._turns import MARKS, SYSTEM_OF_TURNS, asks_for_a_choice, parsed, read_turns, system_of
from curate.documents.shapes.contract import Columns, Refused, Shape, present
from curate.fields import Fields


def _columns(columns: Collection[str], fields: Fields) -> list[str]:
    return present(columns, [fields.messages], [*SYSTEM_OF_TURNS, "tools", "functions", MARKS])


def _fits(row: Columns, fields: Fields) -> bool:
    return not asks_for_a_choice(row, fields.messages)


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    tools = row.get("tools") or _as_tools(row.get("functions"))
    return read_turns(row[fields.messages], fields.messages, system=system_of(row), tools=tools, marks=row.get(MARKS))


def _as_tools(functions: Any) -> list[dict[str, Any]] | None:
    """Return functions, as OpenAI's older rows have them, as tools; None for anything else of this name."""
    functions = parsed(functions) if isinstance(functions, str) else functions
    if not isinstance(functions, list) or not all(
        isinstance(f, dict) and isinstance(f.get("name"), str) for f in functions
    ):
        return None
    return [{"type": "function", "function": f} for f in functions]


SHAPE = Shape(title="chat messages", order=20, columns=_columns, fits=_fits, read=_read)
