"""What a run holds, counted from its parts: once for its totals, and for whoever asks while it runs."""

from typing import Any

import polars as pl

from curate.scores.run import Run


def count(run: Run) -> dict[str, Any]:
    """Return documents, their scored tokens, and the rows set aside by reason (in the reasons' order)."""
    counted = run.scores().select(pl.len().alias("documents"), pl.col("n_tokens").cast(pl.Int64).sum()).collect()
    reasons = run.skipped().group_by("reason").len().sort("reason").collect()
    return {
        "documents": counted.item(0, "documents"),
        "tokens": counted.item(0, "n_tokens"),
        "skipped": dict(reasons.iter_rows()),
    }
