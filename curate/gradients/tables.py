"""Derivatives and gradients of the tables: the input embedding and the head, each with a row per token.

At the head a token's gradient is (p - 1_y) hᵀ, swept in blocks of the vocabulary; at the embedding it is the gradient
of the embedding's output, in the row of the token that was looked up. Both enter at the position of the token that the
model reads there: the head's part at t is that of predicting t + 1 from h_t.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.gradients.frozen import FrozenPass, TableTaps
from curate.gradients.head import Along, HeadTaps
from curate.gradients.linear import with_ones
from curate.proxies.devices import sent
from curate.proxies.proxy import Proxy
from curate.proxies.tables import Table, counted_tables
from curate.proxies.tokens import TokenBatch


class TableDirections:
    """Directions in a proxy's tables, as passes need them."""

    def __init__(self, proxy: Proxy, directions: Mapping[str, Float[Tensor, "directions vocabulary d"]]) -> None:
        self.wide = torch.promote_types(proxy.dtype, torch.float32)
        self.along: Along | None = None
        """Those of the head."""
        self.embedded: Float[Tensor, "directions vocabulary d"] | None = None
        """Those of the input embedding, as it comes out."""
        for table in counted_tables(proxy):
            if directions[table.name].shape[1:] != table.shape:
                raise AssertionError(f"{table.name}: direction has shape {tuple(directions[table.name].shape)}")
            u = directions[table.name].to(device=proxy.device, dtype=proxy.dtype)
            weights = u[:, :, :-1].contiguous() if table.bias else u.contiguous()
            if table.heads:
                self.along = Along(weights=weights, biases=u[:, :, -1].contiguous() if table.bias else None)
            if table.embeds:
                self.embedded = weights * table.scale if table.scale != 1.0 else weights

    def taps(self, batch: TokenBatch, parts: Float[Tensor, "sequences tokens directions"]) -> TableTaps:
        """Return taps that add every position's derivatives to `parts`."""
        flat, embedded = parts.view(-1, parts.shape[-1]), self.embedded

        def add(positions: Int[Tensor, "n"], values: Float[Tensor, "n directions"]) -> None:
            flat[positions] += values

        def see(gradients: Float[Tensor, "sequences tokens d"]) -> None:
            assert embedded is not None
            g = gradients.to(self.wide)
            for q, rows in enumerate(embedded):
                parts[:, :, q] += torch.linalg.vecdot(rows[batch.ids].to(self.wide), g)

        head = None if self.along is None else HeadTaps(along=self.along, add=add)
        return TableTaps(head=head, embedding=() if embedded is None else (see,))


@dataclass(frozen=True, kw_only=True)
class TableGradients:
    """What a pass over a batch leaves of the tables' gradients: both their sides."""

    frozen: FrozenPass
    batch: TokenBatch
    """As it was handed in: on the host nobody has to be waited for."""
    ids: Int[Tensor, "sequences tokens"]
    seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """Positions, hidden states and labels at the head, some at a time."""
    embedded: list[Float[Tensor, "sequences tokens d"]] = field(default_factory=list)

    @classmethod
    def of(cls, frozen: FrozenPass, batch: TokenBatch) -> "TableGradients":
        """Return an empty one, whose `taps` fill it."""
        return cls(frozen=frozen, batch=batch, ids=sent(batch.ids, frozen.proxy.device))

    def taps(self, done: Callable[["TableGradients"], None]) -> TableTaps:
        """Return taps that note both sides, and call `done` when the pass is over."""
        heads, embeds = (any(getattr(t, kind) for t in self.frozen.tables) for kind in ("heads", "embeds"))
        return TableTaps(
            head=HeadTaps(see=lambda *sides: self.seen.append(sides)) if heads else None,
            embedding=(self.embedded.append,) if embeds else (),
            done=lambda: done(self),
        )

    def beside(self, taps: TableTaps, squares: Float[Tensor, "sequences"]) -> TableTaps:
        """Return other taps that also add the squared norms of all tables' gradients when the pass is over."""

        def done(gradients: "TableGradients") -> None:
            for table in gradients.frozen.tables:
                squares.add_(gradients.squares(table))

        own = self.taps(done)
        head = replace(own.head, along=taps.head.along, add=taps.head.add) if own.head and taps.head else None
        return replace(own, head=head, embedding=(*own.embedding, *taps.embedding))

    def add_weighted(
        self,
        table: Table,
        weights: Float[Tensor, "sequences directions"],
        totals: Float[Tensor, "directions vocabulary width"],
    ) -> None:
        """Add Σ_s weights[s, q] ∇ℓ_s by a table to every total."""
        weights = weights.to(totals)
        if table.heads and self.seen:
            positions, hidden, labels = self._scored
            shares, inputs = weights[positions // self.ids.shape[1]], self._inputs(table, hidden)
            for rows, pull in self.frozen.head.pulls(hidden, labels):
                for total, share in zip(totals, shares.T, strict=True):
                    total[rows] += (pull * share[:, None]).T @ inputs
        if table.embeds:
            (gradients,) = self.embedded
            for total, share in zip(totals, weights.T, strict=True):
                rows = gradients.to(totals) * (share * table.scale)[:, None, None]
                add_rows(total, self.ids.flatten(), _widened(rows.flatten(0, 1), table))

    def blocks(
        self, table: Table, sequence: int, basis: Float[Tensor, "width width"] | None = None
    ) -> Iterator[tuple[slice | Tensor, Float[Tensor, "rows width"]]]:
        """Yield one sequence's gradient D by a table in blocks: distinct rows of the vocabulary and what is in them.

        With a `basis` Q, those of D Q.
        """
        ids, device, embedded = self.batch.ids[sequence], self.ids.device, None
        if table.embeds:
            (gradients,) = self.embedded
            embedded = _rotated(_widened(gradients[sequence].to(self._wide) * table.scale, table), basis)
        if not table.heads:
            assert embedded is not None
            rows, places = (sent(t, device) for t in ids.unique(return_inverse=True))
            yield rows, add_rows(embedded.new_zeros(len(rows), embedded.shape[1]), places, embedded)
            return
        if not self.seen:
            return
        _, hidden, labels = self._scored
        chosen = slice(*self._edges[sequence : sequence + 2])
        hidden = hidden[chosen]
        inputs = _rotated(self._inputs(table, hidden), basis)
        for rows, pull in self.frozen.head.pulls(hidden, labels[chosen]) if len(hidden) else ():
            block = pull.T @ inputs
            if embedded is not None:
                inside = ((ids >= rows.start) & (ids < rows.stop)).nonzero().squeeze(-1)
                places, inside = (sent(t, device) for t in (ids[inside] - rows.start, inside))
                add_rows(block, places, embedded[inside])
            yield rows, block

    def add_sides(self, table: Table, total: "Sides") -> None:
        """Add both sides of a table's gradient, summed over the batch as K-FAC has them."""
        (head_rows, counts), (head_columns, embedded) = total.rows, total.columns
        if table.heads and self.seen:
            _, hidden, labels = self._scored
            inputs = self._inputs(table, hidden)
            head_columns += inputs.T @ inputs
            for rows, pull in self.frozen.head.pulls(hidden, labels):
                head_rows[rows] += pull.square().sum(0)
        if table.embeds:
            (gradients,) = self.embedded
            g = _widened(gradients.flatten(0, 1).to(self._wide) * table.scale, table)
            embedded += g.T @ g
            # Padding has no gradient, nor has a document's last token.
            counts.index_add_(0, self.ids.flatten(), g.any(-1).to(counts))

    def squares(self, table: Table) -> Float[Tensor, "sequences"]:
        """Return the squared norms of the sequences' gradients by a table."""
        sums = self.ids.new_zeros(len(self.ids), dtype=self._wide)
        for s in range(len(self.ids)):
            for _, block in self.blocks(table, s):
                sums[s] += block.square().sum()
        return sums

    def _inputs(self, table: Table, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        return with_ones(hidden.to(self._wide)) if table.bias else hidden.to(self._wide)

    @cached_property
    def _scored(self) -> tuple[Tensor, Tensor, Tensor]:
        positions, hidden, labels = zip(*self.seen, strict=True)
        return torch.cat(positions), torch.cat(hidden), torch.cat(labels)

    @cached_property
    def _edges(self) -> list[int]:
        """Where each sequence's scored positions begin among them all, and where the last one's end."""
        sequences, tokens = self.batch.ids.shape
        starts = torch.arange(sequences + 1, device=self.batch.ids.device) * tokens
        return torch.searchsorted(self.batch.scored, starts).tolist()

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.frozen.proxy.dtype, torch.float32)


def add_rows(
    total: Float[Tensor, "rows width"], places: Int[Tensor, "n"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "rows width"]:
    """Add rows at places that may repeat, in the same order every time; return the total."""
    if total.device.type == "cpu":
        return total.index_add_(0, places, rows)
    return total.index_put_((places,), rows, accumulate=True)


def _widened(gradients: Float[Tensor, "n d"], table: Table) -> Float[Tensor, "n width"]:
    """Append a column of zeros for the head's bias, which the embedding has no part in."""
    return torch.nn.functional.pad(gradients, (0, table.shape[1] - gradients.shape[-1]))


def _rotated(x: Float[Tensor, "n width"], basis: Float[Tensor, "width width"] | None) -> Float[Tensor, "n width"]:
    return x if basis is None else x @ basis


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Sums over tokens of the two sides of a table's gradient: at the head, and at the embedding."""

    rows: tuple[Float[Tensor, "vocabulary"], Float[Tensor, "vocabulary"]]
    """At the head Σ (p - 1_y)² by row, which is its side's diagonal; at the embedding how often a token was read."""
    columns: tuple[Float[Tensor, "width width"], Float[Tensor, "width width"]]
    """At the head Σ h hᵀ; at the embedding Σ g gᵀ over the gradients of its output."""

    @classmethod
    def zeros(cls, table: Table, *, device: torch.device, dtype: torch.dtype) -> "Sides":
        """Return sums of nothing."""
        rows, width = table.shape
        of_rows, of_columns = (
            torch.zeros(rows, device=device, dtype=dtype),
            torch.zeros(width, width, device=device, dtype=dtype),
        )
        return cls(rows=(of_rows, of_rows.clone()), columns=(of_columns, of_columns.clone()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums by name."""
        (head_rows, embedded_rows), (head_columns, embedded_columns) = self.rows, self.columns
        return {
            "head_rows": head_rows,
            "head_columns": head_columns,
            "embedded_rows": embedded_rows,
            "embedded_columns": embedded_columns,
        }
