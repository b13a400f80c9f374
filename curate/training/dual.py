"""Forward-over-reverse: an ordinary backward pass over dual numbers, which never builds a graph of second order.

Every parameter carries a tangent; so do then the activations, and, because the backward pass computes with them, the
gradients: the tangent of the gradient by the parameters is the Hessian times their tangents. Memory is a training
step's, twice.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class _Linear(torch.autograd.Function):
    """A linear layer whose weight's second derivative goes straight to where it is summed.

    Autograd would form the weight's gradient beside that gradient's tangent, and add up copies of both. The gradient is
    not wanted here, so a ninth of the products is saved, and memory.
    """

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
        return functional.linear(inputs, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.total = inputs[3]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        inputs, weight = ctx.saved_tensors
        moved, turned, shifted = tangents[:3]
        output = functional.linear(inputs, turned, shifted) if turned is not None else None
        if moved is None:
            assert output is not None
            return output
        carried = functional.linear(moved, weight)
        return carried if output is None else output.add_(carried)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (gradient,), (inputs, weight) = outputs, ctx.saved_tensors
        value, slope = _rows(gradient)
        seen, moved = _rows(inputs)
        if slope is not None:
            ctx.total.addmm_(slope.T, seen)
        if moved is not None:
            ctx.total.addmm_(value.T, moved)
        back = gradient @ weight if ctx.needs_input_grad[0] else None
        return back, None, gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None, None


class _Dual(TorchFunctionMode):
    """Replace what has no derivative of the wanted kind, or a slow one, while the model runs forward."""

    def __init__(self, totals: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.totals = totals

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _COMPOSED:
            return _COMPOSED[func](*args, **kwargs)
        if func is functional.linear:
            inputs, weight, bias = _arguments(*args, **kwargs)
            if (total := self.totals.get(id(weight))) is not None:
                return _Linear.apply(inputs, weight, bias, total)
        return func(*args, **kwargs)


@contextmanager
def dual(
    parameters: Mapping[str, Tensor], directions: Mapping[str, Tensor], totals: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, Tensor], TorchFunctionMode]]:
    """Yield leaves whose tangents are `directions`, and the mode under which a model is to run forward.

    What linear layers contribute to the Hessian product is added into `totals` during the backward pass; the rest comes
    as the tangents of the leaves' gradients.
    """
    _registered()
    with forward_ad.dual_level():
        leaves = {n: forward_ad.make_dual(p.detach().requires_grad_(), directions[n]) for n, p in parameters.items()}
        yield leaves, _Dual({id(leaf): totals[n] for n, leaf in leaves.items() if n in totals})


def parts(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return a dual tensor's value and its tangent, zeros if it has none."""
    primal, tangent = forward_ad.unpack_dual(value)
    return primal, torch.zeros_like(primal) if tangent is None else tangent


def _rows(value: Tensor) -> tuple[Tensor, Tensor | None]:
    primal, tangent = forward_ad.unpack_dual(value)
    return primal.flatten(0, -2), None if tangent is None else tangent.flatten(0, -2)


def _arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


class _Softmax(torch.autograd.Function):
    """Softmax over the last dimension with a backward of plain products; torch's own has no forward derivative."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return torch.softmax(values, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        moved = output * tangents[0]
        return moved.addcmul_(output, moved.sum(-1, keepdim=True), value=-1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        moved = output * outputs[0]
        return moved - output * moved.sum(-1, keepdim=True)


def _softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    values = input if dtype is None else input.to(dtype)
    dim = -1 if dim is None else dim
    if dim in (-1, values.ndim - 1):
        return _Softmax.apply(values)
    return _Softmax.apply(values.transpose(dim, -1)).transpose(dim, -1)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention in its plain form, without dropout; see torch's documentation of it."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _Softmax.apply(scores) @ value


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return input * torch.sigmoid(input)  # silu's own backward has no forward derivative


_COMPOSED: dict[Any, Any] = {
    functional.silu: _silu,
    functional.softmax: _softmax,
    functional.scaled_dot_product_attention: _attention,
}


@cache
def _registered() -> None:
    """Import what torch takes some second derivatives from (layer norm's), without its warning about its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import_module("torch._decomp.decompositions_for_jvp")
