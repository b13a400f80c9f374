"""Whole gradients, where they are worth their memory: weighted sums over the target's documents."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.directions import Directions
from curate.gradients.documents import Batching
from curate.gradients.frozen import FrozenPass
from curate.gradients.linear import tapped
from curate.progress import Reporter, Silent
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, batches


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
    wide = torch.promote_types(proxy.dtype, torch.float32)
    sums: Directions = {}
    for name in proxy.tracked:
        d_out, d_in, has_bias = proxy.shape(name)
        sums[name] = torch.zeros(weights.shape[1], d_out, d_in + has_bias, dtype=wide, device=proxy.device)
    used = {i: e for i, e in enumerate(encoded) if bool((weights[i] != 0).any())}
    with (reporter or Silent()).stage("target", total=len(used), grows="target") as stage:
        for batch in batches(used, batching.tokens, budget=batching.budget):
            weight = weights[list(batch.documents)].to(device=proxy.device, dtype=wide)

            def make_tap(name: str, weight: Tensor = weight, shape: torch.Size = batch.ids.shape) -> _SumTap | None:
                return _SumTap(sums[name], weight, shape) if name in sums else None

            with tapped(proxy.linears, make_tap):
                frozen.backward(batch)
            stage.advance(len(set(batch.documents)))
    return sums


class _SumTap:
    """Keep the inputs in the forward pass; add (w ∘ G)ᵀA to every sum with a weight in the backward pass."""

    def __init__(
        self,
        sums: Float[Tensor, "directions d_out d_in"],
        weights: Float[Tensor, "sequences directions"],
        shape: torch.Size,
    ) -> None:
        self.sums, self.weights, self.shape = sums, weights, shape

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs

    def backward(self, kept: Tensor, output_gradients: Tensor) -> None:
        wide = self.sums.dtype
        a, g = (x.reshape(*self.shape, -1).to(wide) for x in (kept, output_gradients))
        for total, weight in zip(self.sums, self.weights.T, strict=True):
            sequences = weight.nonzero().squeeze(-1)
            if not len(sequences):
                continue
            weighted = (g[sequences] * weight[sequences, None, None]).flatten(0, 1)
            total[:, : a.shape[2]].addmm_(weighted.T, a[sequences].flatten(0, 1))
            if total.shape[1] > a.shape[2]:
                total[:, -1] += weighted.sum(0)
