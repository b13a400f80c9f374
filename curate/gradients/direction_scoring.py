"""Scores from directional derivatives: the scorer that all linear methods share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.directions import Derivatives, DirectionEngine
from curate.gradients.documents import Batching
from curate.gradients.materialised import weighted_gradients
from curate.gradients.scored import Scored
from curate.proxies.tokens import Encoded, TokenBatch, batches

NORMALIZATIONS = ("none", "length", "unit")


@dataclass(frozen=True, kw_only=True)
class DirectionScorer:
    """Score documents by their gradients' products with directions, at one or several checkpoints."""

    engines: Sequence[DirectionEngine]
    """One per checkpoint; their products add up. Loss and norm are those of the last."""
    columns: Float[Tensor, "columns directions"]
    """Every column is a mixture of directions: one product per direction, however many columns are read off it."""
    normalize: str = "none"
    """'none'; 'length': per scored token; 'unit': by the gradient's norm, which is then computed exactly."""
    per_token: bool = False

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores; no document's result depends on the others."""
        width = len(self.columns)
        scores, tokens = torch.zeros(len(encoded), width, dtype=self.columns.dtype), [torch.zeros(0)] * len(encoded)
        losses, norms = torch.zeros(len(encoded)), torch.zeros(len(encoded))
        counts = torch.tensor([e.num_scored for e in encoded])

        def note(documents: Sequence[int], found: Derivatives, norm: Tensor) -> None:
            index = torch.tensor(documents)
            losses[index], norms[index] = found.losses.to(losses), norm.to(norms)
            divisor = self._divisor(counts[index].to(scores), norm.to(scores))
            scores[index] = found.values.to(scores) @ self.columns.T / divisor[:, None]
            if found.tokens is not None:
                parts = found.tokens.to(scores) @ self.columns.T / divisor[:, None, None]
                for i, part in zip(documents, parts, strict=True):
                    tokens[i] = part[: len(encoded[i].ids)].clone()

        short = {i: e for i, e in enumerate(encoded) if len(e.ids) <= batching.tokens.context}
        for batch in batches(short, batching.tokens, budget=batching.budget):
            found = self._pass(batch)
            note(batch.documents, found, _norms(found))
        for i, document in enumerate(encoded):
            if i not in short:
                note((i,), *self._long(document, batching))
        scores[~norms.isfinite()] = torch.nan  # an overflow on the way to norm 1 would hide it
        return Scored(scores=scores, losses=losses, norms=norms, tokens=tokens if self.per_token else None)

    def _divisor(self, counts: Tensor, norms: Tensor) -> Tensor:
        if self.normalize == "unit":
            # A gradient of exactly zero has no direction: it stays zero, and so does its score.
            return norms.where(norms != 0, torch.ones_like(norms))
        return counts if self.normalize == "length" else torch.ones_like(counts)

    def _pass(self, batch: TokenBatch) -> Derivatives:
        """Differentiate a batch at every checkpoint and add up; diagnostics are the last one's."""
        *others, last = self.engines
        found = last(batch, per_token=self.per_token, exact_norms=self.normalize == "unit")
        for engine in others:
            other = engine(batch, per_token=self.per_token)
            tokens = None if found.tokens is None or other.tokens is None else found.tokens + other.tokens
            found = replace(found, values=found.values + other.values, tokens=tokens)
        return found

    def _long(self, document: Encoded, batching: Batching) -> tuple[Derivatives, Tensor]:
        """Add up a document's windows, which share a token with the next; the norm is that of the sum."""
        whole: Derivatives | None = None
        for batch in batches({0: document}, batching.tokens, budget=batching.budget):
            part = _one_document(self._pass(batch), batch, len(document.ids))
            whole = part if whole is None else _added(whole, part)
        assert whole is not None
        if self.normalize != "unit":
            return whole, _norms(whole)
        one = torch.ones(1, 1, dtype=self.columns.dtype)
        gradients = weighted_gradients(self.engines[-1].proxy, [document], one, batching)
        return whole, torch.stack([g.double().square().sum() for g in gradients.values()]).sum().sqrt()[None]


def _norms(found: Derivatives) -> Float[Tensor, "sequences"]:
    if found.squares is not None:
        return found.squares.clamp_min(0).sqrt()
    assert found.gradients is not None
    return found.gradients.norm(dim=1)


def _one_document(found: Derivatives, batch: TokenBatch, tokens: int) -> Derivatives:
    """Return the sum of a batch whose sequences are all windows of one document of so many tokens."""
    placed = None
    if found.tokens is not None:
        room = max(tokens, *(start + found.tokens.shape[1] for start in batch.starts))
        placed = found.tokens.new_zeros(1, room, found.tokens.shape[2])
        for start, part in zip(batch.starts, found.tokens, strict=True):
            placed[0, start : start + len(part)] += part
        placed = placed[:, :tokens]
    return Derivatives(
        values=found.values.sum(0, keepdim=True),
        losses=found.losses.sum(0, keepdim=True),
        tokens=placed,
        gradients=None if found.gradients is None else found.gradients.sum(0, keepdim=True),
        squares=None,
    )


def _added(one: Derivatives, other: Derivatives) -> Derivatives:
    tokens = None if one.tokens is None or other.tokens is None else one.tokens + other.tokens
    gradients = None if one.gradients is None or other.gradients is None else one.gradients + other.gradients
    return Derivatives(
        values=one.values + other.values,
        losses=one.losses + other.losses,
        tokens=tokens,
        gradients=gradients,
        squares=None,
    )
