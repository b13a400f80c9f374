"""The diagonal of the Fisher: every weight's second moment of document gradients, E_documents[(GᵀA)²]."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from curate.curvature.eigenbasis import Squares, divide, mean_dampings
from curate.gradients.directions import Directions
from curate.gradients.passes import Passes
from curate.gradients.shared_inputs import input_leaders
from curate.proxies.proxy import Proxy


def fit(passes: Passes) -> dict[str, Tensor]:
    """Fit the diagonal by passes over a background.

    Returns a tensor `[d_out, d_in]` per layer. Raises CurateError when no document has a finite gradient.
    """
    return passes.run("factors", 1, _squares).mean(passes)


def _squares(proxy: Proxy, _: Mapping[str, Tensor]) -> Squares:
    return Squares(proxy, input_leaders(proxy))


@dataclass(frozen=True, kw_only=True)
class Diagonal:
    """A diagonal curvature, damped and ready to be inverted."""

    moments: Mapping[str, Tensor]
    dampings: dict[str, float]
    """δ per layer, on the scale of its second moments."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, damping: float = 0.1) -> "Diagonal":
        """Read what `fit` returned; δ = damping · mean second moment, per layer."""
        return cls(moments=tensors, dampings=mean_dampings(tensors, damping))

    def solve(self, directions: Directions) -> Directions:
        """Return u / (E[D²] + δ) per layer, 0 where the denominator is."""
        return {name: divide(u, self.moments[name].to(u) + self.dampings[name]) for name, u in directions.items()}
