"""Fit the rows of a query into a terminal: text is cut, and columns are left out, the inner ones first."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich.cells import cell_len, set_cell_size

from curate.visible import visible

LEAST = 16
"""Cells that a column keeps of its text before columns are left out."""
_FRAME = 3
"""Cells of a column's border and padding."""


def one_line(text: str) -> str:
    """Return text as one line of a table."""
    return visible(text[:5000]).replace("\n", "⏎").replace("\t", " ")


def cut(text: str, most: int) -> str:
    """Return a line of at most so many cells, cut with an ellipsis."""
    return text if cell_len(text) <= most else set_cell_size(text, max(1, most - 1)).rstrip() + "…"


def shown_columns(widths: Sequence[int], room: int, first: Iterable[int] = ()) -> tuple[list[int], int]:
    """Return which columns are shown, in their order, and the most cells that each has.

    All where they fit into `room` cells, texts cut to LEAST at worst. Else those of `first`, then the outermost ones,
    in turn from the left and from the right; a cell stands for each gap.
    """
    caps = [c for c in range(LEAST, max(LEAST, room, *widths) + 1) if _sum(min(w, c) for w in widths) < room]
    if caps:
        return list(range(len(widths))), caps[-1]
    narrow = [min(w, LEAST) for w in widths]
    chosen: list[int] = []
    outermost = (i // 2 if i % 2 == 0 else len(widths) - 1 - i // 2 for i in range(len(widths)))
    for column in dict.fromkeys([*first, *outermost]):
        more = sorted([*chosen, column])
        if _sum(1 if i is None else narrow[i] for i in with_gaps(more, len(widths))) >= room and chosen:
            break
        chosen = more
    return chosen, LEAST


def with_gaps(shown: Sequence[int], count: int) -> list[int | None]:
    """Return the columns that are shown, of so many, with None where some are left out."""
    columns: list[int | None] = []
    for before, column in pairwise([-1, *shown, count]):
        columns += [None] if column > before + 1 else []
        columns += [column] if column < count else []
    return columns


def _sum(widths: Iterable[int]) -> int:
    return sum(w + _FRAME for w in widths)
