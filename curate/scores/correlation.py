"""How alike two rankings are."""

import math

import numpy as np
import polars as pl


def spearman(left: np.ndarray, right: np.ndarray) -> float | None:
    """Return the rank correlation, ties at their mean rank; None where one side ranks nothing and they differ."""
    if np.array_equal(left, right):
        return 1.0
    found = pl.DataFrame({"left": left, "right": right}).select(pl.corr("left", "right", method="spearman")).item()
    return None if found is None or math.isnan(found) else round(found, 4)
