"""Covariances of every tracked layer's inputs and output gradients over scored tokens."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.passes import BatchView
from curate.proxies.proxy import Proxy

Factors = dict[str, Float[Tensor, "_ _"]]
"""A square matrix per layer."""


class Covariances:
    """Add up Σ a aᵀ, once for layers that share their inputs, and Σ g gᵀ over scored positions.

    a has a last column of ones where the layer has a bias. float32 for proxies in bfloat16, too; float64 for float64.
    """

    def __init__(self, proxy: Proxy, first: Mapping[str, str]) -> None:
        self.first = first
        place = {"device": proxy.device, "dtype": torch.promote_types(proxy.dtype, torch.float32)}
        self.inputs: Factors = {}
        self.outputs: Factors = {}
        self._biased: dict[str, bool] = {}
        for name in proxy.tracked:
            d_out, d_in, self._biased[name] = proxy.shape(name)
            self.outputs[name] = torch.zeros(d_out, d_out, **place)
            if first[name] == name:
                width = d_in + self._biased[name]
                self.inputs[name] = torch.zeros(width, width, **place)

    def taps(self, view: BatchView) -> Callable[[str], "_CovarianceTap | None"]:
        """Return what makes the taps of one batch."""
        return lambda name: _CovarianceTap(self, name, view) if name in self.first else None

    def add_inputs(self, name: str, rows: Float[Tensor, "tokens d_in"]) -> None:
        """Add tokens to a layer's inputs' covariance."""
        rows = with_ones(rows) if self._biased[name] else rows
        self.inputs[name].addmm_(rows.T, rows)

    def add_outputs(self, name: str, rows: Float[Tensor, "tokens d_out"]) -> None:
        """Add tokens to a layer's output gradients' covariance."""
        self.outputs[name].addmm_(rows.T, rows)


class _CovarianceTap:
    """Keeps nothing: inputs are added up on the way forward, output gradients on the way back."""

    def __init__(self, sums: Covariances, name: str, view: BatchView) -> None:
        self.sums, self.name, self.view = sums, name, view

    def forward(self, inputs: Tensor) -> None:
        if self.sums.first[self.name] == self.name:
            self.view.see_inputs(self.name, inputs)
            self.sums.add_inputs(self.name, self._scored(inputs))

    def backward(self, kept: None, output_gradients: Tensor) -> None:
        self.view.check(self.sums.first[self.name], output_gradients)
        self.sums.add_outputs(self.name, self._scored(output_gradients))

    def _scored(self, x: Tensor) -> Float[Tensor, "scored width"]:
        rows = self.view.by_sequence(x).flatten(0, 1)[self.view.scored]
        return rows.to(torch.promote_types(rows.dtype, torch.float32))


def with_ones(x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch widened"]:
    """Append the column of ones that a bias multiplies."""
    return torch.nn.functional.pad(x, (0, 1), value=1.0)
