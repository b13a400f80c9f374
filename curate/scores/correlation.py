"""Rank correlation of two arrays."""

import math

import numpy as np
import polars as pl


def spearman(left: np.ndarray, right: np.ndarray) -> float | None:
    """Return the rank correlation, ties at their mean rank; None where one side is constant and the two differ."""
    if np.array_equal(left, right):
        return 1.0
    coefficient = (
        pl.DataFrame({"left": left, "right": right}).select(pl.corr("left", "right", method="spearman")).item()
    )
    return None if coefficient is None or math.isnan(coefficient) else round(coefficient, 4)
