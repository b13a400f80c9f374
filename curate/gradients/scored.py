"""What a scorer gives back for documents, whatever its method."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores and diagnostics of documents, in the order they were handed in."""

    scores: Float[Tensor, "documents columns"]
    """One column per query; > 0: more weight on the document lowers the target's loss. NaN where not finite."""
    losses: Float[Tensor, "documents"] | None = None
    """Summed over scored tokens, in nats; None when the method computes none."""
    norms: Float[Tensor, "documents"] | None = None
    """Gradient norm of the summed loss, exact or estimated without bias of its square; None without gradients."""
    tokens: list[Float[Tensor, "_ columns"]] | None = None
    """Per document the part of its scores that entered at each token, when asked for: rows sum to the scores."""
