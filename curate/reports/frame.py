"""Read the columns of a report as one frame: every document, or a sample of a large run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from polars.selectors import by_name

from curate.errors import SettingsError, nearest
from curate.reports.figures import OVERLAP, VARIABLES
from curate.reports.ranks import best, ranks
from curate.schema import is_token_column
from curate.scores.run import Run

VALUES = 40_000_000
"""The most numbers held in memory; a larger run is sampled by a hash of every document's place."""
SPREAD = "score_spread"
"""A column of rescored runs that is no score: how far the repeats' scores lie apart."""


@dataclass(frozen=True)
class Frame:
    """Documents in pool order with their scores, variables, `by`, `hit` (holds the target) and `content`."""

    table: pl.DataFrame
    columns: tuple[str, ...]
    by: str
    sampled: int | None

    def numbers(self, column: str) -> np.ndarray:
        """Return a column as float64 or float32, NaN where it is null."""
        dtype = np.float64 if column == "n_tokens" else np.float32
        return self.table[column].to_numpy().astype(dtype, copy=False)

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Variables that the method computes."""
        return tuple(v for v in VARIABLES if self.table[v].null_count() < self.table.height)

    @cached_property
    def ranks(self) -> dict[str, np.ndarray]:
        """Ranks by every score column, and by every variable that no document lacks."""
        complete = [v for v in self.variables if not self.table[v].null_count()]
        return {c: ranks(self.numbers(c)) for c in (*self.columns, *complete)}

    def best(self, column: str, share: float) -> np.ndarray:
        """Return the places of the best share of documents by a score column."""
        return best(self.numbers(column), share)


def score_columns(run: Run, columns: Sequence[str]) -> tuple[str, ...]:
    """Return a run's score columns: `score`, then its groups' in the order of the table."""
    scores = [c for c in columns if c == "score" or c.startswith("score_")]
    return tuple(c for c in scores if c != SPREAD or not run.record.is_rescoring)


def read_frame(run: Run, documents: int, *, by: str | None = None) -> Frame:
    """Read the frame of a run with this many documents; `by` defaults to `source`, else `shard`."""
    scores = run.scores()
    names = scores.collect_schema().names()
    columns = score_columns(run, names)
    by = _by(names, by, columns)
    every = -(-documents * (len(columns) + 6) // VALUES)
    if every > 1:
        scores = scores.filter(pl.struct("shard", "row").hash(0) % every == 0)
    table = scores.select(
        *columns,
        *VARIABLES,
        by_name(by).cast(pl.String).alias("by"),
        (pl.col("target_exact") | (pl.col("target_overlap") >= OVERLAP)).alias("hit"),
        pl.col("content_hash").hash(0).alias("content"),
    ).collect(engine="streaming")
    return Frame(table=table, columns=columns, by=by, sampled=table.height if every > 1 else None)


def _by(columns: Sequence[str], by: str | None, scores: Sequence[str]) -> str:
    not_groupable = {"doc_id", "content_hash", "preview", "row", *VARIABLES, *scores}
    groupable = [c for c in columns if c not in not_groupable and not is_token_column(c)]
    if by is None:
        return "source" if "source" in groupable else "shard"
    if by not in groupable:
        raise SettingsError(f"--by {by}: no such column to group by.", hint=nearest(by, groupable))
    return by
