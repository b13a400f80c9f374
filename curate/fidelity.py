"""Whether predicted changes of a target's loss come true in retrainings: correlation, slope, and the verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_OFF = 2.0
"""Changes this many times larger or smaller than predicted are not high fidelity."""
LEAST_CORRELATION = 0.5
"""Derivatives through a smooth training have nearly 1. Of four points, those with .99 fall below this once in fifty
times by chance, unrelated ones three times in four."""
ENOUGH = 3
"""Points from which a correlation says something."""
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
    """`[retrainings, groups]`: by how much the loss rose."""
    left_out: int
    """Documents that each retraining lacks."""
    documents: int
    """Documents of the steps that were taken again."""

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "Check":
        """Read what `details` gave."""
        arrays = {name: np.array(details[name], np.float64) for name in ("predicted", "measured")}  # null is NaN
        return cls(
            groups=tuple(details["groups"]), left_out=details["left_out"], documents=details["documents"], **arrays
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
        }

    @property
    def overall(self) -> Fidelity:
        """The fidelity over retrainings and groups together."""
        return Fidelity.of(self.predicted, self.measured)

    @property
    def by_group(self) -> dict[str, Fidelity]:
        return {n: Fidelity.of(self.predicted[:, i], self.measured[:, i]) for i, n in enumerate(self.groups)}

    @property
    def sentence(self) -> str:
        """Say what was tried, and whether the scores are of high fidelity."""
        verdict = "high fidelity" if self.overall.is_high else "these scores are NOT of high fidelity"
        return (
            f"In {len(self.predicted)} retraining(s), each without {self.left_out:,} of {self.documents:,} documents,"
            f" the target's loss changed {_shown(self.overall.slope)} times as much as the scores predict (correlation"
            f" {_shown(self.overall.correlation)}): {verdict}{self._exceptions()}."
        )

    @property
    def listing(self) -> str | None:
        """List every group's figures; None where there is one group."""
        if len(self.groups) == 1:
            return None
        return f"By group: {'; '.join(f'{n} {fidelity.figure}' for n, fidelity in self.by_group.items())}."

    @property
    def advice(self) -> str | None:
        """Say what to do; None where nothing is wrong."""
        if self.overall.is_high:
            return None
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
