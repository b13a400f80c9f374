"""The run directory: one method's scores of one pool, and all that it takes to reproduce them.

run.json            settings and fingerprints (both must match to continue), and details (versions …)
scores/S-P.parquet  part P of shard S; its footer says which rows it covers
scores/S-P-to-T-Q.parquet  all parts from one to another: every 256 become one file
skipped/S-P.parquet rows of the same stretch that were set aside; absent when there are none
finished.json       totals; there once every shard has reached its end
shards.json         the pool's shards as they were, for a later run that takes over parts of unchanged ones
cascade.json, teacher/, predicted/  of the last run of a cascade: its settings, and the two runs that narrowed its pool
target/ …           whatever later runs reuse
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import pyarrow as pa

from curate.documents.located import located, located_settings
from curate.errors import CurateError
from curate.fields import Fields
from curate.folders.part_folder import PartFolder
from curate.folders.parts import Part
from curate.schema import SCORE_FIELDS
from curate.settings import build

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SHARDS", "Part", "Run", "latest_run", "list_runs"]

SHARDS = "shards.json"
"""In a run's folder: size and digest of the pool's shards, by name."""


@final
class Run(PartFolder):
    """A run in its folder. `start` one to write it (one process at a time), `open` one to read it."""

    KIND: ClassVar[str] = "run"
    RECORD: ClassVar[str] = "run.json"
    ROWS: ClassVar[str] = "scores"
    MERGES: ClassVar[bool] = True
    MAY_HOLD: ClassVar[frozenset[str]] = frozenset({"cascade.json", "teacher/", "predicted/"})
    WHICH: ClassVar[str] = "Give the folder that `curate score` wrote, or none for the latest run under runs/."

    def adopt(
        self,
        source: PartFolder,
        part: Part,
        shard_index: int,
        table: pa.Table | None = None,
        *,
        shard: str | None = None,
    ) -> Part:
        """Copy a part of the folder `source` into this run, whose pool may have the same shard at another index.

        `table` replaces the part's own, for instance by scores of a store's documents. `shard`: what this run's pool
        calls the shard, where not as the other's does.
        """
        rows, skipped = part.rows() if table is None else table, part.skipped(source.folder)
        if shard is not None and shard != part.shard:
            rows, skipped = _of_shard(rows, shard), _of_shard(skipped, shard)
        span = replace(part.span, shard_index=shard_index, shard=shard or part.shard)
        return self.write_part(span, rows, skipped)

    def refuse_positions(self) -> None:
        """Raise CurateError where an earlier version wrote the lists per token, which are no scores of labels."""
        if self.record.scores_positions:
            raise CurateError(
                f"{self.address} was scored per token by an earlier version: its lists say what of a document's score"
                " entered at each position, not what predicting each token is worth.",
                hint="Score with --per-token into a run of its own: curate score … --per-token --out runs/NAME.",
            )

    def located(self, address: str) -> str:
        """Return where an address of the record lies now; see `documents.located`."""
        return located(self, address)

    @property
    def located_settings(self) -> dict[str, Any]:
        """The record's settings, with addresses as they are found from here."""
        return located_settings(self)

    @property
    def fields(self) -> Fields:
        """How its pool's rows are read."""
        return build(Fields, self.record.fields, owner="The record of a run")

    @property
    def working_folder(self) -> str | None:
        """The folder in which the run's addresses were given, as far as its log tells."""
        return next((w["working_folder"] for w in self.log.lines() if "working_folder" in w), None)

    def scores(self) -> "pl.LazyFrame":
        """Return every scored document in pool order, lazily; columns that differ between parts are unified."""
        return self.table(pa.schema(SCORE_FIELDS))


def _of_shard(table: pa.Table, shard: str) -> pa.Table:
    number = table.schema.get_field_index("shard")
    return table.set_column(number, table.schema.field(number), pa.array([shard] * table.num_rows, pa.string()))


def list_runs(root: Path | str = "runs") -> list[Run]:
    """Return every run directly under `root`, newest first by the time of its run.json."""
    return [Run.open(path) for path in Run.newest_first(root)]


def latest_run(root: Path | str = "runs") -> Run:
    """Return the newest run under `root` that holds scores, else the newest.

    Raises CurateError where there is none."""
    paths = Run.newest_first(root)
    if not paths:
        raise CurateError(
            f"There is no run under {root}/.",
            hint="Make one with `curate score --target FILE --pool FOLDER`, or give the run's folder.",
        )
    return Run.open(next((path for path in paths if Run.has_parts(path)), paths[0]))
