"""The Gauss-Newton matrix of the tracked layers times a few directions, exactly, and never formed.

G = (1/N) Σ_samples Σ_{scored t} J_tᵀ (diag p_t - p_t p_tᵀ) J_t, with J_t the Jacobian of position t's logits by the
weights: the mean of the Fisher matrices of documents whose labels are drawn from the model. A sample is a document, or
each window of a long one, with a scored token, as in the fits of curvature: G is on the scale of EK-FAC's Λ (Grosse et
al. 2023, arXiv 2308.03296, §2.1).

Three steps per token batch. J v: the gradient of the hidden states by the weights is linear in what is sent back, u; a
scalar mark in that backward pass lets its own derivative by u be taken, which is the hidden states' tangent (the double
backward trick), so that the forward pass and one backward pass serve all directions. H: in one sweep over the
vocabulary. Jᵀ: the plain backward pass, which adds GᵀA of every tracked layer to the result.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curate.curvature.softmax import softmax_curvature
from curate.gradients.directions import Directions
from curate.gradients.documents import Batching
from curate.gradients.frozen import FrozenPass
from curate.gradients.linear import linear
from curate.proxies.devices import products
from curate.proxies.experts import Rows
from curate.proxies.probes import decoder_of, linear_layers
from curate.proxies.proxy import Proxy, weight_of
from curate.proxies.tokens import IGNORED, Encoded, TokenBatch


class GaussNewton:
    """Multiply directions by a proxy's Gauss-Newton matrix over documents.

    A proxy narrower than float32 is copied to float32 once, here: rounding to 8 bits would make G neither symmetric nor
    positive, which solvers live on. Attention runs as plain products and a softmax, the form that can be differentiated
    twice, so that a batch holds `[heads, tokens, tokens]` a few times per layer.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy if proxy.dtype in (torch.float32, torch.float64) else _widened(proxy)
        self.head = FrozenPass(self.proxy).head

    def __call__(self, directions: Directions, encoded: Sequence[Encoded], batching: Batching) -> Directions:
        """Return G v for every direction v, the mean over all of `encoded`, in float32 (float64 for such a proxy).

        Samples whose hidden states are not finite are left out of the mean. The result does not depend on the batches,
        up to rounding.
        """
        with products("float32"):  # conjugate gradients live on digits
            return batching.room.whole("curvature", lambda: self._products(directions, encoded, batching))

    def _products(self, directions: Directions, encoded: Sequence[Encoded], batching: Batching) -> Directions:
        options = {"device": self.proxy.device, "dtype": self.proxy.dtype}
        layers = {n: _Layer(self.proxy, n, directions[n].to(**options)) for n in self.proxy.tracked}
        samples = 0
        for batch in batching.batches("curvature", encoded):
            has_loss = (batch.labels != IGNORED).any(1)
            with batching.room.watched("curvature", batch):
                samples += self._add(layers, _chosen(batch, has_loss).to(self.proxy.device))
        return {n: layer.products.div_(max(1, samples)) for n, layer in layers.items()}

    def _add(self, layers: Mapping[str, "_Layer"], batch: TokenBatch) -> int:
        """Add one batch's Σ_t J_tᵀ H_t J_t v to every layer's products; return how many of its sequences are in it."""
        if not len(batch):
            return 0
        scored = batch.scored
        with _differentiable(self.proxy.linears, layers, self.proxy.device) as leaf:
            with sdpa_kernel(SDPBackend.MATH):
                hidden = self.proxy.decoder(input_ids=batch.ids, use_cache=False).last_hidden_state
            finite = hidden.detach().isfinite().flatten(1).all(1)
            if bool(finite.all()):
                self._send_back(layers, hidden, leaf, scored)
                return len(batch)
        return self._add(layers, _chosen(batch, finite))  # a sum holds what is not finite for good

    def _send_back(self, layers: Mapping[str, "_Layer"], hidden: Tensor, leaf: Tensor, scored: Tensor) -> None:
        tangents = torch.stack(list(_tangents(hidden, leaf, layers, scored)))
        pulled = softmax_curvature(self.head, hidden.detach().flatten(0, 1)[scored], tangents)
        for q, gradient in enumerate(pulled):
            sent = torch.zeros_like(hidden)
            sent.view(-1, hidden.shape[-1])[scored] = gradient
            _turn(layers, q, collecting=True)
            hidden.backward(sent, retain_graph=q + 1 < len(pulled))


def _chosen(batch: TokenBatch, chosen: Bool[Tensor, "sequences"]) -> TokenBatch:
    if bool(chosen.all()):
        return batch
    documents = tuple(d for d, is_chosen in zip(batch.documents, chosen.tolist(), strict=True) if is_chosen)
    return TokenBatch(ids=batch.ids[chosen], labels=batch.labels[chosen], documents=documents)


def _tangents(hidden: Tensor, leaf: Tensor, layers: Mapping[str, "_Layer"], scored: Tensor) -> Iterator[Tensor]:
    """Yield J v at the scored positions, direction by direction."""
    count = next(iter(layers.values())).products.shape[0]
    _turn(layers, 0, collecting=False)
    dummy = torch.zeros_like(hidden, requires_grad=True)
    (mark,) = torch.autograd.grad(hidden, leaf, dummy, create_graph=True)
    for q in range(count):
        _turn(layers, q, collecting=False)
        (tangent,) = torch.autograd.grad(mark, dummy, retain_graph=True)
        yield tangent.flatten(0, 1)[scored]


def _turn(layers: Mapping[str, "_Layer"], direction: int, *, collecting: bool) -> None:
    for layer in layers.values():
        layer.direction, layer.collecting = direction, collecting


class _Layer:
    """One tracked layer's directions and its part of their products; which direction is being worked on."""

    def __init__(self, proxy: Proxy, name: str, values: Float[Tensor, "directions d_out d_in"]) -> None:
        d_out, d_in, has_bias = proxy.shape(name)
        if values.shape[1:] != (d_out, d_in + has_bias):
            expected = (len(values), d_out, d_in + has_bias)
            raise AssertionError(f"{name}: directions have shape {tuple(values.shape)}; expected {expected}")
        self.weights = [v[:, :d_in].contiguous() for v in values]
        # oneDNN's product takes a bias that is not contiguous for one that is.
        self.biases = values[:, :, d_in].contiguous() if has_bias else None
        self.products = torch.zeros_like(values)
        self.direction, self.collecting = 0, False

    def tangent(self, inputs: Tensor) -> Tensor:
        """Return A Uᵀ: what the output gains as the weights move along the direction."""
        bias = None if self.biases is None else self.biases[self.direction]
        return linear(inputs, self.weights[self.direction], bias)

    def collect(self, inputs: Tensor, output_gradients: Tensor) -> None:
        """Add GᵀA to the product."""
        into = self.products[self.direction]
        a, g = inputs.flatten(0, -2), output_gradients.flatten(0, -2)
        into[:, : a.shape[1]].addmm_(g.T, a)
        if self.biases is not None:
            into[:, -1] += g.sum(0)


class _Linear(torch.autograd.Function):
    """A frozen linear layer whose backward pass can itself be differentiated by the gradient that it is sent."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, leaf: Tensor | None, weight: Tensor, bias: Tensor | None, layer: _Layer | None
    ) -> Tensor:
        ctx.kept, ctx.version, ctx.weight, ctx.layer = x.detach(), x._version, weight, layer
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,) = grad_outputs
        if ctx.kept._version != ctx.version:
            raise AssertionError("the model writes over a layer's inputs")
        needs_inputs = ctx.needs_input_grad[0]
        if ctx.layer is not None and ctx.layer.collecting:
            ctx.layer.collect(ctx.kept, grad)
            return linear(grad, ctx.weight.T) if needs_inputs else None, None, None, None, None
        inputs, mark = _Adjoint.apply(grad, ctx.kept, ctx.weight, ctx.layer, needs_inputs)  # type: ignore[misc]
        return inputs, mark, None, None, None


class _Adjoint(torch.autograd.Function):
    """Gradient of outputs → gradient of inputs, and a mark, always 0, that ties the weights' part to the leaf.

    Sent back through it come tangents: of the inputs, and a 1 at the mark. What comes out is the outputs' tangent.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, kept: Tensor, weight: Tensor, layer: _Layer | None, needs_inputs: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.kept, ctx.weight, ctx.layer = kept, weight, layer
        return linear(grad, weight.T) if needs_inputs else None, None if layer is None else grad.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        of_inputs, mark = tangents
        parts = [] if of_inputs is None else [linear(of_inputs, ctx.weight)]
        if mark is not None:
            parts.append(ctx.layer.tangent(ctx.kept))
        result = parts[0].add_(parts[1]) if len(parts) == 2 else parts[0] if parts else None
        return result, None, None, None, None


@contextmanager
def _differentiable(
    linears: Mapping[str, nn.Module], layers: Mapping[str, _Layer], device: torch.device
) -> Iterator[Tensor]:
    """Replace the forward of every linear layer for the length of the context; yield the leaf of the tracked ones."""
    leaf = torch.zeros((), device=device, dtype=next(iter(layers.values())).products.dtype, requires_grad=True)
    try:
        for name, module in linears.items():
            bias = module.bias.detach() if isinstance(module.bias, Tensor) else None
            layer = layers.get(name)
            module.forward = partial(
                _call, leaf if layer is not None else None, weight_of(module).detach(), bias, layer
            )
        yield leaf
    finally:
        for module in linears.values():
            module.__dict__.pop("forward", None)  # the class's own method shows again


def _call(
    leaf: Tensor | None, weight: Tensor, bias: Tensor | None, layer: _Layer | None, x: Tensor, *_rows: Rows
) -> Tensor:
    output: Any = _Linear.apply(x.to(weight.dtype), leaf, weight, bias, layer)
    return output.to(x.dtype)  # some routers' product is in single precision


def _widened(proxy: Proxy) -> Proxy:
    model = deepcopy(proxy.model).float()
    decoder = decoder_of(model)
    return replace(proxy, model=model, decoder=decoder, linears=linear_layers(decoder)[0])
