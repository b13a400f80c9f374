"""Ridge regression in closed form, with its exact cross-validation. Pure NumPy.

All of it comes from one spectral decomposition of the features, whatever strengths are tried: with X = Z Vᵀ, where the
columns of Z are orthogonal with squared norms s², predictions are H Y, H = Z (s² + λ)⁻¹ Zᵀ, and those of a fold by a
model that never saw it are Y − (I − H_ff)⁻¹ (Y − H Y) on its rows f.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

STRENGTHS = tuple(10.0**e for e in (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0))
"""Tried of λ, for features whose rows have a mean squared norm of 1."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Brings every feature to mean 0 and variance 1/d, so that one strength suits all of them, and any number."""

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Scaling":
        """Learn it from float32 `[documents, d]`; a feature that never changes becomes 0."""
        deviation = features.std(0, dtype=np.float64)
        constant = deviation <= 1e-6 * np.abs(features).max(initial=0)
        scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation)) / max(1, features.shape[1]) ** 0.5
        return cls(centre=features.mean(0, dtype=np.float64), scale=scale)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.centre) * self.scale).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A decomposed regression of float64 targets `[documents, columns]` with mean 0."""

    coordinates: np.ndarray
    """Z, float32 `[documents, rank]`."""
    squares: np.ndarray
    """s² `[rank]`."""
    projected: np.ndarray
    """Zᵀ Y."""
    back: np.ndarray
    """V `[d, rank]`: from coordinates to features."""
    targets: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, targets: np.ndarray) -> "Ridge":
        """Decompose the smaller of the two matrices of products: of documents, or of features."""
        documents, width = features.shape
        dual = documents <= width
        squares, vectors = np.linalg.eigh((features @ features.T if dual else features.T @ features).astype(np.float64))
        kept = squares > 1e-7 * max(squares[-1], 1e-30)  # of float32 products
        squares, vectors = squares[kept], vectors[:, kept]
        norms = np.sqrt(squares)
        coordinates = vectors * norms if dual else features @ vectors
        back = features.T @ (vectors / norms) if dual else vectors
        return cls(
            coordinates=coordinates.astype(np.float32),
            squares=squares,
            projected=coordinates.T @ targets,
            back=back,
            targets=targets,
        )

    def weights(self, strength: float) -> np.ndarray:
        """Return float64 `[d, columns]`."""
        return self.back @ (self.projected / (self.squares + strength)[:, None])

    def left_out(self, strengths: Sequence[float], folds: np.ndarray) -> dict[float, np.ndarray]:
        """Return each document's predictions by the model of all folds but its own, `[documents, columns]` by strength.

        Of a fold larger than three quarters of the rank, by the products that are left without it; else by those of its
        own rows.
        """
        predictions = {strength: np.empty_like(self.targets) for strength in strengths}
        for fold in np.unique(folds):
            rows = folds == fold
            predict = self._without if 4 * rows.sum() > 3 * len(self.squares) else self._corrected
            for strength, predicted in predict(rows, strengths):
                predictions[strength][rows] = predicted
        return predictions

    def _without(self, rows: np.ndarray, strengths: Sequence[float]) -> Iterator[tuple[float, np.ndarray]]:
        inside = self.coordinates[rows]
        rest = np.diag(self.squares) - inside.T @ inside
        projected = self.projected - inside.T @ self.targets[rows]
        for strength in strengths:
            yield strength, inside @ np.linalg.solve(rest + strength * np.eye(len(rest)), projected)

    def _corrected(self, rows: np.ndarray, strengths: Sequence[float]) -> Iterator[tuple[float, np.ndarray]]:
        inside, targets = self.coordinates[rows], self.targets[rows]
        for strength in strengths:
            shrunk = inside / (self.squares + strength).astype(np.float32)
            left = np.eye(len(inside)) - shrunk @ inside.T
            yield strength, targets - np.linalg.solve(left, targets - shrunk @ self.projected)
