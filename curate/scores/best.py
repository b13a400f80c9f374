"""The best and the worst rows of a run, however many it has: SQL keeps no more of them in memory than are asked for."""

from collections.abc import Sequence
from typing import Any, Literal

from curate.scores.run import Run
from curate.scores.session import open_session
from curate.scores.views import quoted


def best_rows(
    run: Run, columns: Sequence[str], count: int, *, order: Literal["best", "worst"] = "best"
) -> list[tuple[Any, ...]]:
    """Return some columns of the rows with the highest scores, or the lowest, these first; equal ones go by place."""
    selected = ", ".join(map(quoted, columns))
    direction = "DESC" if order == "best" else "ASC"
    with open_session(run) as session:
        return session.query(
            f"SELECT {selected} FROM scores ORDER BY score {direction}, shard, row LIMIT {int(count)}"
        ).rows()
