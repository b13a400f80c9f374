"""The linear datamodelling score: how well summed scores rank the outcomes of retrainings (Park et al. 2023, §2).

A retraining leaves a subset out; the scores of what it left out, added up, predict by how much each query's loss rises.
Per query the Spearman correlation over the retrainings, then the mean over queries: never one aggregated query, whose
noise has averaged out and whose figure flatters every method. Intervals resample the subsets and the queries together.
"""

from dataclasses import dataclass

import numpy as np

COVERAGE = 0.95
"""The share of resampled figures in every interval: percentiles 2.5 to 97.5."""
_AT_ONCE = 1 << 22  # numbers of one temporary array


@dataclass(frozen=True, kw_only=True)
class Lds:
    """A linear datamodelling score with its interval."""

    mean: float
    low: float
    high: float
    queries: tuple[float, ...]
    """Each query's correlation; 0 where the scores rank nothing."""
    undefined: int
    """Queries for which all predictions, or all changes, were equal."""


def lds(predicted: np.ndarray, measured: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Lds:
    """Compare predicted with measured changes of loss, both `[subsets, queries]`.

    Raises ValueError for other shapes, or fewer than three subsets, which rank nothing.
    """
    if predicted.shape != measured.shape or predicted.ndim != 2 or len(predicted) < 3:
        raise ValueError(
            f"The shapes are {predicted.shape} and {measured.shape}; expected [subsets ≥ 3, queries] twice."
        )
    subsets, queries = predicted.shape
    by_query = correlations(predicted, measured, np.ones((1, subsets)))[0]
    rng = np.random.default_rng([seed, 3])
    counts = rng.multinomial(subsets, np.full(subsets, 1 / subsets), size=resamples).astype(np.float64)
    query_counts = rng.multinomial(queries, np.full(queries, 1 / queries), size=resamples)
    resampled = correlations(predicted, measured, counts)
    means = (np.nan_to_num(resampled) * query_counts).sum(1) / queries
    low, high = interval(means)
    return Lds(
        mean=float(np.nan_to_num(by_query).mean()),
        low=low,
        high=high,
        queries=tuple(float(v) for v in np.nan_to_num(by_query)),
        undefined=int(np.isnan(by_query).sum()),
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of resampled figures."""
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def correlations(left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Spearman correlations `[resamples, queries]` of arrays `[subsets, queries]`; NaN where one is constant.

    `counts` `[resamples, subsets]` says how often each resample holds each subset: copies are ties, at their mean rank.
    """
    values = np.empty((len(counts), left.shape[1]))
    step = max(1, _AT_ONCE // counts.shape[1])
    for start in range(0, len(counts), step):
        block = counts[start : start + step]
        for query in range(left.shape[1]):
            left_ranks, right_ranks = _ranks(left[:, query], block), _ranks(right[:, query], block)
            values[start : start + step, query] = _pearson(left_ranks, right_ranks, block)
    return values


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean rank of every value among its copies and equals, for every row of counts."""
    distinct, position = np.unique(values, return_inverse=True)
    copies = np.zeros((len(counts), len(distinct)))
    np.add.at(copies.T, position, counts.T)
    cumulative = copies.cumsum(1)
    return (cumulative - copies / 2 + 0.5)[:, position]


def _pearson(left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = counts.sum(1, keepdims=True)
    a = left - (left * counts).sum(1, keepdims=True) / total
    b = right - (right * counts).sum(1, keepdims=True) / total
    product = (counts * a * b).sum(1)
    scale = np.sqrt((counts * a * a).sum(1) * (counts * b * b).sum(1))
    ranked = scale > 1e-9 * total[:, 0]  # ranks are halves of whole numbers: what is left of none is rounding
    return np.divide(product, scale, out=np.full(len(counts), np.nan), where=ranked)
