"""Numbers as people write them: `5%`, `20M`, `1e6`, `0.05`."""

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
