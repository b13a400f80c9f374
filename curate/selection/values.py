"""What users write for a filter's parameters: `5%`, `20M`, `true`, a column."""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from curate.errors import SettingsError, nearest

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_AMOUNT = re.compile(r"^([+-]?[0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)$", re.IGNORECASE)


def parse_int(value: Any) -> int:
    """A whole number: 300, 20_000, 20M, 1.5B, 1e6."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if found := _AMOUNT.match(str(value).strip()):
        number = float(found[1]) * _SUFFIXES[found[2].lower()]
        exact = int(found[1].replace("_", "")) * _SUFFIXES[found[2].lower()] if found[1].isdigit() else number
        if number == round(number):
            return int(exact)
    raise ValueError(f"expected a whole number such as 300, 20M or 1.5B, got {value!r}")


def parse_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected a number, got {value!r}") from None


def parse_share(value: Any) -> float:
    """A share of a whole: 5% or 0.05."""
    text = str(value).strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"expected a share such as 5% or 0.05, got {value!r}") from None
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share between 0 and 1 (or 0% and 100%), got {value!r}")
    return share


def parse_bool(value: Any) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return known[str(value).strip().lower()]
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


def match_columns(patterns: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """Columns by name or by pattern (`score_*`), in the table's order within each."""
    listed = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    found: list[str] = []
    for pattern in (p.strip() for p in listed):
        here = [pattern] if pattern in known else [c for c in known if fnmatchcase(c, pattern)]
        if not here:
            hint = nearest(pattern, list(known))
            if pattern == "score_*":
                hint = "The run has a single target group: `curate score --group-by COLUMN` gives each its column."
            raise SettingsError(f"no column matches {pattern!r}", hint=hint)
        found += [c for c in here if c not in found]
    return found


def parse_top(value: Any) -> dict[str, Any]:
    """`5%` and `0.05` are a share, `50000` and `20k` a number of documents."""
    text = str(value).strip()
    is_share = text.endswith("%") or isinstance(value, float) or ("." in text and text[-1].isdigit())
    try:
        chosen = {"share": parse_share(value)} if is_share else {"count": parse_int(value)}
    except ValueError as error:
        raise SettingsError(f"--top: {error}", hint="Give a share (5%, 0.05) or a number (50000, 20k).") from None
    if next(iter(chosen.values())) <= 0:
        raise SettingsError(f"--top {value}: nothing would be left", hint="Give a share (5%) or a number (50000).")
    return chosen
