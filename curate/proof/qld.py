"""Query loss after deletion: the rise without a query's best documents, beside the rise without random ones."""

from dataclasses import dataclass

import numpy as np

from curate.proof.lds import interval


@dataclass(frozen=True, kw_only=True)
class Qld:
    """The rise of queries' losses, in nats per token."""

    mean: float
    """After retraining without each query's best documents by score."""
    control: float
    """After retraining without as many random ones: the mean over the bank's subsets."""
    low: float
    """Lower end of the interval of their difference."""
    high: float
    queries: tuple[float, ...]

    @property
    def difference(self) -> float:
        return self.mean - self.control


def best(scores: np.ndarray, count: int) -> tuple[int, ...]:
    """Return the positions of the highest of some documents' scores `[documents]`, in order; ties go by position."""
    return tuple(sorted(int(i) for i in np.argsort(-scores, kind="stable")[:count]))


def qld(rises: np.ndarray, controls: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Qld:
    """Compare rises `[queries]`, each after leaving out that query's best, with `[subsets, queries]` of random ones.

    The interval resamples queries and subsets together.
    """
    subsets, queries = controls.shape
    rng = np.random.default_rng([seed, 4])
    query_weights = rng.multinomial(queries, np.full(queries, 1 / queries), size=resamples) / queries
    subset_weights = rng.multinomial(subsets, np.full(subsets, 1 / subsets), size=resamples) / subsets
    low, high = interval(
        query_weights @ rises - np.einsum("bs,sq,bq->b", subset_weights, controls, query_weights, optimize=True)
    )
    return Qld(
        mean=float(rises.mean()),
        control=float(controls.mean()),
        low=low,
        high=high,
        queries=tuple(float(v) for v in rises),
    )
