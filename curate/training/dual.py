"""Forward-over-reverse: an ordinary backward pass over dual numbers, which never builds a graph of second order.

Every parameter carries a tangent; so do then the activations, and, because the backward pass computes with them, the
gradients: the tangent of the gradient by the parameters is the Hessian times their tangents. Memory is a training
step's, twice.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from curate.gradients.labels import dual_level
from curate.training import dual_layers


class _Dual(TorchFunctionMode):
    """Replace functions without a forward derivative, or with a slow one, while the model runs forward."""

    def __init__(self, totals: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.totals = totals

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _COMPOSED:
            return _COMPOSED[func](*args, **kwargs)
        if func in _PRODUCTS and not kwargs and (product := dual_layers.times(*args)) is not None:
            return product
        if func is functional.linear:
            inputs, weight, bias = _arguments(*args, **kwargs)
            if (total := self.totals.get(id(weight))) is not None:
                return dual_layers.linear(inputs, weight, bias, total)
        if func is functional.embedding:
            ids, weight, is_plain = _table_arguments(*args, **kwargs)
            if is_plain and (total := self.totals.get(id(weight))) is not None:
                return dual_layers.embedding(ids, weight, total)
        return func(*args, **kwargs)


class Plain(TorchFunctionMode):
    """Add the gradients of linear layers' weights straight to totals, by the device's fastest product."""

    def __init__(self, leaves: Mapping[str, Tensor], totals: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.totals = {id(leaf): totals[n] for n, leaf in leaves.items() if n in totals}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear:
            inputs, weight, bias = _arguments(*args, **(kwargs or {}))
            if (total := self.totals.get(id(weight))) is not None:
                return dual_layers.plain_linear(inputs, weight, bias, total)
        return func(*args, **(kwargs or {}))


@contextmanager
def dual(
    parameters: Mapping[str, Tensor], directions: Mapping[str, Tensor], totals: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, Tensor], TorchFunctionMode]]:
    """Yield leaves whose tangents are `directions`, and the mode to run the model's forward pass in.

    What linear layers and tables contribute to the Hessian product is added into `totals` during the backward pass; the
    rest comes as the tangents of the leaves' gradients.
    """
    with dual_level():
        leaves = {n: forward_ad.make_dual(p.detach().requires_grad_(), directions[n]) for n, p in parameters.items()}
        yield leaves, _Dual({id(leaf): totals[n] for n, leaf in leaves.items() if n in totals})


def _arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _table_arguments(input: Tensor, weight: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor, bool]:
    """Return ids and table, and whether nothing but a look-up is wanted."""
    options = dict(zip(_TABLE_OPTIONS, rest, strict=False)) | named
    return input, weight, all(options.get(name, usual) == usual for name, usual in _TABLE_OPTIONS.items())


_TABLE_OPTIONS = {
    "padding_idx": None,
    "max_norm": None,
    "norm_type": 2.0,
    "scale_grad_by_freq": False,
    "sparse": False,
}
_COMPOSED: dict[Any, Any] = {
    functional.silu: dual_layers.silu,
    functional.softmax: dual_layers.softmax,
    functional.scaled_dot_product_attention: dual_layers.attention,
}
_PRODUCTS: frozenset[Any] = frozenset({torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__})
