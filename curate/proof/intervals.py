"""How sure a difference between two arms is: an interval over the held-out rows and over the seeds.

A loss is the arm's mean, plus what a row adds, what a training (seed) adds, and what that row adds in that training.
Both arms are measured on the same rows, so what a row adds to both cancels; two trainings of equal number have no
documents in common, so seeds are not paired. Components of variance are those of the two-way layout; degrees of freedom
follow Satterthwaite (1946).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean loss of one arm less another's."""

    value: float
    error: float | None
    """Standard error; None where there is one row and one seed."""
    margin: float | None
    """Half of the 95 % interval's width."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.margin is not None and abs(self.value) > self.margin

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.margin is None else (self.value - self.margin, self.value + self.margin)


def difference(left: Float[np.ndarray, "seeds rows"], right: Float[np.ndarray, "seeds rows"]) -> Difference:
    """Return the mean of `left` less that of `right`; with one seed (or row) its spread is not covered."""
    value = float(left.mean() - right.mean())
    rows = left.shape[1]
    gaps = left.mean(0) - right.mean(0)
    parts = [(float(gaps.var(ddof=1)) / rows, rows - 1, 1)] if rows > 1 else []
    of_seeds = [*_seed_parts(left), *_seed_parts(right)]
    if sum(sign * part for part, _, sign in of_seeds) > 0:
        parts += of_seeds
    if not parts:
        return Difference(value=value, error=None, margin=None)
    variance = sum(sign * part for part, _, sign in parts)
    spread = sum(part**2 / freedom for part, freedom, _ in parts)
    if variance <= 0 or spread <= 0:
        return Difference(value=value, error=0.0, margin=0.0)
    error = math.sqrt(variance)
    # A part that is taken off makes the formula's degrees of freedom fall below those of any mean square.
    freedom = max(variance**2 / spread, min(freedom for _, freedom, sign in parts if sign > 0))
    return Difference(value=value, error=error, margin=student_quantile(freedom) * error)


def _seed_parts(losses: Float[np.ndarray, "seeds rows"]) -> list[tuple[float, int, int]]:
    """Return what trainings add to the variance of an arm's mean beyond its rows: (part, degrees of freedom, sign)."""
    seeds, rows = losses.shape
    if seeds < 2:
        return []
    by_seed = (float(losses.mean(1).var(ddof=1)) / seeds, seeds - 1, 1)
    if rows < 2:
        return [by_seed]
    residual = losses - losses.mean(0) - losses.mean(1, keepdims=True) + losses.mean()
    freedom = (seeds - 1) * (rows - 1)
    # The variance of row means has this part already.
    common = (float((residual**2).sum()) / freedom / (seeds * rows), freedom, -1)
    return [by_seed, common]


@lru_cache(maxsize=1024)
def student_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return t with P(|T| < t) = level for Student's distribution.

    With T = √freedom · tan θ the density is cos^(freedom - 1) θ, which Gauss's rule integrates.
    """
    whole = math.exp(math.lgamma(0.5) + math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) / 2

    def inside(t: float) -> float:
        end = math.atan(t / math.sqrt(freedom))
        values = np.cos((_NODES + 1) / 2 * end) ** (freedom - 1)
        return float(values @ _WEIGHTS) * end / 2 / whole

    low, high = 0.0, 1.0
    while inside(high) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return (low + high) / 2
