"""Fit the rows of a query into a terminal: text is cut, and middle columns are left out, as DuckDB does."""

from collections.abc import Iterable, Sequence

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


def shown_columns(widths: Sequence[int], room: int) -> tuple[int, int, int]:
    """Return how many columns are shown from the left and from the right, and the most cells that each has.

    All columns are the left's where they fit into `room` cells, texts cut to LEAST at worst.
    """
    caps = [c for c in range(LEAST, max(LEAST, room, *widths) + 1) if _sum(min(w, c) for w in widths) < room]
    if caps:
        return len(widths), 0, caps[-1]
    narrow = [min(w, LEAST) for w in widths]
    left = right = 0
    while left + right < len(widths) - 1:
        more = (left, right + 1) if left > right else (left + 1, right)
        if _sum([*narrow[: more[0]], 1, *narrow[len(widths) - more[1] :]]) >= room and left:
            break
        left, right = more
    return left, right, LEAST


def _sum(widths: Iterable[int]) -> int:
    return sum(w + _FRAME for w in widths)
