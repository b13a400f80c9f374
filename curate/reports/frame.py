"""The columns that a report computes on, as one frame: every document, or a sample of a run that has too many."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from curate.errors import SettingsError, nearest
from curate.reports.figures import OVERLAP, VARIABLES
from curate.reports.ranks import best, ranks
from curate.schema import is_token_column
from curate.scores.run import Run

VALUES = 40_000_000
"""Numbers held in memory at most; a run that has more is sampled by a hash of every document's place."""
SPREAD = "score_spread"
"""Of a run with a parent: how far the repeats' scores lie apart, which is no score."""


@dataclass(frozen=True)
class Frame:
    """Documents in pool order with their scores, variables, `by`, `hit` (holds the target) and `content`."""

    table: pl.DataFrame
    columns: tuple[str, ...]
    by: str
    sampled: int | None

    def numbers(self, column: str) -> np.ndarray:
        """A column as float64 or float32, NaN where it is null."""
        kind = np.float64 if column == "n_tokens" else np.float32
        return self.table[column].to_numpy().astype(kind, copy=False)

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Those that the method computes for any document."""
        return tuple(v for v in VARIABLES if self.table[v].null_count() < self.table.height)

    @cached_property
    def ranks(self) -> dict[str, np.ndarray]:
        """Of every score column, and of every variable that no document lacks."""
        whole = [v for v in self.variables if not self.table[v].null_count()]
        return {c: ranks(self.numbers(c)) for c in (*self.columns, *whole)}

    def best(self, column: str, share: float) -> np.ndarray:
        """Places of the best share of documents by a score column."""
        return best(self.numbers(column), share)


def score_columns(run: Run, known: Sequence[str]) -> tuple[str, ...]:
    """Name a run's scores among its columns: `score`, then its groups' in the order of the table."""
    found = [c for c in known if c == "score" or c.startswith("score_")]
    return tuple(c for c in found if c != SPREAD or not run.record.is_rescoring)


def read_frame(run: Run, documents: int, *, by: str | None = None) -> Frame:
    """Read what a report needs of a run that has so many documents; `by` defaults to `source`, else `shard`."""
    rows = run.scores()
    known = rows.collect_schema().names()
    columns = score_columns(run, known)
    by = _by(known, by, columns)
    every = -(-documents * (len(columns) + 6) // VALUES)
    if every > 1:
        rows = rows.filter(pl.struct("shard", "row").hash(0) % every == 0)
    table = rows.select(
        *columns,
        *VARIABLES,
        pl.col(by).cast(pl.String).alias("by"),
        (pl.col("target_exact") | (pl.col("target_overlap") >= OVERLAP)).alias("hit"),
        pl.col("content_hash").hash(0).alias("content"),
    ).collect(engine="streaming")
    return Frame(table=table, columns=columns, by=by, sampled=table.height if every > 1 else None)


def _by(columns: Sequence[str], asked: str | None, scores: Sequence[str]) -> str:
    own = {"doc_id", "content_hash", "preview", "row", *VARIABLES, *scores}
    known = [c for c in columns if c not in own and not is_token_column(c)]
    if asked is None:
        return "source" if "source" in known else "shard"
    if asked not in known:
        raise SettingsError(f"--by {asked}: no such column to group by.", hint=nearest(asked, known))
    return asked
