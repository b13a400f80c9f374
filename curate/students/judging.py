"""How well predictions find what is best: over all documents, and within their sources."""

import math
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
        """A sentence where the student knows little more than the source: less than half as far above chance in it."""
        if self.within_recall is None:
            return None
        share, over_all, within = LOOKED_THROUGH[-1], self.recall[-1], self.within_recall[-1]
        if over_all <= share or within - share >= (over_all - share) / 2:
            return None
        return (
            f"Within sources the predicted best {share:.0%} hold {within:.0%} of the true best {BEST:.0%}, of"
            f" {over_all:.0%} over all: this student mostly tells sources apart, and says little about which of one"
            " source's documents are best."
        )


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Cross-validated predictions of a sample beside the truth: what a pool loses that is narrowed by them."""

    columns: tuple[str, ...]
    truth: np.ndarray
    """`[documents, columns]`."""
    predicted: np.ndarray
    sources: Sequence[str]

    def share_kept(self, columns: Sequence[str], keep: float) -> float:
        """Return the share of documents among the predicted best `keep` of any of the columns."""
        return float(np.mean(self._reach(columns) <= keep))

    def recall(self, column: str, columns: Sequence[str], top: float, keep: float) -> float:
        """Return the share of a column's true best `top` among the predicted best `keep` of any of the columns."""
        return float(np.mean(self._reach_of_best(column, columns, top) <= keep))

    def recall_at_least(self, column: str, columns: Sequence[str], top: float, keep: float) -> float:
        """Return the lower end of a one-sided 95 % interval of the recall, by how many documents it is of (Wilson)."""
        reach, z = self._reach_of_best(column, columns, top), 1.645
        n, p = len(reach), float(np.mean(reach <= keep))
        return max(0.0, (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)) / (1 + z * z / n))

    def recall_within(self, column: str, columns: Sequence[str], top: float, keep: float) -> float | None:
        """Return the recall among documents of one source, averaged by the sources' sizes; None: too few of all."""
        names = np.asarray(self.sources)
        groups = [names == name for name in np.unique(names)]
        large = [group for group in groups if group.sum() >= _LEAST]
        if len(groups) < 2 or not large:
            return None
        recalls = [self._of(group).recall(column, columns, top, keep) for group in large]
        return float(np.average(recalls, weights=[group.sum() for group in large]))

    def share_needed(self, judged: Sequence[str], columns: Sequence[str], top: float, recall: float) -> float:
        """Return the smallest `keep` at which the recall of every judged column is at least that."""
        reaches = [np.sort(self._reach_of_best(column, columns, top)) for column in judged]
        return max(float(r[max(1, math.ceil(recall * len(r) - 1e-9)) - 1]) for r in reaches)

    def _reach(self, columns: Sequence[str]) -> np.ndarray:
        """Return the smallest share of a column's predicted best that holds each document, of any of the columns."""
        predicted = self.predicted[:, [self.columns.index(c) for c in columns]]
        places = np.argsort(np.argsort(-predicted, axis=0, kind="stable"), axis=0)
        return (places.min(1) + 1) / len(predicted)

    def _reach_of_best(self, column: str, columns: Sequence[str], top: float) -> np.ndarray:
        return self._reach(columns)[_best(self.truth[:, self.columns.index(column)], top)]

    def _of(self, rows: np.ndarray) -> "LeftOut":
        sources = np.asarray(self.sources)[rows].tolist()
        return replace(self, truth=self.truth[rows], predicted=self.predicted[rows], sources=sources)


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


def mean_place(truth: np.ndarray, predicted: np.ndarray, share: float) -> float:
    """Return the mean place of the true best `share` among all in the order of predictions, from 0 to 1."""
    places = np.argsort(np.argsort(-predicted, kind="stable"))
    return float(places[_best(truth, share)].mean()) / len(places)


def _spearman(truth: np.ndarray, predicted: np.ndarray) -> float:
    return spearman(truth, predicted) or 0.0


def _recall(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, ...]:
    best = set(_best(truth, BEST).tolist())
    kept = (_best(predicted, share).tolist() for share in LOOKED_THROUGH)
    return tuple(round(len(best.intersection(k)) / len(best), 4) for k in kept)


def _best(values: np.ndarray, share: float) -> np.ndarray:
    """Return the places of a share of the largest values, one at least."""
    return np.argsort(-values, kind="stable")[: max(1, round(share * len(values)))]
