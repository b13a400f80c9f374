"""How well predictions find what is best: over all documents, and within their sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from curate.scores.correlation import spearman

BEST = 0.05
LOOKED_THROUGH = (0.05, 0.1, 0.2)
_LEAST = 20
"""Documents of a source that is judged by itself."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What predictions of one score column are worth."""

    spearman: float
    recall: tuple[float, ...]
    """Share of the true best 5 % among the predicted best 5, 10 and 20 %."""
    within_spearman: float | None = None
    """Of documents of one source, on average over the sources by their size; None: no two have enough documents."""
    within_recall: tuple[float, ...] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Figures":
        """Return the figures of a record."""
        within = values["within_recall"]
        return cls(
            spearman=values["spearman"],
            recall=tuple(values["recall"]),
            within_spearman=values["within_spearman"],
            within_recall=None if within is None else tuple(within),
        )

    @property
    def verdict(self) -> str | None:
        """A sentence where the student knows little more than the source."""
        if self.within_spearman is None or self.spearman <= 0 or self.within_spearman >= self.spearman / 2:
            return None
        return (
            f"Within sources the rank correlation is {self.within_spearman:.2f}, of {self.spearman:.2f} over all: this"
            " student mostly tells sources apart, and says little about which of one source's documents are best."
        )


def judge(truth: np.ndarray, predicted: np.ndarray, sources: Sequence[str]) -> Figures:
    """Compare predictions `[documents]` with the truth."""
    names = np.asarray(sources)
    groups = [names == name for name in np.unique(names)]
    large = [group for group in groups if group.sum() >= _LEAST]
    whole = Figures(spearman=_spearman(truth, predicted), recall=_recall(truth, predicted))
    if len(groups) < 2 or not large:
        return whole
    sizes = [int(group.sum()) for group in large]
    inside = [_spearman(truth[group], predicted[group]) for group in large]
    recalls = [_recall(truth[group], predicted[group]) for group in large]
    return replace(
        whole,
        within_spearman=round(float(np.average(inside, weights=sizes)), 4),
        within_recall=tuple(np.average(recalls, axis=0, weights=sizes).round(4).tolist()),
    )


def _spearman(truth: np.ndarray, predicted: np.ndarray) -> float:
    return spearman(truth, predicted) or 0.0


def _recall(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, ...]:
    number = max(1, round(BEST * len(truth)))
    best, order = set(np.argsort(-truth, kind="stable")[:number].tolist()), np.argsort(-predicted, kind="stable")
    kept = (order[: max(1, round(share * len(truth)))].tolist() for share in LOOKED_THROUGH)
    return tuple(round(len(best.intersection(k)) / number, 4) for k in kept)
