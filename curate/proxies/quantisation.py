"""Quantised models: which can be read here, as the linear layers that they stand for, and why others cannot.

A weight in 4 or 8 bits stands for the matrix that it is unpacked to, and everything is computed with that matrix. The
kernels that ship with these formats do something else on some devices: LLM.int8 rounds a token's inputs by what else
is in the batch, and a CPU's product of 4 bits has no gradient.
"""

from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from curate.errors import CurateError

# By what configurations call the format: the package that reads it.
_PACKAGES = {"bitsandbytes": "bitsandbytes", "torchao": "torchao"}
_HINT = "Give a copy in full precision: load it where {} runs, `model.dequantize()`, then `save_pretrained`."


def refuse_quantised(config: Any, source: str) -> bool:
    """Say whether weights are quantised; raise CurateError, before they are read, where they cannot be unpacked."""
    quantisation = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if not quantisation:
        return False
    settings = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")) or "unknown")
    bits = " in 4 bits" if settings.get("load_in_4bit") else " in 8 bits" if settings.get("load_in_8bit") else ""
    package, expected = _PACKAGES.get(method), "expected weights in float32, bfloat16 or float16"
    if package is None:
        raise CurateError(f"{source} is quantised by {method}{bits}; {expected}.", hint=_HINT.format(method))
    if find_spec(package) is None:
        raise CurateError(
            f"{source} is quantised by {method}{bits}; {expected}, or the package {package} to unpack them.",
            hint=f"pip install {package}. {_HINT.format(method)}",
        )
    return True


class Packed(nn.Module):
    """A frozen linear layer of bitsandbytes, whose weight is unpacked for the length of each product."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        return _unpacked(self.layer)

    @property
    def bias(self) -> Float[Tensor, "d_out"] | None:
        return self.layer.bias

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        out: Any = _Product.apply(x, self, False)
        return out if self.bias is None else out + self.bias


class _Product(torch.autograd.Function):
    """x Wᵀ, or x W if transposed; linear in x, so that each of its derivatives is a product of the same kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed, transposed: bool) -> Tensor:
        ctx.layer, ctx.transposed = layer, transposed
        weight = layer.weight.to(x.dtype)
        return nn.functional.linear(x, weight.T if transposed else weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Product.apply(grads[0], ctx.layer, not ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Product.apply(tangents[0], ctx.layer, ctx.transposed)


def unpack(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Put ordinary layers of that type in the place of quantised ones, one after the other."""
    _replace(model, lambda layer: _plain(layer, dtype))
    _unpack_torchaos(model, dtype)
    cast(model, dtype)
    _forget(model)


def unpack_head(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Leave no layer quantised but those of bitsandbytes below the head, whose weight the loss is taken from."""
    head: Any = model.get_output_embeddings()
    if _is_bitsandbytes(head):
        model.set_output_embeddings(_plain(head, dtype))
    _unpack_torchaos(model, dtype)
    cast(model, dtype)  # what is not quantised comes in its file's type


def keep_packed(model: PreTrainedModel) -> None:
    """Leave layers of bitsandbytes quantised, and compute with their unpacked weights from now on."""
    _replace(model, Packed)
    _forget(model)


def unpack_kept(model: nn.Module, dtype: torch.dtype) -> None:
    """Put ordinary layers in the place of those that `keep_packed` left quantised, so that they can be trained."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Packed):
            model.set_submodule(name, _plain(module.layer, dtype))


def cast(model: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Give parameters a type, and move them, but for quantised ones; buffers stay as the model made them."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(device=device, dtype=dtype)


def size(parameter: Tensor) -> int:
    """Return the numbers that a parameter holds, two in a byte of it where it is quantised to 4 bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else torch.Size(state.shape).numel()


def _unpack_torchaos(model: nn.Module, dtype: torch.dtype) -> None:
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None and _is_torchaos(weight):
                module._parameters[name] = nn.Parameter(weight.dequantize().to(dtype), requires_grad=False)


def _replace(model: nn.Module, make: Any) -> None:
    for name, module in list(model.named_modules()):
        if _is_bitsandbytes(module):
            model.set_submodule(name, make(module))


def _is_bitsandbytes(module: nn.Module) -> bool:
    # peft's layers around them show the same weight.
    of_package = type(module).__module__.startswith("bitsandbytes.")
    return of_package and type(getattr(module, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def _is_torchaos(weight: Tensor) -> bool:
    return type(weight.data).__module__.startswith("torchao.")


def _plain(layer: Any, dtype: torch.dtype) -> nn.Linear:
    with torch.device("meta"):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight = nn.Parameter(_unpacked(layer).to(dtype), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
    return plain


def _unpacked(layer: Any) -> Float[Tensor, "d_out d_in"]:
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    return dequantize_bnb_weight(layer.weight, getattr(layer, "state", None)).detach()


def _forget(model: Any) -> None:
    """Let transformers treat the model as any other."""
    model.is_quantized = False
    for name in ("hf_quantizer", "quantization_method", "_weight_conversions"):  # the last would be undone on saving
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
