"""Numbers as people write and read them: `5%`, `20M`, `1e6`; 1 h 55 min, 0.8 GB."""

import math
import re
from typing import Any

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_AMOUNT = re.compile(r"^([+-]?[0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)$", re.IGNORECASE)


def parse_int(value: Any) -> int:
    """Return a whole number: 300, 20_000, 20M, 1.5B, 1e6. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if match := _AMOUNT.match(str(value).strip()):
        number = float(match[1]) * _SUFFIXES[match[2].lower()]
        exact = int(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()] if match[1].isdigit() else number
        if math.isfinite(number) and number == round(number):
            return int(exact)
    raise ValueError(f"expected a whole number such as 300, 20M or 1.5B, got {value!r}")


def parse_float(value: Any) -> float:
    """Return a number. Raises ValueError."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"expected a number, got {value!r}")


def parse_share(value: Any) -> float:
    """Return a share of a whole, from 0 to 1: 5% or 0.05. Raises ValueError."""
    text = str(value).strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"expected a share such as 5% or 0.05, got {value!r}") from None
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share between 0 and 1 (or 0% and 100%), got {value!r}")
    return share


def parse_portion(value: Any) -> int | float:
    """Return a share as a float (5%, 0.05), or a number as an int (50000, 20k), above 0. Raises ValueError."""
    text = str(value).strip()
    is_share = text.endswith("%") or isinstance(value, float) or ("." in text and text[-1].isdigit())
    try:
        portion = parse_share(value) if is_share else parse_int(value)
    except ValueError:
        raise ValueError(f"expected a share (5%, 0.05) or a number (50000, 20k), got {value!r}") from None
    if portion <= 0:
        raise ValueError(f"expected more than 0, got {value!r}")
    return portion


def portion_of(portion: float, total: int) -> int:
    """Return how many a portion is of a total: a share at least one, halves rounded up as SQL does."""
    return portion if isinstance(portion, int) else max(1, math.floor(portion * total + 0.5))


def portion_text(portion: float) -> str:
    """Return a portion as people say it: 20%, 50,000."""
    return f"{portion:,}" if isinstance(portion, int) else f"{100 * portion:.6g}%"


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 1 h 55 min, 3 days 4 h."""
    for most, unit, larger, smaller in ((90, 1, "s", ""), (5400, 60, "min", ""), (172_800, 60, "h", "min")):
        if seconds < most:
            count = max(1, round(seconds / unit))
            return f"{count // 60} {larger} {count % 60} {smaller}" if smaller else f"{count} {larger}"
    hours = round(seconds / 3600)
    return f"{hours // 24} days {hours % 24} h"


def size(num_bytes: float) -> str:
    """Return an amount of memory or disk as people say it: 12 kB, 10 MB, 0.8 GB, 3.1 TB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if num_bytes >= 0.5 * unit:
            value = num_bytes / unit
            return f"{value:.0f} {name}" if value >= 9.95 else f"{value:.1f} {name}"
    return f"{max(1, round(num_bytes / 1e3))} kB"


def rounded(count: float) -> str:
    """Return an estimated number with three digits that count: 12,300, 1,850,000."""
    return f"{round(count, 2 - math.floor(math.log10(count))) if count >= 1000 else round(count):,.0f}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 row, 1,204 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
