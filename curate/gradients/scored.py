"""The result of every scorer, whatever its method; and what a scorer gives a store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.roots import Whitening


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
    """Per document the part of its scores that entered at each token, where requested; they sum to the scores."""
    more: Mapping[str, Float[Tensor, "documents"]] = field(default_factory=dict)
    """Parts of scores that get a column of their own, by its name (see `schema.AT_STEP`)."""


@dataclass(frozen=True, kw_only=True)
class StoredQueries:
    """What a store multiplies its sketches by, and how the products become scores."""

    values: Float[Tensor, "queries sketch"]
    scored: Callable[[Float[Tensor, "documents queries"]], Scored]
    whitening: Whitening | None = None
    """Of the stored sketches; queries are whitened already."""
    unit: bool = False
    """Whether a stored sketch is brought to norm 1 after whitening."""


def in_order(parts: Sequence[tuple[Sequence[int], Scored]]) -> Scored:
    """Put documents that were scored apart (their positions, their scores) back into their order."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.tensor([i for positions, _ in parts for i in positions]).argsort()

    def joined(pieces: Sequence[Tensor | None]) -> Tensor | None:
        present = [p for p in pieces if p is not None]
        return torch.cat(present)[order] if len(present) == len(pieces) else None

    tokens = [t for _, scored in parts for t in scored.tokens or ()]
    return Scored(
        scores=torch.cat([scored.scores for _, scored in parts])[order],
        losses=joined([scored.losses for _, scored in parts]),
        norms=joined([scored.norms for _, scored in parts]),
        tokens=[tokens[i] for i in order.tolist()] if tokens else None,
        more={name: torch.cat([scored.more[name] for _, scored in parts])[order] for name in parts[0][1].more},
    )
