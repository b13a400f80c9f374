"""Choose a training's learning rate: the one whose derivatives foretell retrainings best, of those that train well.

A rate that is too low is smooth and learns nothing; one that is too high learns, and its derivatives mean little. So
those count whose held-out loss is within one standard error of the best, and of them the most faithful is taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.fidelity import Check
from curate.training.smoothness import LEAST_AGREEMENT

AUTO = (1 / 3, 1.0, 3.0)
"""Multiples of a recipe's rate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """How a training with one learning rate came out."""

    rate: float
    held_out: np.ndarray
    """`[documents]`: losses of documents that were not trained on, in nats per token; NaN where it diverged."""
    smoothness: float
    check: Check

    @property
    def loss(self) -> float:
        return float(self.held_out.mean())

    @property
    def error(self) -> float:
        """The standard error of the loss."""
        return float(self.held_out.std(ddof=1) / math.sqrt(len(self.held_out)))

    @property
    def is_smooth(self) -> bool:
        return self.smoothness >= LEAST_AGREEMENT

    @property
    def explained(self) -> float:
        """The share of the squared changes of loss that the predicted ones explain: 1 where all are as predicted."""
        predicted, measured = self.check.predicted, self.check.measured
        whole = float((measured**2).sum())
        share = 1 - float(((measured - predicted) ** 2).sum()) / whole if whole else math.nan
        return share if math.isfinite(share) else -math.inf

    def line(self, chosen: bool) -> str:
        """Return the trial's line of the table."""
        if not math.isfinite(self.loss):
            return f"  {self.rate:8.2g}  diverged"
        rough = "" if self.is_smooth else ", rough"
        return (
            f"  {self.rate:8.2g}  held-out loss {self.loss:.4f} ± {self.error:.4f}, {self.check.overall.figure}{rough}"
            f"{', chosen' if chosen else ''}"
        )

    def details(self) -> dict[str, Any]:
        """Return the figures for a run's record."""
        is_there = math.isfinite(self.loss)
        overall = self.check.overall
        return {
            "learning_rate": self.rate,
            "held_out_loss": self.loss if is_there else None,
            "standard_error": self.error if is_there else None,
            "smoothness": self.smoothness if is_there else None,
            "slope": overall.slope,
            "correlation": overall.correlation,
        }


def chosen(trials: Sequence[Trial], *, accept_rough: bool) -> Trial:
    """Return the trial to take, of which at least one did not diverge; a rough one only where all are, or by leave."""
    finite = [t for t in trials if math.isfinite(t.loss)]
    smooth = [t for t in finite if t.is_smooth or accept_rough] or finite
    best = min(smooth, key=lambda t: t.loss)
    near = [t for t in smooth if t.loss <= best.loss + best.error]
    return max(near, key=lambda t: (t.check.overall.is_high, t.explained, -t.rate))


def table(trials: Sequence[Trial], taken: Trial) -> str:
    """Say how all trials came out."""
    return "\n".join([f"{len(trials)} learning rates were tried:", *(t.line(t is taken) for t in trials)])
