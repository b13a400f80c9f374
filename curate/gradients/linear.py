"""Frozen linear layers that hand their inputs and output gradients to a tap on the way.

A training step multiplies three times per weight: forward, gradient by activations, gradient by weights. Scoring needs
only the first two (methods of influence read `G` and `A`, never `GᵀA` whole), so the layers below are functions of
frozen weights. A scalar leaf that requires gradients stands in for "there is a tap here": the graph then begins at the
first tapped layer, and what lies under it, the embedding and the first layer's input, gets no backward pass at all.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from curate.proxies.experts import Rows
from curate.proxies.proxy import weight_of

# oneDNN's float32 product is up to 1.7 times MKL's on AMD processors and no slower elsewhere; torch sends only bfloat16
# to it by itself. The operator is the one that torch.compile's CPU backend emits.
_ONEDNN_LINEAR = (
    torch.ops.mkldnn._linear_pointwise
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    else None
)


def linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, "d_out"] | None = None,
) -> Float[Tensor, "*batch d_out"]:
    """Return `x weightᵀ + bias` by the fastest product of this device, outside any graph."""
    if _ONEDNN_LINEAR is not None and x.dtype == torch.float32 and x.device.type == "cpu":
        # The operator reads a bias as if its entries lay side by side, whatever its stride.
        return _ONEDNN_LINEAR(x, weight, None if bias is None else bias.contiguous(), "none", [], None)
    return nn.functional.linear(x, weight, bias)


def with_ones(x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch widened"]:
    """Append the column of ones that a bias multiplies."""
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


@runtime_checkable
class Tap(Protocol):
    """See a layer's inputs and output gradients. What `forward` returns is handed to `backward`.

    `rows` says which tokens they are of, where a layer does not see all of a batch's.
    """

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> Any: ...

    def backward(self, kept: Any, output_gradients: Tensor, rows: Rows | None = None) -> None: ...


def by_sequence(x: Tensor, shape: torch.Size, rows: Rows | None = None) -> Float[Tensor, "sequences tokens width"]:
    """View a layer's side as sequences, also where the model flattened them, or chose `rows` of them."""
    if rows is not None:
        return rows.by_sequence(x, shape)
    if x.shape[:-1].numel() != shape.numel():
        raise AssertionError(f"a layer's side has shape {tuple(x.shape)}; expected {tuple(shape)} tokens")
    return x.reshape(*shape, -1)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        leaf: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        tap: Tap | None,
        rows: tuple[Rows, ...],
    ) -> Tensor:
        ctx.weight, ctx.tap, ctx.rows = weight, tap, rows
        ctx.kept = tap.forward(x, *rows) if tap is not None else None
        # Some products are views of a matrix, which no model could add to in place (Falcon does).
        return linear(x, weight, bias).data

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (grad,) = grad_outputs
        if ctx.tap is not None:
            ctx.tap.backward(ctx.kept, grad, *ctx.rows)
            ctx.kept = None
        grad_input = linear(grad, ctx.weight.T) if ctx.needs_input_grad[0] else None
        return grad_input, None, None, None, None, None


@contextmanager
def tapped(layers: Mapping[str, nn.Module], make_tap: Callable[[str], Tap | None]) -> Iterator[None]:
    """Replace the forward of each layer by its frozen, tapped form for the length of the context.

    Only forward and gradient-by-activations run. Layers whose `make_tap` is None are computed the same way, untapped.
    """
    leaf = None
    try:
        for name, layer in layers.items():
            tap = make_tap(name)
            weight = weight_of(layer).detach()
            if tap is not None and leaf is None:
                leaf = torch.zeros((), device=weight.device, requires_grad=True)
            bias = layer.bias.detach() if isinstance(layer.bias, Tensor) else None
            layer.forward = partial(_call, leaf if tap is not None else None, weight, bias, tap)
        yield
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)  # the class's own method shows again


def _call(leaf: Tensor | None, weight: Tensor, bias: Tensor | None, tap: Tap | None, x: Tensor, *rows: Rows) -> Tensor:
    if x.dtype != weight.dtype:  # a router's product, in single precision
        tap = None if tap is None else _Narrowed(tap, weight.dtype)
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return _FrozenLinear.apply(x, leaf, weight, bias, tap, rows)  # type: ignore[return-value]


class _Narrowed:
    """Show a tap both sides in the type of the model."""

    def __init__(self, tap: Tap, dtype: torch.dtype) -> None:
        self.tap, self.dtype = tap, dtype

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> Any:
        return self.tap.forward(inputs.to(self.dtype))

    def backward(self, kept: Any, output_gradients: Tensor, rows: Rows | None = None) -> None:
        self.tap.backward(kept, output_gradients.to(self.dtype))
