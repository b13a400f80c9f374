"""Every document's whole gradient GᵀA of every layer, rotated into another basis where there is one, a chunk at a time.

Each is of size d_out × d_in and none is kept: `add` receives a few documents' gradients of a layer at a time and adds
up what it needs (squares, products).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.covariances import Factors
from curate.gradients.linear import by_sequence, linear, with_ones
from curate.gradients.passes import BatchView
from curate.proxies.experts import Rows
from curate.proxies.proxy import Proxy

# Entries of the gradients that exist at a time: 16 MB of float32, or one document's where that is more.
CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A layer's bases: D becomes `outputsᵀ D inputs`."""

    outputs: Float[Tensor, "d_out d_out"]
    inputs: Float[Tensor, "d_in d_in"]


class PerDocument:
    """Hand `add(name, gradients [documents, d_out, d_in])` every sequence's gradient of every tracked layer.

    Of an expert that no token of a batch is sent to, the gradients of that batch are left out: they are 0.

    With `rotations`, D arrives as Q_Sᵀ D Q_A. Each side is rotated where that is cheaper: before the product, token by
    token (once for all layers that share their inputs), or after it, document by document.
    """

    def __init__(
        self,
        proxy: Proxy,
        leaders: Mapping[str, str],
        add: Callable[[str, Float[Tensor, "documents d_out d_in"]], None],
        rotations: Mapping[str, Rotation] | None = None,
    ) -> None:
        self.leaders, self.add, self.rotations = leaders, add, rotations or {}
        self.shapes = {name: proxy.shape(name) for name in proxy.tracked}
        self.readers: dict[str, int] = {}
        """Rows of D, over all layers that share a layer's inputs."""
        self.last: dict[str, str] = {}
        """The last layer in the forward pass that sees a layer's inputs."""
        for name, leader in leaders.items():
            self.readers[leader] = self.readers.get(leader, 0) + self.shapes[name][0]
            self.last[leader] = name
        self.wide, self.device = torch.promote_types(proxy.dtype, torch.float32), proxy.device

    def zeros(self, size: Callable[[int, int], tuple[int, int]] = lambda d_out, d_in: (d_out, d_in)) -> Factors:
        """Return a matrix of zeros per layer, of a size that follows from its gradient's."""
        return {
            name: torch.zeros(size(d_out, d_in + biased), dtype=self.wide, device=self.device)
            for name, (d_out, d_in, biased) in self.shapes.items()
        }

    def taps(self, view: BatchView) -> Callable[[str], "_GradientTap | None"]:
        """Return a function that makes a layer's tap for one batch."""
        return lambda name: _GradientTap(self, name, view) if name in self.leaders else None


class _GradientTap:
    """Keep the inputs, rotated where that is cheaper, in the forward pass; multiply in the backward pass."""

    def __init__(self, whole: PerDocument, name: str, view: BatchView) -> None:
        self.whole, self.name, self.view = whole, name, view
        self.leader, self.rotation = whole.leaders[name], whole.rotations.get(name)
        _, self.d_in, self.biased = whole.shapes[name]
        tokens = view.shape[1]
        self.rotate_inputs_early = self.rotation is not None and tokens < whole.readers[self.leader]
        self.rotate_outputs_early = self.rotation is not None and tokens < self.d_in

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> tuple[Tensor, int]:
        inputs = by_sequence(inputs, self.view.shape, rows)
        if self.leader == self.name:
            self.view.see_inputs(self.name, inputs)
        if self.rotate_inputs_early:
            if self.leader == self.name:
                self.view.rotated_inputs[self.name] = self._rotated(inputs)
            inputs = self.view.rotated_inputs[self.leader]
            if self.whole.last[self.leader] == self.name:
                del self.view.rotated_inputs[self.leader]
        return inputs, inputs._version

    def _rotated(self, inputs: Tensor) -> Tensor:
        assert self.rotation is not None
        basis = self.rotation.inputs
        return linear(inputs.to(basis.dtype), basis[: self.d_in].T, basis[self.d_in] if self.biased else None)

    def backward(self, kept: tuple[Tensor, int], output_gradients: Tensor, rows: Rows | None = None) -> None:
        inputs, version = kept
        if inputs._version != version:
            raise AssertionError(f"the model writes over the inputs of {self.name}")
        g = by_sequence(output_gradients, self.view.shape, rows)
        self.view.check(self.leader, g)
        a = inputs.to(self.whole.wide)
        a = with_ones(a) if self.biased and not self.rotate_inputs_early else a
        g = g.to(self.whole.wide)
        if self.rotation is not None and self.rotate_outputs_early:
            g = linear(g, self.rotation.outputs.T)
        step = max(1, CHUNK // (a.shape[2] * g.shape[2]))
        for g_part, a_part in zip(g.split(step), a.split(step), strict=True):
            gradients = g_part.transpose(1, 2) @ a_part
            self.whole.add(self.name, self._finish(gradients))

    def _finish(self, gradients: Tensor) -> Tensor:
        if self.rotation is not None and not self.rotate_outputs_early:
            gradients = self.rotation.outputs.T @ gradients
        if self.rotation is not None and not self.rotate_inputs_early:
            gradients = gradients @ self.rotation.inputs
        return gradients
