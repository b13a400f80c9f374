"""The contract of preconditioners."""

from typing import Protocol, runtime_checkable

from curate.gradients.directions import Directions


@runtime_checkable
class Preconditioner(Protocol):
    """An approximate damped inverse of the curvature, layer by layer."""

    @property
    def dampings(self) -> dict[str, float]:
        """δ per layer: the damping times the mean eigenvalue of that layer."""
        ...

    def solve(self, directions: Directions) -> Directions:
        """Return (H + δ)⁻¹ u for every direction."""
        ...
