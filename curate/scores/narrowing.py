"""Runs that hold some of their pool's documents: how that is told, what shares are of, and which are another's best."""

from collections.abc import Sequence

from curate.amounts import portion_of, portion_text
from curate.errors import CurateError, nearest
from curate.folders.record import RunRecord
from curate.schema import group_column
from curate.scores.run import Run
from curate.scores.views import quoted


def narrowed_note(record: RunRecord) -> str | None:
    """Return which of the pool's documents a run was begun for, in words; None for all of them."""
    narrowed = record.details.narrowed
    if narrowed is None:
        return None
    if narrowed.share is not None:
        return (
            f"a seeded sample of the pool, about {narrowed.documents:,} of its about {narrowed.of:,} rows"
            f" (each with a chance of {100 * narrowed.share:.3g}%)"
        )
    if narrowed.top is None:
        return f"the {narrowed.documents:,} documents that {record.only} scored"
    best = f"the best {portion_text(narrowed.top)}"
    by = f"{'any of ' if len(narrowed.columns) > 1 else ''}{', '.join(narrowed.columns)}"
    return f"{narrowed.documents:,} of the pool's {narrowed.of:,} documents, {best} of {record.only} by {by}"


def documents_stood_for(run: Run, documents: int) -> int:
    """Return of how many documents a share of a run of so many is meant.

    The best of another run stand for all that they were chosen from; a sample stands for itself.
    """
    narrowed = run.record.details.narrowed
    return narrowed.of if narrowed is not None and narrowed.share is None else documents


def ranking_columns(run: Run, groups: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a run whose best are meant: those of the groups, else of all groups, else `score`.

    A group may be named by its column, too. Raises CurateError where there is none.
    """
    columns = run.record.details.columns
    of_groups = () if run.record.is_rescoring else columns[1:]
    named = tuple(group if group in columns else group_column(group) for group in groups)
    for group, column in zip(groups, named, strict=True):
        if column not in columns:
            names = [c.removeprefix("score_") for c in of_groups]
            raise CurateError(f"{run.address} has no group {group!r}.", hint=nearest(group, names or ["score"]))
    return named or of_groups or ("score",)


def best_sql(columns: Sequence[str], top: float | None, of: int) -> str:
    """Return a query for shard and row of a run's best documents by any of the columns, as the filter `top` ranks them.

    `top` is a share of `of`, or a number; None: all of its documents.
    """
    if top is None:
        return "SELECT shard, row FROM scores"
    limit = portion_of(top, of)
    best = (
        f"(SELECT shard, row FROM scores WHERE isfinite({c}::DOUBLE) ORDER BY {c} DESC, doc_id, shard, row"
        f" LIMIT {limit})"
        for c in map(quoted, columns)
    )
    return " UNION ".join(best)
