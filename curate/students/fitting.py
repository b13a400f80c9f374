"""Learn scores from a sample: a linear model of a student's features, whose strength cross-validation chooses.

What is learned are ranks, as the normal scores that ranks of that many draws have: a method's values may be as skewed
as they like. To find the best, all ranks of the lower half count as one: what makes a document bad says little about
what makes another one good, and a model of few cells would spend itself on it. With that, half as many documents hold
nine tenths of the best (examples/measured/cascade.md). Predictions are moved so that 0 stays 0: as many are above it as
the method scores above it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import polars as pl

from curate.scores.correlation import spearman
from curate.students.judging import Figures, LeftOut, judge, mean_place
from curate.students.ridge import STRENGTHS, Ridge, Scaling
from curate.students.settings import Learn

TOKENS = "log tokens per character"
"""A column that is learned beside the scores by a student that counts no tokens."""
_TENTH = 0.1  # of the documents: enough of a small sample, and close to what is selected


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Documents of known scores, as one student reads them."""

    features: np.ndarray
    """float32 `[documents, features]`."""
    sizes: np.ndarray
    """Of each document's text, in characters or tokens."""
    sources: Sequence[str]
    contents: Sequence[str]
    """Hashes: copies of a document share a fold."""
    columns: Mapping[str, np.ndarray]
    """Scores by column, and tokens per character where they are to be learned."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A linear model of several columns."""

    NOT_TOLD: ClassVar = ("weights", "left_out")

    student: str
    columns: tuple[str, ...]
    sources: tuple[str, ...]
    """Those that have a constant of their own."""
    strengths: Mapping[str, float]
    figures: Mapping[str, Figures]
    """By score column, cross-validated."""
    weights: np.ndarray
    """float64 `[1 + features + 1 + sources, columns]`: the constant, the features, the size, the sources' constants."""
    left_out: LeftOut
    """The cross-validated predictions that the figures are of."""

    def __call__(self, features: np.ndarray, sizes: np.ndarray, sources: Sequence[str]) -> np.ndarray:
        """Return float64 `[documents, columns]`; a source that the sample lacks has no constant."""
        width = features.shape[1]
        weights = self.weights.astype(np.float32)
        predicted = features @ weights[1 : 1 + width] + _log(sizes) * weights[1 + width] + weights[0]
        if self.sources:
            constants = dict(zip(self.sources, self.weights[2 + width :], strict=True))
            none = np.zeros(len(self.columns))
            predicted = predicted + np.array([constants.get(s, none) for s in sources]).reshape(predicted.shape)
        return predicted.astype(np.float64)

    def merit(self, learn: Learn) -> float:
        """Return what students are compared by, a mean over the score columns; more is better."""
        pairs = zip(self.left_out.truth.T, self.left_out.predicted.T, strict=True)
        return float(np.mean([_merit(truth, predicted, learn) for truth, predicted in pairs]))

    def as_dict(self) -> dict[str, Any]:
        """Return all but what is kept apart, for a record."""
        shown = {n: list(v) if isinstance(v, tuple) else v for n, v in vars(self).items() if n not in self.NOT_TOLD}
        return shown | {"figures": {column: asdict(f) for column, f in self.figures.items()}}

    @classmethod
    def of(cls, content: Mapping[str, Any], weights: np.ndarray, left_out: LeftOut) -> "Fitted":
        """Return what a record tells of a model, with what is kept apart."""
        return cls(
            student=content["student"],
            columns=tuple(content["columns"]),
            sources=tuple(content["sources"]),
            strengths=content["strengths"],
            figures={column: Figures.of(f) for column, f in content["figures"].items()},
            weights=weights,
            left_out=left_out,
        )


def fit(student: str, sample: Sample, *, folds: int, seed: int, by_source: bool, learn: Learn = "best") -> Fitted:
    """Learn every column of a sample, each with the strength whose left-out predictions are the best."""
    named = tuple(sorted(set(sample.sources))) if by_source else ()
    raw = np.concatenate([sample.features, _log(sample.sizes)], 1)
    scaling = Scaling.of(raw)
    constants = (np.asarray(sample.sources)[:, None] == np.asarray(named, str)[None]).astype(np.float32)
    shares = constants.mean(0)
    truth = {c: values if c == TOKENS else normal_scores(values) for c, values in sample.columns.items()}
    targets = {c: upper_half(v) if learn == "best" and c != TOKENS else v for c, v in truth.items()}
    matrix = np.stack([*targets.values()], 1)
    middle = matrix.mean(0)
    ridge = Ridge.of(np.concatenate([scaling(raw), constants - shares], 1), matrix - middle)
    left_out = ridge.left_out(STRENGTHS, folds_of(sample.contents, folds, seed))
    weights, strengths, figures = np.empty((1 + raw.shape[1] + len(named), len(targets))), {}, {}
    predicted: dict[str, np.ndarray] = {}
    for j, column in enumerate(targets):
        of_column = {strength: middle[j] + of_all[:, j] for strength, of_all in left_out.items()}
        strengths[column] = strength = _best_strength(column, truth[column], of_column, learn)
        zero = 0.0
        if column != TOKENS:
            zero = _zero(sample.columns[column], of_column[strength]) if learn == "best" else 0.0
            predicted[column] = of_column[strength] - zero
            figures[column] = judge(truth[column], predicted[column], sample.sources)
        weights[:, j] = _unscaled(ridge.weights(strength)[:, j], middle[j] - zero, scaling, shares)
    return Fitted(
        student=student,
        columns=tuple(targets),
        sources=named,
        strengths=strengths,
        figures=figures,
        weights=weights,
        left_out=LeftOut(
            columns=tuple(predicted),
            truth=np.stack([truth[c] for c in predicted], 1),
            predicted=np.stack([*predicted.values()], 1),
            sources=sample.sources,
        ),
    )


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Return the normal scores of values' ranks, ties at their mean rank, less that of the rank that 0 would have."""
    ranks = pl.Series(values).rank("average").to_numpy()
    distinct, places = np.unique(ranks, return_inverse=True)
    inverse = NormalDist().inv_cdf
    zero = inverse(float(np.clip(np.mean(values <= 0), 0.5 / len(values), 1 - 0.5 / len(values))))
    return np.array([inverse((rank - 0.5) / len(values)) for rank in distinct])[places] - zero


def upper_half(scores: np.ndarray) -> np.ndarray:
    """Return how far scores are above their median; 0 below it."""
    return np.maximum(scores - np.median(scores), 0)


def folds_of(contents: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Return the fold of each document, seeded; copies of one content are in one fold."""
    distinct, places = np.unique(np.asarray(contents), return_inverse=True)
    return (np.random.default_rng([seed, 3]).permutation(len(distinct)) % folds)[places]


def _unscaled(learned: np.ndarray, constant: float, scaling: Scaling, shares: np.ndarray) -> np.ndarray:
    """Return weights of features as they are, behind the constant, of those of scaled features and moved sources."""
    of_raw, of_sources = learned[: len(scaling.scale)] * scaling.scale, learned[len(scaling.scale) :]
    return np.array([constant - scaling.centre @ of_raw - shares @ of_sources, *of_raw, *of_sources])


def _best_strength(column: str, truth: np.ndarray, left_out: Mapping[float, np.ndarray], learn: Learn) -> float:
    """Return the strength whose predictions rank best; of tokens, whose values matter, that of the least error."""
    if column == TOKENS:
        return min(left_out, key=lambda s: float(np.mean((truth - left_out[s]) ** 2)))
    return max(left_out, key=lambda s: _merit(truth, left_out[s], learn))


def _merit(truth: np.ndarray, predicted: np.ndarray, learn: Learn) -> float:
    return -mean_place(truth, predicted, _TENTH) if learn == "best" else spearman(truth, predicted) or 0.0


def _zero(values: np.ndarray, predicted: np.ndarray) -> float:
    """Return what as many predictions are above as values are above 0; some are on either side."""
    least = 0.5 / len(values)
    return float(np.quantile(predicted, np.clip(np.mean(values <= 0), least, 1 - least)))


def _log(sizes: np.ndarray) -> np.ndarray:
    return np.log1p(np.asarray(sizes, np.float32))[:, None]
