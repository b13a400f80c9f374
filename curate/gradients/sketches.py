"""Sketches: every document's gradient, randomly projected on both sides, from one pass with frozen weights.

For a linear layer with inputs A `[tokens, d_in]` (a ones column appended where it has a bias) and output gradients G
`[tokens, d_out]`, the document's gradient is GᵀA and its sketch P_gᵀ(GᵀA)P_a = (G P_g)ᵀ(A P_a) `[p_g, p_a]`: the
forward pass keeps A P_a, the backward pass multiplies, and nothing of size d_out × d_in is ever formed (TRAK, Park et
al. 2023, §3.2; LoGra, Choe et al. 2024, §3).

Experts whose weights are fused share a block: the sum of their sketches, each by projections of its own. It is one
random projection of the fused tensor's gradient: products between two experts' sketches have mean 0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.frozen import FrozenPass
from curate.gradients.linear import Tap, by_sequence, linear, tapped
from curate.gradients.projections import projection
from curate.proxies.experts import ExpertLinear, Rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import TokenBatch


@dataclass(frozen=True, kw_only=True)
class Block:
    """A layer's, or fused experts', part of a sketch: columns `start : stop`, a `[rows, columns]` matrix flattened."""

    name: str
    start: int
    rows: int
    columns: int

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.columns


@dataclass(frozen=True, kw_only=True)
class Sketches:
    """The sketches of one batch, by sequence."""

    values: Float[Tensor, "sequences sketch"]
    """Projected gradients of the loss summed over scored tokens; float32 (float64 for a float64 proxy)."""
    losses: Float[Tensor, "sequences"]
    """Loss summed over scored tokens, in nats."""


def layer_blocks(proxy: Proxy, dim: int) -> dict[str, Block]:
    """Return the block of every tracked layer, in the order of their columns.

    Fused experts share one, unless both sides are kept whole: their gradients would be mixed up for good.
    """
    blocks: dict[str, Block] = {}
    shared: dict[str, Block] = {}
    start = 0
    for name in proxy.tracked:
        d_out, d_in, has_bias = proxy.shape(name)
        rows, columns = min(d_out, dim), min(d_in + has_bias, dim)
        is_whole = (rows, columns) == (d_out, d_in + has_bias)
        layer = proxy.linears[name]
        owner = name if is_whole or not isinstance(layer, ExpertLinear) else layer.fused_name(name)
        if owner not in shared:
            shared[owner] = Block(name=owner, start=start, rows=rows, columns=columns)
            start = shared[owner].stop
        blocks[name] = shared[owner]
    return blocks


class SketchEngine:
    """Compute sketches of token batches for one proxy; one instance serves target, background and pool.

    `dim` is the number of dimensions per side and layer; a side no wider than that is kept as it is, so that a large
    `dim` gives whole gradients.
    """

    def __init__(self, proxy: Proxy, *, dim: int, seed: int) -> None:
        self.proxy, self.frozen = proxy, FrozenPass(proxy)
        self._by_name = layer_blocks(proxy, dim)
        self.blocks = list(dict.fromkeys(self._by_name.values()))
        self.width = self.blocks[-1].stop
        self._inputs: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        self._outputs: dict[str, Tensor | None] = {}
        options = {"device": proxy.device, "dtype": proxy.dtype}
        for name in proxy.tracked:
            d_out, d_in, has_bias = proxy.shape(name)
            p_in = projection(name, "inputs", d_in + has_bias, dim, seed)
            p_out = projection(name, "outputs", d_out, dim, seed)
            if p_in is None:
                self._inputs[name] = (None, torch.ones(1, **options) if has_bias else None)
            else:
                self._inputs[name] = (
                    _rows(p_in[:d_in]).to(**options),
                    p_in[d_in].to(**options) if has_bias else None,
                )
            self._outputs[name] = None if p_out is None else _rows(p_out).to(**options)

    def __call__(self, batch: TokenBatch) -> Sketches:
        """Return the sketches of a batch, one row per sequence. Padding and masked tokens add nothing to them."""
        values = self.empty(len(batch))
        with tapped(self.proxy.linears, lambda name: self.tap(name, values, batch.ids.shape)):
            losses = self.frozen.backward(batch)
        return Sketches(values=values, losses=losses)

    def empty(self, sequences: int) -> Float[Tensor, "sequences sketch"]:
        """Return zeros for a batch's sketches, which taps add to."""
        return torch.zeros(sequences, self.width, dtype=self.dtype, device=self.proxy.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type that sketches are added up in."""
        return torch.promote_types(self.proxy.dtype, torch.float32)

    def tap(self, name: str, values: Float[Tensor, "sequences sketch"], shape: torch.Size) -> "Tap | None":
        """Return the tap that adds a layer's part to a batch's sketches; None for an untracked layer."""
        if name not in self._by_name:
            return None
        return _SketchTap(self._by_name[name], self._inputs[name], self._outputs[name], values, shape)


def _rows(projection: Float[Tensor, "width dim"]) -> Float[Tensor, "dim width"]:
    """Lay a projection out as a layer's weight is: for so few columns `linear` is several times a plain product."""
    return projection.T.contiguous()


class _SketchTap:
    """Keep A P_a in the forward pass; add (G P_g)ᵀ(A P_a) to the layer's columns in the backward pass."""

    def __init__(
        self,
        block: Block,
        inputs: tuple[Tensor | None, Tensor | None],
        outputs: Tensor | None,
        values: Tensor,
        shape: torch.Size,
    ) -> None:
        self.block, self.outputs, self.values, self.shape = block, outputs, values, shape
        self.project_inputs, self.bias_row = inputs

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> Tensor:
        # Projected before they are laid out by sequence, which an expert's rows take copies for.
        if self.project_inputs is not None:
            inputs = linear(inputs, self.project_inputs, self.bias_row)
        elif self.bias_row is not None:
            inputs = torch.cat([inputs, self.bias_row.expand(*inputs.shape[:-1], 1)], -1)
        return by_sequence(inputs, self.shape, rows)

    def backward(self, kept: Tensor, output_gradients: Tensor, rows: Rows | None = None) -> None:
        gradients = output_gradients if self.outputs is None else linear(output_gradients, self.outputs)
        gradients = by_sequence(gradients, self.shape, rows)
        wide = self.values.dtype
        product = gradients.to(wide).transpose(1, 2) @ kept.to(wide)
        self.values[:, self.block.start : self.block.stop] += product.flatten(1)
