"""Score documents by directional derivatives: the scorer that all linear methods share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.directions import Derivatives, DirectionEngine, Directions
from curate.gradients.documents import Batching
from curate.gradients.materialised import weighted_gradients
from curate.gradients.scored import Scored
from curate.proxies.devices import widest
from curate.proxies.tokens import Encoded, TokenBatch

NORMALIZATIONS = ("none", "length", "unit")


@dataclass(frozen=True, kw_only=True)
class DirectionScorer:
    """Score documents by their gradients' products with directions, at one or several checkpoints."""

    engines: Sequence[DirectionEngine]
    """One per checkpoint; their products add up. Loss and norm are those of the last."""
    columns: Float[Tensor, "columns directions"]
    """Each column is a mixture of directions: one product per direction, for any number of columns."""
    normalize: str = "none"
    """'none'; 'length': per scored token; 'unit': by the gradient's norm, which is then computed exactly."""
    per_token: bool = False
    solve: Callable[[Directions], Directions] | None = None
    """What took the target's gradients to the directions, linear and symmetric; None where nothing of the kind did."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores; no document's result depends on the others."""
        width = len(self.columns)
        scores, tokens = torch.zeros(len(encoded), width, dtype=self.columns.dtype), [torch.zeros(0)] * len(encoded)
        losses, norms = torch.zeros(len(encoded)), torch.zeros(len(encoded))
        counts = torch.tensor([e.num_scored for e in encoded])

        def note(documents: Sequence[int], derivatives: Derivatives, norm: Tensor) -> None:
            index = torch.tensor(documents)
            values, (loss, norm) = _on_cpu(derivatives.values, derivatives.losses, norm)
            losses[index], norms[index] = loss.to(losses), norm.to(norms)
            divisor = self._divisor(counts[index].to(scores), norm.to(scores))
            scores[index] = values.to(scores) @ self.columns.T / divisor[:, None]
            if derivatives.tokens is not None:
                token_scores = derivatives.tokens.to(scores) @ self.columns.T / divisor[:, None, None]
                for i, scores_of_one in zip(documents, token_scores, strict=True):
                    tokens[i] = scores_of_one[: len(encoded[i].ids)].clone()

        short = {i: e for i, e in enumerate(encoded) if len(e.ids) <= batching.tokens.context}
        for batch, derivatives in batching.run("directions", short, self._pass):
            note(batch.documents, derivatives, _norms(derivatives))
        for i, document in enumerate(encoded):
            if i not in short:
                note((i,), *self._long(document, batching))
        scores[~norms.isfinite()] = torch.nan  # dividing by the norm would hide an overflow
        return Scored(scores=scores, losses=losses, norms=norms, tokens=tokens if self.per_token else None)

    def by_row(self, document: Encoded, rows: Sequence[Encoded], batching: Batching) -> Float[Tensor, "targets"] | None:
        """Return a document's score for every row alone, as if it were the whole target; None without `solve`.

        ⟨P g_row, g⟩ is ⟨g_row, P g⟩: the document's gradient is solved once, and every row is scored along it.
        """
        if self.solve is None:
            return None
        (engine,) = self.engines
        wide = self.columns.dtype
        gradients = weighted_gradients(engine.proxy, [document], torch.ones(1, 1, dtype=wide), batching)
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt().to(device="cpu", dtype=wide)
        divisor = self._divisor(torch.tensor([document.num_scored], dtype=wide), norm[None])
        along = DirectionEngine(engine.proxy, self.solve(gradients))
        scorer = DirectionScorer(engines=[along], columns=1 / divisor[:, None], normalize="length")
        return scorer(rows, batching).scores[:, 0]

    def _divisor(self, counts: Tensor, norms: Tensor) -> Tensor:
        if self.normalize == "unit":
            # A gradient of exactly zero has no direction: it stays zero, and so does its score.
            return norms.where(norms != 0, torch.ones_like(norms))
        return counts if self.normalize == "length" else torch.ones_like(counts)

    def _pass(self, batch: TokenBatch) -> Derivatives:
        """Differentiate a batch at every checkpoint and add up; loss and norm are the last checkpoint's."""
        *earlier, last = self.engines
        total = last(batch, per_token=self.per_token, exact_norms=self.normalize == "unit")
        for engine in earlier:
            derivatives = engine(batch, per_token=self.per_token)
            tokens = None if total.tokens is None or derivatives.tokens is None else total.tokens + derivatives.tokens
            total = replace(total, values=total.values + derivatives.values, tokens=tokens)
        return total

    def _long(self, document: Encoded, batching: Batching) -> tuple[Derivatives, Tensor]:
        """Add up a document's windows, which share a token with the next; the norm is that of the sum."""
        total: Derivatives | None = None
        for batch, windows in batching.run("directions", {0: document}, self._pass):
            derivatives = _one_document(windows, batch, len(document.ids))
            total = derivatives if total is None else _added(total, derivatives)
        assert total is not None
        if self.normalize != "unit":
            return total, _norms(total)
        weight = torch.ones(1, 1, dtype=self.columns.dtype)
        gradients = weighted_gradients(self.engines[-1].proxy, [document], weight, batching)
        return total, torch.stack([g.to(widest(g.device)).square().sum() for g in gradients.values()]).sum().sqrt()[
            None
        ]


def _on_cpu(values: Tensor, *vectors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Copy a matrix and vectors of its height to the CPU at once: a GPU is waited for a single time."""
    if values.device.type == "cpu":
        return values, list(vectors)
    wide = torch.promote_types(values.dtype, torch.float32)
    block = torch.cat([values.to(wide), *(v.to(wide)[:, None] for v in vectors)], 1).cpu()
    return block[:, : values.shape[1]], list(block[:, values.shape[1] :].T)


def _norms(derivatives: Derivatives) -> Float[Tensor, "sequences"]:
    if derivatives.squares is not None:
        return derivatives.squares.clamp_min(0).sqrt()
    assert derivatives.gradients is not None
    return derivatives.gradients.norm(dim=1)


def _one_document(derivatives: Derivatives, batch: TokenBatch, tokens: int) -> Derivatives:
    """Return the sum of a batch whose sequences are all windows of one document of `tokens` tokens."""
    placed = None
    if derivatives.tokens is not None:
        room = max(tokens, *(start + derivatives.tokens.shape[1] for start in batch.starts))
        placed = derivatives.tokens.new_zeros(1, room, derivatives.tokens.shape[2])
        for start, part in zip(batch.starts, derivatives.tokens, strict=True):
            placed[0, start : start + len(part)] += part
        placed = placed[:, :tokens]
    return Derivatives(
        values=derivatives.values.sum(0, keepdim=True),
        losses=derivatives.losses.sum(0, keepdim=True),
        tokens=placed,
        gradients=None if derivatives.gradients is None else derivatives.gradients.sum(0, keepdim=True),
        squares=None,
    )


def _added(a: Derivatives, b: Derivatives) -> Derivatives:
    tokens = None if a.tokens is None or b.tokens is None else a.tokens + b.tokens
    gradients = None if a.gradients is None or b.gradients is None else a.gradients + b.gradients
    return Derivatives(
        values=a.values + b.values,
        losses=a.losses + b.losses,
        tokens=tokens,
        gradients=gradients,
        squares=None,
    )
