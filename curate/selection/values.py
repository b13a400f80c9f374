"""Read the values of a filter's parameters: `5%`, `20M`, `true`, a column."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from curate.amounts import parse_float, parse_int, parse_portion, parse_share
from curate.errors import SettingsError, nearest


def parse_bool(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise ValueError(f"expected true or false, got {value!r}") from None


PARSERS: dict[str, Callable[[Any], Any]] = {
    "int": parse_int,
    "float": parse_float,
    "share": parse_share,
    "bool": parse_bool,
    "str": str,
}
COLUMN_TYPES = ("column", "columns")


def match_columns(patterns: str | Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return columns by name or by pattern (`score_*`), in the table's order within each."""
    listed = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    matched: list[str] = []
    for pattern in (p.strip() for p in listed):
        matches = [pattern] if pattern in columns else [c for c in columns if fnmatchcase(c, pattern)]
        if not matches:
            hint = nearest(pattern, list(columns))
            if pattern == "score_*":
                hint = "The run has a single target group: `curate score --group-by COLUMN` gives each its column."
            raise SettingsError(f"No column matches {pattern!r}.", hint=hint)
        matched += [c for c in matches if c not in matched]
    return matched


def parse_top(value: Any, option: str = "--top") -> dict[str, Any]:
    """Return a share (`5%`, `0.05`) or a number of documents (`50000`, `20k`), by its name."""
    try:
        portion = parse_portion(value)
    except ValueError as error:
        raise SettingsError(f"{option}: {error}.", hint="Give a share (5%, 0.05) or a number (50000, 20k).") from None
    return {"count" if isinstance(portion, int) else "share": portion}


def parse_budget(value: Any) -> int:
    """Return a number of tokens (`20M`). Raises SettingsError."""
    hint = "Give a number of tokens (20M, 1.5B); a share is --top 20%."
    try:
        tokens = parse_int(value)
    except ValueError:
        raise SettingsError(f"--budget is {value}; expected a number of tokens.", hint=hint) from None
    if tokens <= 0:
        raise SettingsError(f"--budget is {value}; expected more than 0.", hint=hint)
    return tokens
