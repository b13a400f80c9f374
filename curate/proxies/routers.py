"""Routers of experts, which hold a weight and multiply by it themselves, as linear layers.

A router's forward pass is left as it is, but for its one product by its own weight: that is made by a layer, which
whatever works on linear layers can take hold of.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Kept in the module's own dictionary: as a sub-module, a layer would hold its own parent.
_LAYER = "curate_router"
# In single precision whatever the model's, in many routers.
_CASTS = (torch.Tensor.type, torch.Tensor.float, torch.Tensor.to)


class RouterLinear(nn.Module):
    """The product by a router's weight. Its inputs may be of another type than the weight."""

    owner: Any
    """The router."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.__dict__["owner"] = owner

    @property
    def weight(self) -> Float[Tensor, "n d"]:
        return self.owner.weight

    @property
    def bias(self) -> Float[Tensor, "n"] | None:
        return getattr(self.owner, "bias", None)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """Apply the layer in the type of its inputs."""
        return functional.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def expose_router(module: nn.Module) -> None:
    """Have a module's product by its own weight made by a layer; a module without one stays as it is."""
    weight = module._parameters.get("weight")
    if weight is not None and weight.ndim == 2 and type(module) is not nn.Linear:
        module.__dict__[_LAYER] = RouterLinear(module)
        module.__dict__["forward"] = partial(_forward, module)


def router_layer(module: nn.Module) -> RouterLinear | None:
    """Return the layer of a router; None for any other module."""
    return vars(module).get(_LAYER)


def _forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with _Products(vars(module)[_LAYER]):
        return type(module).forward(module, *args, **kwargs)


class _Products(TorchFunctionMode):
    """Send products by a router's weight, or by its copy in another type, through the layer."""

    def __init__(self, layer: RouterLinear) -> None:
        super().__init__()
        self.layer, self.copies = layer, list[Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            x, weight, bias = _arguments(*args, **kwargs)
            whole = weight is self.layer.weight or any(weight is copy for copy in self.copies)
            if whole and bias is self.layer.bias:
                return self.layer(x)
        result = func(*args, **kwargs)
        if func in _CASTS and args[0] is self.layer.weight:
            self.copies.append(result)
        return result


def _arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias
