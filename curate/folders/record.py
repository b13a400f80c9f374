"""run.json: what a run was asked for, as deterministic bytes, and how two askings differ."""

import json
from collections.abc import Mapping
from typing import Any

FORMAT = 1
_ABSENT = object()


def canonical(value: Mapping[str, Any]) -> str:
    """The one JSON text of a value: sorted keys, two spaces, paths as strings, a final newline."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, default=str) + "\n"


def as_json(value: Any) -> Any:
    """The value as it comes back from run.json: tuples as lists, paths as strings."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, had: str = "the run has", asked: str = "you asked for"
) -> list[str]:
    """One line for each leaf that differs: `dim: the run has 16, you asked for 32`.

    A setting that an older run does not know, and that asks for nothing now, is no difference.
    """
    before, after = _leaves(old), _leaves(as_json(new))
    lines = []
    for key in sorted({*before, *after}):
        was, now = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if was != now and not (was is _ABSENT and not now):
            lines.append(f"{key}: {had} {_show(was)}, {asked} {_show(now)}")
    return lines


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _leaves(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _show(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
