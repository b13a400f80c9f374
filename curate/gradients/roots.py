"""Damped inverse roots of second moments, which whiten sketches: small ones whole, large ones by few eigenvectors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from curate.proxies.devices import widest


@dataclass(frozen=True, kw_only=True)
class ThinRoot:
    """(R + δ I)^(-1/2) where R has few eigenvectors E that are not zero: a I + E ((λ + δ)^(-1/2) - a) Eᵀ, a = δ^(-1/2).

    Exact, and never a matrix of entries × entries. Without damping, directions that R lacks stay as they are (a = 1).
    """

    damping: float
    """δ itself, not a share of anything."""
    eigenvalues: Float[Tensor, "k"]
    """float64."""
    vectors: Float[Tensor, "entries k"]
    """Orthonormal."""

    def __call__(self, values: Float[Tensor, "documents entries"]) -> Float[Tensor, "documents entries"]:
        base = self.damping**-0.5 if self.damping > 0 else 1.0
        changes = (self.eigenvalues + self.damping).rsqrt() - base
        return base * values + ((values @ self.vectors) * changes.to(values)) @ self.vectors.T

    def to(self, device: torch.device, dtype: torch.dtype) -> "ThinRoot":
        """Move the vectors; eigenvalues keep the digits that the device has."""
        return replace(
            self, eigenvalues=self.eigenvalues.to(device, widest(device)), vectors=self.vectors.to(device, dtype)
        )


Whitening = dict[str, Float[Tensor, "_ _"] | ThinRoot]
"""A symmetric matrix per layer, applied to that layer's columns of a sketch."""


def whiten(
    values: Float[Tensor, "documents entries"], root: Float[Tensor, "entries entries"] | ThinRoot
) -> Float[Tensor, "documents entries"]:
    """Apply a root to one layer's part of sketches."""
    return root(values) if isinstance(root, ThinRoot) else values @ root


def moved(whitening: Whitening, device: torch.device, dtype: torch.dtype) -> Whitening:
    """Return the roots in another place and type."""
    return {name: root.to(device, dtype) for name, root in whitening.items()}


def flat(whitening: Whitening) -> dict[str, Tensor]:
    """Return the roots as tensors by name, as files hold them; see `from_flat`."""
    tensors: dict[str, Tensor] = {}
    for name, root in whitening.items():
        if isinstance(root, ThinRoot):
            tensors[f"{name} damping"] = torch.tensor(root.damping, dtype=torch.float64)
            tensors[f"{name} eigenvalues"], tensors[f"{name} vectors"] = root.eigenvalues, root.vectors
        else:
            tensors[name] = root
    return tensors


def from_flat(tensors: Mapping[str, Tensor]) -> Whitening:
    """Return the roots that tensors hold."""
    whitening: Whitening = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(" ")
        if not part:
            whitening[name] = tensor
        elif part == "damping":
            values, vectors = tensors[f"{name} eigenvalues"], tensors[f"{name} vectors"]
            whitening[name] = ThinRoot(damping=float(tensor), eigenvalues=values, vectors=vectors)
    return whitening
