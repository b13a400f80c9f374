"""The end of a pass over a pool: what was set aside is said, and nothing to show for it is a failure."""

from contextlib import suppress
from typing import Any

import polars as pl

from curate.documents import DAMAGED, Fields, Pool, documents
from curate.errors import CurateError
from curate.folders.part_folder import PartFolder
from curate.progress import Reporter
from curate.schema import Skipped
from curate.scores.counts import count

_NAMED = 5


def totals_of(folder: PartFolder, *, strict: bool, reporter: Reporter) -> dict[str, Any]:
    """Count what a pass has written, and warn of shards that were damaged.

    Raises CurateError where not one document is left, and with `strict` where a shard was damaged; parts stay.
    """
    totals = count(folder)
    damaged = folder.skipped().filter(pl.col("reason") == DAMAGED).select("shard", "detail").collect().rows()
    for shard, detail in damaged[:_NAMED]:
        reporter.warn(f"{shard}: damaged, what could be read of it is kept: {detail}")
    if (more := len(damaged) - _NAMED) > 0:
        reporter.warn(f"{more:,} more shards are damaged; the view skipped of `curate sql` names them.")
    if not totals["documents"]:
        raise _nothing(folder, totals["skipped"])
    if damaged and strict:
        raise CurateError(
            f"{len(damaged)} shard(s) could not be read to the end; all others are done. {damaged[0][1]}",
            hint="Mend or remove the shard and begin anew in another folder (--out), or go on without --strict.",
        )
    return totals


def nothing_usable(pool: Pool, columns: Fields) -> CurateError:
    """Return the error of a pool of which a sample has no document, with the first row and why it is none."""
    first = None
    for shard in pool.shards:
        with suppress(CurateError):
            first = first or next(documents(shard, columns), None)
    shown = f" The first is {first.shard}, row {first.row}: {first.detail}" if isinstance(first, Skipped) else ""
    return CurateError(
        f"A sample of the pool ({', '.join(pool.address)}) holds no row that can be used.{shown}",
        hint="Name the columns that hold the content (--text-column …), or mend the rows.",
    )


def _nothing(folder: PartFolder, reasons: dict[str, int]) -> CurateError:
    if not reasons:
        return CurateError("The pool holds no document.", hint="Is --pool the right folder?")
    row = folder.skipped().head(1).collect().row(0, named=True)
    counts = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
    return CurateError(
        f"Not one of the pool's {sum(reasons.values()):,} rows can be used: {counts}. "
        f"The first is {row['shard']}, row {row['row']}: {row['detail'] or row['reason']}",
        hint=f"Name the columns that hold the content (--text-column …), or mend the rows, and delete {folder.path}.",
    )
