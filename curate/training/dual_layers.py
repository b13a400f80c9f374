"""Layers with a backward pass for dual numbers by hand: where torch's has no forward derivative, or wastes time.

Each computes with values and tangents apart: the dual of a·b is (a·b, a′·b + a·b′).
"""

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import functional

from curate.gradients.linear import linear as fast_linear


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
    """Apply torch's linear; add `weight`'s part of the Hessian product to `total` in the backward pass."""
    return _Linear.apply(inputs, weight, bias, total)


def embedding(ids: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Look up rows of a table; add its part of the Hessian product to `total` in the backward pass."""
    return _Embedding.apply(ids, weight, total)


def plain_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
    """Apply torch's linear without tangents; add `weight`'s gradient to `total` in the backward pass."""
    return _PlainLinear.apply(inputs, weight, bias, total)  # type: ignore[return-value]


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Apply torch's softmax."""
    values = input if dtype is None else input.to(dtype)
    dim = -1 if dim is None else dim
    if dim in (-1, values.ndim - 1):
        return _Softmax.apply(values)
    return _Softmax.apply(values.transpose(dim, -1)).transpose(dim, -1)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Apply scaled dot-product attention in its plain form, without dropout; see torch's documentation."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    query = query * factor if (scaled := times(query, factor)) is None else scaled
    mask = attn_mask
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, -torch.inf)
    return _Attention.apply(query, key, value, mask)[0]


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Apply torch's SiLU, never in place."""
    return _Silu.apply(input)


def times(left: Tensor | float, right: Tensor | float) -> Tensor | None:
    """Multiply a tensor that has a tangent by one that has none, or by a number; None for any other two factors.

    torch takes the missing tangent for a tensor of zeros, whose sums and products it works out in Python.
    """
    for factor, constant in ((left, right), (right, left)):
        if isinstance(factor, Tensor) and _is_dual(factor) and _is_constant(constant, factor):
            return _Times.apply(factor, constant)
    return None


def _is_dual(value: Tensor) -> bool:
    return forward_ad.unpack_dual(value).tangent is not None


def _is_constant(value: Tensor | float, factor: Tensor) -> bool:
    """Return whether a factor has no derivative, and leaves the other one its shape and type."""
    if not isinstance(value, Tensor):
        return isinstance(value, float | int)
    if value.requires_grad or value.dtype != factor.dtype or _is_dual(value):
        return False
    shape, whole = value.shape, factor.shape
    return len(shape) <= len(whole) and all(a in (1, b) for a, b in zip(shape[::-1], whole[::-1], strict=False))


class _Times(torch.autograd.Function):
    """A product with a constant."""

    @staticmethod
    def forward(factor: Tensor, constant: Tensor | float) -> Tensor:
        return factor * constant

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.constant = inputs[1]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0] * ctx.constant

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        gradient, tangent = forward_ad.unpack_dual(outputs[0])
        back = gradient * ctx.constant
        return back if tangent is None else forward_ad.make_dual(back, tangent * ctx.constant), None


class _Linear(torch.autograd.Function):
    """A linear layer whose weight's second derivative goes straight to where it is summed.

    Autograd would form the weight's gradient beside that gradient's tangent, and add up copies of both. The gradient is
    not wanted here, so a ninth of the products is saved, and memory.
    """

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
        return fast_linear(inputs, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.total = inputs[3]

    @staticmethod
    @torch.no_grad()
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        inputs, weight = (forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors)
        moved, turned, shifted = tangents[:3]
        output = fast_linear(inputs, turned, shifted) if turned is not None else None
        if moved is None:
            assert output is not None
            return output
        carried = fast_linear(moved, weight)
        return carried if output is None else output.add_(carried)

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (gradient,), (inputs, weight) = outputs, ctx.saved_tensors
        value, slope = _flattened(gradient)
        values, moved = _flattened(inputs)
        if slope is not None:
            ctx.total.addmm_(slope.T, values)
        if moved is not None:
            ctx.total.addmm_(value.T, moved)
        back = _dual_back(gradient, weight) if ctx.needs_input_grad[0] else None
        return back, None, gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None, None


class _Embedding(torch.autograd.Function):
    """A table whose second derivative goes straight to where it is summed; autograd would form it whole, beside the
    gradient, for every micro-batch."""

    @staticmethod
    def forward(ids: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        return functional.embedding(ids, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ids, ctx.total = inputs[0], inputs[2]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        assert tangents[1] is not None
        return functional.embedding(ctx.ids, tangents[1])

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, *outputs: Tensor) -> tuple[None, None, None]:
        slope = forward_ad.unpack_dual(outputs[0]).tangent
        if slope is not None:
            ctx.total.index_add_(0, ctx.ids.flatten(), slope.flatten(0, -2))
        return None, None, None


def _dual_back(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return `gradient @ weight`, of duals."""
    (value, slope), (matrix, turned) = forward_ad.unpack_dual(gradient), forward_ad.unpack_dual(weight)
    back = fast_linear(value, matrix.T)
    carried = [fast_linear(a, b.T) for a, b in ((slope, matrix), (value, turned)) if a is not None and b is not None]
    if not carried:
        return back
    return forward_ad.make_dual(back, carried[0] if len(carried) == 1 else carried[0].add_(carried[1]))


class _PlainLinear(torch.autograd.Function):
    """A linear layer whose weight's gradient goes straight to where it is summed."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.total = total
        return fast_linear(inputs, weight, bias)

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (gradient,), (inputs, weight) = outputs, ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        ctx.total.addmm_(flat.T, inputs.flatten(0, -2))
        back = fast_linear(gradient, weight.T) if ctx.needs_input_grad[0] else None
        return back, None, flat.sum(0) if ctx.needs_input_grad[2] else None, None


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


class _Silu(torch.autograd.Function):
    """x·σ(x), whose derivatives are σ(1 + x(1 - σ)) and σ(1 - σ)(2 + x(1 - 2σ))."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return functional.silu(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return _slope(values, torch.sigmoid(values)).mul_(tangents[0])

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        (saved,) = ctx.saved_tensors
        (values, moved), (gradient, turned) = parts(saved), parts(outputs[0])
        gate = torch.sigmoid(values)
        slope = _slope(values, gate)
        bend = (1 - 2 * gate).mul_(values).add_(2).mul_(gate).mul_(1 - gate).mul_(moved).mul_(gradient)
        return forward_ad.make_dual(gradient * slope, bend.addcmul_(turned, slope))


def _slope(values: Tensor, gate: Tensor) -> Tensor:
    return (1 - gate).mul_(values).add_(1).mul_(gate)


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ + mask) v. The probabilities are an output, too, so that the backward pass has their tangent."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        scores = query @ key.mT
        chances = torch.softmax(scores if mask is None else scores + mask, -1)
        return chances @ value, chances

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], output[1])
        ctx.save_for_forward(*inputs[:3], output[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        query, key, value, chances = (forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors)
        turned = [torch.zeros_like(t) if d is None else d for t, d in zip((query, key, value), tangents, strict=False)]
        moved = torch.cat([turned[0], query], -1) @ torch.cat([key, turned[1]], -1).mT
        moved = _through_softmax(chances, moved)
        return _product_rule(moved, chances, value, turned[2]), moved

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
        assert outputs[0] is not None
        (query, query_t), (key, key_t), (value, value_t), (chances, chances_t) = map(parts, ctx.saved_tensors)
        gradient, gradient_t = parts(outputs[0])
        stacked = torch.cat([gradient_t, gradient], -1)
        along = gradient @ value.mT
        along_t = stacked @ torch.cat([value, value_t], -1).mT
        centred = along - (chances * along).sum(-1, keepdim=True)
        scores = chances * centred
        scores_t = _through_softmax(chances, along_t, shift=(chances_t * along).sum(-1, keepdim=True))
        scores_t.addcmul_(chances_t, centred)
        return (
            forward_ad.make_dual(scores @ key, _product_rule(scores_t, scores, key, key_t)),
            forward_ad.make_dual(scores.mT @ query, _product_rule(scores_t.mT, scores.mT, query, query_t)),
            forward_ad.make_dual(chances.mT @ gradient, _product_rule(chances_t.mT, chances.mT, gradient, gradient_t)),
            None,
        )


def _product_rule(moved: Tensor, left: Tensor, right: Tensor, turned: Tensor) -> Tensor:
    """Return a′·b + a·b′. Two products write less than one of a and a′ joined, which are tokens by tokens."""
    return (moved @ right).add_(left @ turned)


def _through_softmax(chances: Tensor, moved: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Return p ⊙ (x - ⟨p, x⟩ - shift): softmax's derivative along x, which is also its transpose."""
    moved = chances * moved
    return moved.addcmul_(chances, moved.sum(-1, keepdim=True) + shift, value=-1)


def parts(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return a dual tensor's value and its tangent, zeros if it has none."""
    primal, tangent = forward_ad.unpack_dual(value)
    return primal, torch.zeros_like(primal) if tangent is None else tangent


def _flattened(value: Tensor) -> tuple[Tensor, Tensor | None]:
    primal, tangent = forward_ad.unpack_dual(value)
    return primal.flatten(0, -2), None if tangent is None else tangent.flatten(0, -2)
