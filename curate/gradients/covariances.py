"""Covariances of every tracked layer's inputs and output gradients over scored tokens."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.linear import by_sequence, with_ones
from curate.gradients.passes import BatchView
from curate.gradients.slices import by_kind
from curate.gradients.tables import Sides, TableGradients
from curate.proxies.experts import ExpertLinear, Rows
from curate.proxies.proxy import Proxy
from curate.proxies.tables import counted_tables

Factors = dict[str, Float[Tensor, "_ _"]]
"""A square matrix per layer."""


class Covariances:
    """Add up Σ a aᵀ, once for layers that share their inputs, and Σ g gᵀ over scored positions.

    `leaders` is what `input_leaders` returns. a has a last column of ones where the layer has a bias. Sums are
    float32 (float64 for a float64 proxy). Of tables that count it adds up the sides.
    """

    def __init__(self, proxy: Proxy, leaders: Mapping[str, str]) -> None:
        self.leaders = leaders
        options = {"device": proxy.device, "dtype": torch.promote_types(proxy.dtype, torch.float32)}
        self.inputs: Factors = {}
        self.outputs: Factors = {}
        self.sides = {table.name: Sides.zeros(table, **options) for table in counted_tables(proxy)}
        self._biased: dict[str, bool] = {}
        experts = [n for n in proxy.tracked if isinstance(proxy.linears[n], ExpertLinear)]
        self._seen = {n: torch.zeros((), dtype=torch.int64) for n in experts}
        for name in proxy.tracked:
            d_out, d_in, self._biased[name] = proxy.shape(name)
            self.outputs[name] = torch.zeros(d_out, d_out, **options)
            if leaders[name] == name:
                width = d_in + self._biased[name]
                self.inputs[name] = torch.zeros(width, width, **options)

    def taps(self, view: BatchView) -> Callable[[str], "_CovarianceTap | None"]:
        """Return a function that makes a layer's tap for one batch."""
        return lambda name: _CovarianceTap(self, name, view) if name in self.leaders else None

    def add_tables(self, gradients: TableGradients) -> None:
        """Add a batch's sides of every table."""
        for table in gradients.frozen.tables:
            gradients.add_sides(table, self.sides[table.name])

    def tensors(self) -> dict[str, Tensor]:
        """Return all sums by name."""
        sides = {f"{name}/{kind}": t for name, s in self.sides.items() for kind, t in s.tensors().items()}
        return by_kind(inputs=self.inputs, outputs=self.outputs, seen=self._seen, sides=sides)

    def add_inputs(self, name: str, tokens: Float[Tensor, "tokens d_in"]) -> None:
        """Add tokens to a layer's inputs' covariance."""
        tokens = with_ones(tokens) if self._biased[name] else tokens
        self.inputs[name].addmm_(tokens.T, tokens)

    def add_outputs(self, name: str, tokens: Float[Tensor, "tokens d_out"]) -> None:
        """Add tokens to a layer's output gradients' covariance."""
        self.outputs[name].addmm_(tokens.T, tokens)

    def saw(self, name: str, tokens: int) -> None:
        """Count the scored tokens that an expert saw."""
        self._seen[name] += tokens

    def tokens(self, num_scored: int) -> dict[str, int]:
        """Return how many tokens each layer's sums are of, out of all scored ones."""
        return {name: int(self._seen.get(name, num_scored)) for name in self.outputs}


class _CovarianceTap:
    """Add up inputs in the forward pass and output gradients in the backward pass; keep neither."""

    def __init__(self, sums: Covariances, name: str, view: BatchView) -> None:
        self.sums, self.name, self.view = sums, name, view

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> None:
        if self.sums.leaders[self.name] == self.name:
            self.view.see_inputs(self.name, by_sequence(inputs, self.view.shape, rows))
            self.sums.add_inputs(self.name, self._scored(inputs, rows))

    def backward(self, kept: None, output_gradients: Tensor, rows: Rows | None = None) -> None:
        self.view.check(self.sums.leaders[self.name], by_sequence(output_gradients, self.view.shape, rows))
        scored = self._scored(output_gradients, rows)
        self.sums.add_outputs(self.name, scored)
        if rows is not None:
            self.sums.saw(self.name, len(scored))

    def _scored(self, x: Tensor, rows: Rows | None) -> Float[Tensor, "scored width"]:
        scored = self.view.scored_of(x, rows)
        return scored.to(torch.promote_types(scored.dtype, torch.float32))
