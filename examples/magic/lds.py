"""The linear datamodelling score: do summed scores rank what leaving documents out does to a loss?

Park et al. 2023 (TRAK), §2: per query the rank correlation, over retrainings, of the predicted with the true change.
"""

from dataclasses import dataclass

import numpy as np

DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Lds:
    """Per query, their mean, and how far chance could have moved it."""

    by_query: np.ndarray
    low: float
    high: float
    """Between which the mean lies in 95 % of bootstrap draws of both retrainings and queries."""

    @property
    def mean(self) -> float:
        return float(self.by_query.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean over queries."""
        return float(self.by_query.std(ddof=1) / len(self.by_query) ** 0.5)


def lds(scores: np.ndarray, out: np.ndarray, changes: np.ndarray) -> Lds:
    """Measure scores `[queries, documents]` against retrainings `[retrainings, documents]` and their changes."""
    predicted = out @ scores.T
    low, high = np.quantile(bootstrap(predicted, changes), [0.025, 0.975])
    return Lds(by_query=rank_correlations(predicted, changes), low=float(low), high=float(high))


def bootstrap(predicted: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Return the mean over queries in every draw; two methods' draws are of the same retrainings and queries."""
    random = np.random.default_rng(0)
    retrainings, queries = changes.shape
    rows = random.multinomial(retrainings, np.full(retrainings, 1 / retrainings), size=DRAWS)
    columns = random.multinomial(queries, np.full(queries, 1 / queries), size=DRAWS)
    return (_correlations(predicted, changes, rows) * columns.T).sum(0) / queries


def rank_correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each column with the other's; 0 where a column ranks nothing."""
    return _correlations(left, right, np.ones((1, len(left))))[:, 0]


def _correlations(left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rank correlations `[columns, draws]` where each row occurs `counts` `[draws, rows]` times."""
    one, other = (_centred_ranks(values, counts) for values in (left, right))
    products = [(counts.T * a * b).sum(1) for a, b in ((one, other), (one, one), (other, other))]
    norms = np.sqrt(products[1] * products[2])
    return products[0] / np.where(norms > 0, norms, 1)


def _centred_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rows' ranks in every draw `[columns, rows, draws]`, ties at their mean rank, less the mean of all."""
    columns = values.T
    above = columns[:, :, None] > columns[:, None]
    same = columns[:, :, None] == columns[:, None]
    ranks = (above + same / 2) @ counts.T
    return ranks - (counts.T * ranks).sum(1, keepdims=True) / counts.sum(1)
