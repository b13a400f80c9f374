"""NeMo-RL's ranked completions of a context: the one of the lowest rank carries the loss, the others are not read."""

from collections.abc import Mapping
from typing import Any

from curate.documents.shapes.contract import Columns, Refused, Shape, present, shown
from curate.documents.shapes.trl import read_pair
from curate.fields import Fields


def _fits(row: Columns, _fields: Fields) -> bool:
    completions = row["completions"]
    is_list = isinstance(completions, list) and bool(completions)
    return is_list and all(isinstance(c, Mapping) and "completion" in c for c in completions)


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    completions = row["completions"]
    if len(completions) > 1 and not all(isinstance(c.get("rank"), int | float) for c in completions):
        ranks = [c.get("rank") for c in completions]
        return Refused(
            "invalid ranks", f"column 'completions': expected a number as the rank of each, found {shown(ranks)}"
        )
    best = min(completions, key=lambda c: c.get("rank") or 0)
    return read_pair({**row, "completion": best["completion"]}, "context", "completion")


SHAPE = Shape(
    title="ranked completions, the best of each",
    order=67,
    columns=lambda columns, _: present(columns, ["context", "completions"], ["tools"]),
    fits=_fits,
    read=_read,
)
