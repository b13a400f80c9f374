"""Whole gradients, where they are worth their memory: weighted sums over the target's documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.directions import Directions
from curate.gradients.documents import Batching
from curate.gradients.frozen import FrozenPass, TableTaps
from curate.gradients.linear import by_sequence, tapped
from curate.gradients.tables import TableGradients
from curate.progress import Reporter, Silent
from curate.proxies.experts import Rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, TokenBatch


def weighted_gradients(
    proxy: Proxy,
    encoded: Sequence[Encoded],
    weights: Float[Tensor, "documents directions"],
    batching: Batching,
    *,
    reporter: Reporter | None = None,
) -> Directions:
    """Return `Σ_i weights[i, q] ∇ℓ_i` for every q, ℓ_i summed over scored tokens; float32, or float64 for float64.

    One frozen pass over the documents, and per document one product for every q that it has a weight in. Documents
    without any weight are not read. A gradient that is not finite makes the sums that it enters not finite.
    """
    frozen = FrozenPass(proxy)
    used = {i: e for i, e in enumerate(encoded) if bool((weights[i] != 0).any())}
    return batching.room.whole("target", lambda: _summed(frozen, used, weights, batching, reporter or Silent()))


def _summed(
    frozen: FrozenPass,
    used: Mapping[int, Encoded],
    weights: Float[Tensor, "documents directions"],
    batching: Batching,
    reporter: Reporter,
) -> Directions:
    proxy = frozen.proxy
    wide = torch.promote_types(proxy.dtype, torch.float32)
    sums: Directions = {}
    for name in proxy.tracked:
        d_out, d_in, has_bias = proxy.shape(name)
        sums[name] = torch.zeros(weights.shape[1], d_out, d_in + has_bias, dtype=wide, device=proxy.device)
    for table in frozen.tables:
        sums[table.name] = torch.zeros(weights.shape[1], *table.shape, dtype=wide, device=proxy.device)
    with reporter.stage("target", total=len(used), grows="target") as stage:
        for batch in batching.batches("target", used):
            shares = _Shares.of(weights[list(batch.documents)], proxy.device, wide)

            def make_tap(name: str, shares: _Shares = shares, shape: torch.Size = batch.ids.shape) -> _SumTap | None:
                return _SumTap(sums[name], shares, shape) if name in sums else None

            with batching.room.watched("target", batch), tapped(proxy.linears, make_tap):
                frozen.backward(batch, taps=_table_taps(frozen, batch, weights, sums))
            stage.advance(len(set(batch.documents)))
    return sums


def _table_taps(
    frozen: FrozenPass, batch: TokenBatch, weights: Float[Tensor, "documents directions"], sums: Directions
) -> TableTaps | None:
    """Return taps that add a batch's part of the tables' sums; None where tables do not count."""
    if not frozen.tables:
        return None

    def add(gradients: TableGradients) -> None:
        for table in frozen.tables:
            gradients.add_weighted(table, weights[list(batch.documents)], sums[table.name])

    return TableGradients.of(frozen, batch).taps(add)


@dataclass(frozen=True)
class _Shares:
    """What a batch's sequences add to every sum."""

    of_sums: list[tuple[Tensor, Tensor] | None]
    """Per sum the sequences that have a weight in it `[n]`, and those weights `[n, 1, 1]`; None where none has."""

    @classmethod
    def of(cls, weights: Float[Tensor, "sequences directions"], device: torch.device, dtype: torch.dtype) -> "_Shares":
        """Find them on the CPU, where nobody has to wait for the answer."""
        shares: list[tuple[Tensor, Tensor] | None] = []
        for weight in weights.T:
            chosen = weight.nonzero().squeeze(-1)
            part = chosen.to(device), weight[chosen, None, None].to(device=device, dtype=dtype)
            shares.append(part if len(chosen) else None)
        return cls(shares)


class _SumTap:
    """Keep the inputs in the forward pass; add (w ∘ G)ᵀA to every sum with a weight in the backward pass."""

    def __init__(
        self,
        sums: Float[Tensor, "directions d_out d_in"],
        shares: _Shares,
        shape: torch.Size,
    ) -> None:
        self.sums, self.shares, self.shape = sums, shares, shape

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> Tensor:
        return inputs

    def backward(self, kept: Tensor, output_gradients: Tensor, rows: Rows | None = None) -> None:
        wide = self.sums.dtype
        a, g = (by_sequence(x, self.shape, rows).to(wide) for x in (kept, output_gradients))
        for total, share in zip(self.sums, self.shares.of_sums, strict=True):
            if share is None:
                continue
            sequences, weights = share
            weighted = (g[sequences] * weights).flatten(0, 1)
            total[:, : a.shape[2]].addmm_(weighted.T, a[sequences].flatten(0, 1))
            if total.shape[1] > a.shape[2]:
                total[:, -1] += weighted.sum(0)
