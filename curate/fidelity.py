"""Whether predicted changes of a target's loss come true in retrainings: correlation, slope, and the verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MOST_OFF = 2.0
"""Changes this many times larger or smaller than predicted are not high fidelity."""
LEAST_CORRELATION = 0.5
"""Derivatives through a smooth training have nearly 1. Of four points, those with .99 fall below this once in fifty
times by chance, unrelated ones three times in four."""
ENOUGH = 3
"""Points from which a correlation says something."""
_WIDTH = 1.96
"""Of a 95 % interval, in standard errors."""
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How measured changes follow predicted ones."""

    correlation: float | None
    """Pearson's; None for fewer than three points, or where one side does not vary."""
    slope: float | None
    """Least squares through the origin, measured on predicted; None where nothing was predicted or is finite."""

    @classmethod
    def of(cls, predicted: np.ndarray, measured: np.ndarray) -> "Fidelity":
        """Compare two arrays of one shape."""
        x, y = predicted.ravel().astype(np.float64), measured.ravel().astype(np.float64)
        return cls(correlation=_finite(_correlation(x, y)), slope=_finite(_ratio(float(x @ y), float(x @ x))))

    @property
    def is_high(self) -> bool:
        """Whether slope and correlation, as far as there is one, are near 1."""
        return self.slope_holds and (self.correlation is None or self.correlation >= LEAST_CORRELATION)

    @property
    def slope_holds(self) -> bool:
        """Whether changes are off by no more than a factor of two."""
        return self.slope is not None and 1 / MOST_OFF <= self.slope <= MOST_OFF

    @property
    def figure(self) -> str:
        """Say both figures."""
        return f"slope {_shown(self.slope)}, correlation {_shown(self.correlation)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Check:
    """Short retrainings without some documents, and by how much each group's loss rose."""

    groups: tuple[str, ...]
    predicted: np.ndarray
    """`[retrainings, groups]`: the in-run scores of what was left out, added up, in nats."""
    measured: np.ndarray
    """`[retrainings, groups]`: by how much the loss rose; NaN where the retraining diverged."""
    left_out: int
    """Documents that each retraining lacks."""
    documents: int
    """Documents of the steps that were taken again."""
    in_nats: bool = True
    """Whether scores foretell how much the loss rises; if not, only in which retrainings it rises more."""

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "Check":
        """Read what `details` gave."""
        arrays = {name: np.array(details[name], np.float64) for name in ("predicted", "measured")}  # null is NaN
        return cls(
            groups=tuple(details["groups"]),
            left_out=details["left_out"],
            documents=details["documents"],
            in_nats=details.get("in_nats", True),
            **arrays,
        )

    def details(self) -> dict[str, Any]:
        """Return all figures for a run's record."""
        return {
            "correlation": self.overall.correlation,
            "slope": self.overall.slope,
            "groups": {name: vars(fidelity) for name, fidelity in self.by_group.items()},
            "predicted": [[_finite(v) for v in row] for row in self.predicted.tolist()],
            "measured": [[_finite(v) for v in row] for row in self.measured.tolist()],
            "left_out": self.left_out,
            "documents": self.documents,
            **({} if self.in_nats else {"in_nats": False}),
        }

    @property
    def overall(self) -> Fidelity:
        """The fidelity over retrainings and groups together.

        Scores that only rank are compared within each group, since groups' scores have different sizes.
        """
        if self.in_nats:
            return Fidelity.of(self.predicted, self.measured)
        return Fidelity(
            correlation=Fidelity.of(_standard(self.predicted), _standard(self.measured)).correlation, slope=None
        )

    @property
    def by_group(self) -> dict[str, Fidelity]:
        by_group = {n: Fidelity.of(self.predicted[:, i], self.measured[:, i]) for i, n in enumerate(self.groups)}
        return by_group if self.in_nats else {n: replace(f, slope=None) for n, f in by_group.items()}

    @property
    def diverged(self) -> int:
        """How many of the retrainings ended without a finite loss."""
        return int((~np.isfinite(self.measured)).any(1).sum())

    @property
    def holds(self) -> bool | None:
        """Whether what scores foretell came true; None where there are too few retrainings to tell."""
        if self.in_nats or self.diverged:
            return self.overall.is_high
        low, high = self._interval
        if low > 0 and (self.overall.correlation or 0) >= LEAST_CORRELATION:
            return True
        return False if high < LEAST_CORRELATION else None

    @property
    def _interval(self) -> tuple[float, float]:
        """Return the 95 % interval of a ranking's correlation, by Fisher's transformation.

        Groups whose losses rise together count as one.
        """
        if (correlation := self.overall.correlation) is None:
            return -1.0, 1.0
        freedom = _num_independent(_standard(self.measured)) * (len(self.predicted) - 1) - 2
        if freedom < 1:
            return -1.0, 1.0
        centre, margin = math.atanh(min(1 - 1e-12, max(1e-12 - 1, correlation))), _WIDTH / math.sqrt(freedom)
        return math.tanh(centre - margin), math.tanh(centre + margin)

    @property
    def figure(self) -> str:
        """Say the figures in short."""
        if self.diverged:
            return f"{self.diverged} of {len(self.measured)} retrainings diverged"
        if self.in_nats:
            return self.overall.figure
        low, high = self._interval
        return f"correlation {_shown(self.overall.correlation)} ({low:.2f} … {high:.2f})"

    @property
    def sentence(self) -> str:
        """Say what was tried, and whether the scores are of high fidelity."""
        tried = f"{len(self.predicted)} retraining(s), each without {self.left_out:,} of {self.documents:,} documents,"
        if self.diverged:
            return f"Of {tried} {self.diverged} diverged: these scores are NOT of high fidelity."
        if not self.in_nats:
            verdicts = {
                True: "scores predict training",
                False: "scores do NOT predict training",
                None: "too few to tell",
            }
            return (
                f"In {tried} the target's loss rose as the scores rank it with {self.figure}: {verdicts[self.holds]}."
            )
        verdict = "high fidelity" if self.overall.is_high else "these scores are NOT of high fidelity"
        return (
            f"In {tried} the target's loss changed {_shown(self.overall.slope)} times as much as the scores predict"
            f" (correlation {_shown(self.overall.correlation)}): {verdict}{self._exceptions()}."
        )

    @property
    def listing(self) -> str | None:
        """List every group's figures; None where there is one group."""
        if len(self.groups) == 1:
            return None
        figures = {n: f.figure if self.in_nats else _shown(f.correlation) for n, f in self.by_group.items()}
        return f"By group: {'; '.join(f'{n} {figure}' for n, figure in figures.items())}."

    @property
    def advice(self) -> str | None:
        """Say what to do; None where nothing is wrong."""
        if self.holds:
            return None
        if not self.in_nats and self.diverged:
            return "The proxy's training diverges at a usual learning rate: take another proxy, or --dtype float32."
        if not self.in_nats:
            more = f"Retrain more often (--check {max(10, 3 * len(self.predicted))})"
            return f"{more}." if self.holds is None else f"{more}, or score by a method that does predict: magic."
        return (
            "Score again with a lower learning_rate, or a larger epsilon or batch_size: what the training does to"
            " weights is too far from what its derivatives say."
        )

    def _exceptions(self) -> str:
        """Name groups that are off where the whole is not."""
        off = [n for n, fidelity in self.by_group.items() if not fidelity.slope_holds]
        if not off or len(self.groups) == 1 or not self.overall.is_high:
            return ""
        more = f" and {len(off) - _NAMED} more" if len(off) > _NAMED else ""
        return f", but not for {', '.join(off[:_NAMED])}{more}"


def _standard(values: np.ndarray) -> np.ndarray:
    """Return every column less its mean, in units of its spread; one that does not vary is 0."""
    centred = values - values.mean(0)
    spread = np.sqrt((centred**2).mean(0))
    return centred / np.where(spread == 0, 1, spread)


def _num_independent(columns: np.ndarray) -> float:
    """Return how many standard columns there are in effect, by how far they are correlated beyond what chance does."""
    count, freedom = columns.shape[1], len(columns) - 1
    if count == 1 or freedom <= 1:
        return 1.0
    squares = (columns.T @ columns / len(columns)) ** 2
    shared = float(squares.sum() - np.trace(squares)) / (count * (count - 1))
    beyond = min(1.0, max(0.0, (shared - 1 / freedom) / (1 - 1 / freedom)))
    return count / (1 + (count - 1) * beyond)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < ENOUGH:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return _ratio(float(x @ y), math.sqrt(float(x @ x) * float(y @ y)))


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
