"""The mathematics of a report: ranks, correlations of ranks, the best, and where the mass lies."""

import math

import numpy as np
import polars as pl

DIGITS = 6
"""Significant digits of every figure: sums over many threads agree to more, so equal runs give equal reports."""


def rounded(value: float | None) -> float | None:
    """Return a figure at DIGITS significant digits; None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of every value from 1, equal ones at their mean rank; as float64."""
    return pl.Series(values).rank("average").to_numpy().astype(np.float64)


def correlation(left: np.ndarray, right: np.ndarray) -> float | None:
    """Return Pearson's correlation; None where one side is constant. Of ranks, this is Spearman's."""
    if len(left) < 2:
        return None
    x, y = left - left.mean(), right - right.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return None if spread == 0 else rounded(min(1.0, max(-1.0, float(x @ y) / spread)))


def spearman(left: np.ndarray, right: np.ndarray) -> float | None:
    """Return the rank correlation over documents where both are finite; None where one side ranks nothing."""
    finite = np.isfinite(left) & np.isfinite(right)
    return correlation(ranks(left[finite]), ranks(right[finite]))


def share_of(count: int, share: float) -> int:
    """Return how many documents a share is, as `curate select --top` counts it: rounded, at least one."""
    return max(1, round(share * count))


def best(scores: np.ndarray, share: float) -> np.ndarray:
    """Return the places of the best share of documents, in no order; of scores that tie at its edge, the first ones."""
    count = share_of(len(scores), share)
    edge = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > edge)
    return np.concatenate([above, np.flatnonzero(scores == edge)[: count - len(above)]])


def membership(scores: np.ndarray, share: float) -> np.ndarray:
    """Return for every document how much of it belongs to the best share: 1, 0, or a part where scores tie at its edge.

    Two rankings that tie everywhere then share what chance gives, not what the order of files gives.
    """
    count = share_of(len(scores), share)
    edge = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, tied = scores > edge, scores == edge
    return above + tied * ((count - above.sum()) / tied.sum())


def mass(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the part of Σ|score| that the documents of largest |score| hold, for every share of documents."""
    sizes = np.sort(np.abs(scores.astype(np.float64)))[::-1]
    sums = np.cumsum(sizes)
    total = sums[-1]
    if total == 0:
        return shares.copy()
    return sums[[share_of(len(sizes), s) - 1 for s in shares]] / total


def histogram(values: np.ndarray, bins: int) -> tuple[float, float, list[int]]:
    """Return (low, high, counts) over the bulk of values; the first and last count hold what lies outside, too.

    The bulk is the middle 99 %, less of it where tails are so long that it would be one bar; the 95th percentile is in
    it. One bin where all values are the same.
    """
    low, q25, q50, q75, q95, high = (float(q) for q in np.quantile(values, [0.005, 0.25, 0.5, 0.75, 0.95, 0.995]))
    if q25 < q75:
        reach = 5 * (q75 - q25)
        low, high = max(low, q25 - reach), min(high, max(q75 + reach, q95 + (q95 - q50) / 2))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        return low, high, [len(values)]
    counts, _ = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    return low, high, counts.tolist()
