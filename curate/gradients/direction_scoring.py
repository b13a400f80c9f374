"""Score documents by directional derivatives: the scorer that all linear methods share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.directions import Derivatives, DirectionEngine, Directions
from curate.gradients.documents import Batching
from curate.gradients.materialised import weighted_gradients
from curate.gradients.one_at_a_time import OneAtATime
from curate.gradients.scored import Scored
from curate.proxies.devices import fetched, widest
from curate.proxies.tokens import Encoded, TokenBatch

NORMALIZATIONS = ("none", "length", "unit")


@dataclass(frozen=True, kw_only=True)
class DirectionScorer:
    """Score documents by their gradients' products with directions, at one or several checkpoints."""

    engines: Sequence[DirectionEngine] | OneAtATime[DirectionEngine]
    """One per checkpoint; their products add up. Loss and norm are those of the last. Documents go through all of them
    batch by batch, or through one after the other where it is `OneAtATime`, to the same scores."""
    columns: Float[Tensor, "columns directions"]
    """Each column is a mixture of directions: one product per direction, for any number of columns."""
    normalize: str = "none"
    """'none'; 'length': per scored token; 'unit': by the gradient's norm, which is then computed exactly."""
    per_token: bool = False
    solve: Callable[[Directions], Directions] | None = None
    """What took the target's gradients to the directions, linear and symmetric; None where nothing of the kind did."""
    row_norms: Callable[[Sequence[Encoded]], Float[Tensor, "targets"]] | None = None
    """Norms that target rows were divided by before their mean; None where they were not."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores; no document's result depends on the others."""
        short = {i: e for i, e in enumerate(encoded) if len(e.ids) <= batching.tokens.context}
        tally = _Tally(self, encoded)
        for engines in self._rounds():
            tally.begin(last=engines[-1] == self._order[-1])
            for batch, derivatives in batching.run("directions", short, partial(self._pass, engines)):
                tally.add(batch.documents, derivatives, _norms(derivatives))
            for i, document in enumerate(encoded):
                if i not in short:
                    tally.add((i,), *self._long(document, batching, engines))
        return tally.scored()

    @property
    def has_norms(self) -> bool:
        """Whether gradients' norms are computed: tokens' scores take no backward pass, which norms do."""
        return not self.per_token or self.normalize == "unit"

    @property
    def _order(self) -> list[int]:
        """The engines as their products are added up: the last one, whose loss and norm count, then the others."""
        return [len(self.engines) - 1, *range(len(self.engines) - 1)]

    def _rounds(self) -> list[list[int]]:
        """Return the engines of every round through the documents: all, or one where no more fit into memory."""
        return [[i] for i in self._order] if isinstance(self.engines, OneAtATime) else [self._order]

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
        divisor = self.divisor(torch.tensor([document.num_scored], dtype=wide), norm[None])
        along = DirectionEngine(engine.proxy, self.solve(gradients))
        scorer = DirectionScorer(engines=[along], columns=1 / divisor[:, None], normalize="length")
        scores = scorer(rows, batching).scores[:, 0]
        return scores if self.row_norms is None else scores / self.row_norms(rows).to(scores)

    def divisor(self, counts: Tensor, norms: Tensor) -> Tensor:
        """Return what scores are divided by, from the documents' scored tokens and their norms."""
        if self.normalize == "unit":
            # A gradient of exactly zero has no direction: it stays zero, and so does its score.
            return norms.where(norms != 0, torch.ones_like(norms))
        return counts if self.normalize == "length" else torch.ones_like(counts)

    def _pass(self, engines: Sequence[int], batch: TokenBatch) -> Derivatives:
        """Differentiate a batch by some of the engines and add up; loss and norm are those of the first one here."""
        exact = self.normalize == "unit" and engines[0] == self._order[0]
        differentiate = DirectionEngine.by_label if self.per_token else DirectionEngine.__call__
        total = differentiate(self.engines[engines[0]], batch, exact_norms=exact)
        for i in engines[1:]:
            derivatives = differentiate(self.engines[i], batch)
            tokens = None if total.tokens is None or derivatives.tokens is None else total.tokens + derivatives.tokens
            total = replace(total, values=total.values + derivatives.values, tokens=tokens)
        return total

    def _long(self, document: Encoded, batching: Batching, engines: Sequence[int]) -> tuple[Derivatives, Tensor]:
        """Add up a document's windows, which share a token with the next; the norm is that of the sum."""
        total: Derivatives | None = None
        for batch, windows in batching.run("directions", {0: document}, partial(self._pass, engines)):
            derivatives = _one_document(windows, batch, len(document.ids))
            total = derivatives if total is None else _added(total, derivatives)
        assert total is not None
        if self.normalize != "unit" or engines[0] != self._order[0]:
            return total, _norms(total)
        weight = torch.ones(1, 1, dtype=self.columns.dtype)
        gradients = weighted_gradients(self.engines[-1].proxy, [document], weight, batching)
        return total, torch.stack([g.to(widest(g.device)).square().sum() for g in gradients.values()]).sum().sqrt()[
            None
        ]


class _Tally:
    """The scores of some documents as the rounds through them come in."""

    def __init__(self, scorer: DirectionScorer, encoded: Sequence[Encoded]) -> None:
        self.scorer, self.encoded, self.round, self.last = scorer, encoded, 0, False
        columns, documents = scorer.columns, len(encoded)
        self.scores = torch.zeros(documents, len(columns), dtype=columns.dtype)
        self.norms = torch.zeros(documents, dtype=columns.dtype)
        self.losses, self.counts = torch.zeros(documents), torch.tensor([e.num_scored for e in encoded])
        self.tokens = [torch.zeros(0)] * documents
        self.sums: dict[int, Tensor] = {}
        """By document the derivatives of the rounds before."""
        self.token_sums: dict[int, Tensor] = {}

    def begin(self, *, last: bool) -> None:
        """Begin a round."""
        self.round, self.last = self.round + 1, last

    def add(self, documents: Sequence[int], derivatives: Derivatives, norm: Tensor) -> None:
        """Add a batch's derivatives; loss and norm are those of the first round."""
        values, (loss, norm) = fetched(derivatives.values, derivatives.losses, norm)
        index, tokens = torch.tensor(documents), derivatives.tokens
        parts = None if tokens is None else tokens.to(self.scores)
        if self.round == 1:
            self.losses[index], self.norms[index] = loss.to(self.losses), norm.to(self.norms)
        else:
            values = torch.stack([self.sums[i] for i in documents]) + values
            for i, part in zip(documents, parts if parts is not None else (), strict=parts is not None):
                part[: len(self.token_sums[i])] += self.token_sums[i]
        if self.last:
            self._finish(documents, values, parts)
            return
        self.sums |= dict(zip(documents, values, strict=True))
        for i, part in zip(documents, parts if parts is not None else (), strict=parts is not None):
            self.token_sums[i] = part[: len(self.encoded[i].ids)].clone()

    def _finish(self, documents: Sequence[int], values: Tensor, parts: Tensor | None) -> None:
        index, columns = torch.tensor(documents), self.scorer.columns
        divisor = self.scorer.divisor(self.counts[index].to(columns), self.norms[index])
        self.scores[index] = values.to(columns) @ columns.T / divisor[:, None]
        if parts is None:
            return
        for i, scores in zip(documents, parts @ columns.T / divisor[:, None, None], strict=True):
            self.tokens[i] = scores[: len(self.encoded[i].ids)].clone()

    def scored(self) -> Scored:
        """Return the scores of all documents, NaN where a norm is not finite: dividing by it would hide an overflow."""
        norms = self.norms.float() if self.scorer.has_norms else None
        self.scores[~(self.scores if norms is None else norms[:, None]).isfinite().all(1)] = torch.nan
        tokens = self.tokens if self.scorer.per_token else None
        return Scored(scores=self.scores, losses=self.losses, norms=norms, tokens=tokens)


def _norms(derivatives: Derivatives) -> Float[Tensor, "sequences"]:
    if derivatives.squares is not None:
        return derivatives.squares.clamp_min(0).sqrt()
    if derivatives.gradients is None:
        return torch.full_like(derivatives.losses, torch.nan)
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
