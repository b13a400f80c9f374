"""Count the documents of a run or a store from its parts, finished or not."""

from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from curate.folders.part_folder import PartFolder
from curate.schema import ROW_FIELDS


def lost_rows(totals: Mapping[str, Any]) -> str | None:
    """Return a warning where half of a pool's rows or more were set aside."""
    lost = sum(totals["skipped"].values())
    if lost < max(totals["documents"], 1):
        return None
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in totals["skipped"].items())
    share = f"{lost:,} of {lost + totals['documents']:,} rows"
    return f"{share} were set aside and have no part in this: {reasons}. The view skipped of `curate sql` says why."


def count(folder: PartFolder) -> dict[str, Any]:
    """Return documents, their scored tokens, and the rows set aside by reason (in the reasons' order)."""
    scored = folder.table(pa.schema(ROW_FIELDS))
    sums = scored.select(pl.len().alias("documents"), pl.col("n_tokens").cast(pl.Int64).sum())
    counted = sums.collect(engine="streaming")
    reasons = folder.skipped().group_by("reason").len().sort("reason").collect(engine="streaming")
    return {
        "documents": counted.item(0, "documents"),
        "tokens": counted.item(0, "n_tokens"),
        "skipped": dict(reasons.iter_rows()),
    }
