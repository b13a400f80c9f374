"""How a proxy's last hidden states move along a direction in its weights, by forward mode.

A document's loss is the sum of its labels' losses. A label's loss depends on one hidden state alone: its derivative
along a direction is the product of its gradient by that state, which the head gives, and of the state's derivative,
which takes one forward pass of the decoder over dual numbers and no backward pass.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curate.errors import CurateError
from curate.gradients.linear import linear
from curate.proxies.attention import dual_attention
from curate.proxies.devices import products
from curate.proxies.experts import Rows
from curate.proxies.proxy import Proxy, weight_of


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction in the weights below the head."""

    layers: Mapping[str, tuple[Float[Tensor, "d_out d_in"], Float[Tensor, "d_out"] | None]]
    """Of layers' weights and biases; the others stand still."""
    embedded: Float[Tensor, "vocabulary d"] | None = None
    """Of the input embedding, as it comes out."""


@contextmanager
def dual_level() -> Iterator[None]:
    """Let tensors have tangents for the length of the context."""
    _registered()
    with forward_ad.dual_level():
        yield


@cache
def _registered() -> None:
    """Import what torch takes some derivatives from (layer norm's), without its warning about its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import_module("torch._decomp.decompositions_for_jvp")


@torch.no_grad()
def moved(
    proxy: Proxy, direction: Direction, ids: Int[Tensor, "sequences tokens"]
) -> tuple[Float[Tensor, "sequences tokens d"], Float[Tensor, "sequences tokens d"]]:
    """Return the last hidden states, and their derivative by a step along the direction.

    Raises CurateError for a model with a step that has no forward derivative.
    """
    with (
        products(proxy.settings.precision),
        dual_attention(proxy.model),
        sdpa_kernel(SDPBackend.MATH),  # the fused ones have no forward derivative
        dual_level(),
        _dual_layers(proxy, direction),
        _dual_embedding(proxy.model.get_input_embeddings(), direction.embedded),
    ):
        try:
            hidden = proxy.decoder(input_ids=ids, use_cache=False).last_hidden_state
        except NotImplementedError as error:
            raise CurateError(
                f"{type(proxy.model).__name__} has no forward derivative: {str(error).splitlines()[0]}",
                hint="Its documents have scores, its tokens have none: leave out --per-token.",
            ) from error
        value, tangent = forward_ad.unpack_dual(hidden)
        return value, torch.zeros_like(value) if tangent is None else tangent


@contextmanager
def _dual_layers(proxy: Proxy, direction: Direction) -> Iterator[None]:
    """Let every linear layer move its outputs with its inputs, and along its own direction where it has one."""
    try:
        for name, layer in proxy.linears.items():
            layer.forward = partial(_call, weight_of(layer), layer.bias, *direction.layers.get(name, (None, None)))
        yield
    finally:
        for layer in proxy.linears.values():
            layer.__dict__.pop("forward", None)  # the class's own method shows again


def _call(
    weight: Tensor, bias: Tensor | None, direction: Tensor | None, shift: Tensor | None, x: Tensor, *_rows: Rows
) -> Tensor:
    weight = weight.to(x.dtype)  # a router's product may be in single precision
    bias, direction, shift = (None if t is None else t.to(x.dtype) for t in (bias, direction, shift))
    value, tangent = forward_ad.unpack_dual(x)
    output = linear(value, weight, bias)
    pieces = [linear(tangent, weight)] if tangent is not None else []
    pieces += [linear(value, direction, shift)] if direction is not None else []
    return forward_ad.make_dual(output, sum(pieces[1:], pieces[0])) if pieces else output


@contextmanager
def _dual_embedding(embedding: nn.Module, direction: Tensor | None) -> Iterator[None]:
    if direction is None:
        yield
        return

    def move(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return forward_ad.make_dual(output, direction[inputs[0]].view_as(output))

    hook = embedding.register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()
