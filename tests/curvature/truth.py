"""The slow truth about a background: each document's activations and gradients by hooks and autograd, one at a time."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curate.gradients.passes import Passes
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Of one document, per tracked layer, at scored positions where it says so."""

    inputs: dict[str, Tensor]
    """`[scored, d_in (+ 1)]`."""
    outputs: dict[str, Tensor]
    """Gradients at the outputs, `[scored, d_out]`."""
    gradients: dict[str, Tensor]
    """By the weights, over all positions, `[d_out, d_in (+ 1)]`."""


def truths(proxy: Proxy, passes: Passes, number: int) -> list[Truth]:
    """The truth about each sample of a pass, with the labels of that pass."""
    result = []
    for sample in passes.samples.values():
        tokens = sample.encoded
        labels = torch.from_numpy(tokens.ids[1:].astype(np.int64))
        if passes.sampled:
            labels = drawn(proxy, tokens, passes.uniforms([sample], number, len(tokens.ids))[0])
        result.append(truth_of(proxy, tokens, labels))
    return result


def drawn(proxy: Proxy, tokens: Encoded, uniforms: Tensor) -> Tensor:
    """What the model says at each position but the last, by the inverse of its distribution function."""
    with torch.no_grad():
        logits = proxy.model(input_ids=as_ids(tokens), use_cache=False).logits[0, :-1].double()
    cumulated = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulated, uniforms[: len(cumulated), None].double(), right=True).squeeze(-1)


def as_ids(tokens: Encoded) -> Tensor:
    return torch.from_numpy(tokens.ids.astype(np.int64))[None]


def truth_of(proxy: Proxy, tokens: Encoded, labels: Tensor) -> Truth:
    copy = deepcopy(proxy.model).requires_grad_(True)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name in proxy.tracked:
        copy.base_model.get_submodule(name).register_forward_hook(recorder(name, inputs, outputs))
    logits = copy(input_ids=as_ids(tokens), use_cache=False).logits[0, :-1].double()
    scored = torch.from_numpy(tokens.scored[1:])
    nn.functional.cross_entropy(logits[scored], labels[scored], reduction="sum").backward()
    positions = scored.nonzero().squeeze(-1)
    gradients, a, g = {}, {}, {}
    for name in proxy.tracked:
        layer: Any = copy.base_model.get_submodule(name)
        by_weights: Any = layer.weight.grad
        gradients[name] = by_weights.T if isinstance(layer, Conv1D) else by_weights
        a[name] = inputs[name].flatten(0, -2)[positions]
        slope = outputs[name].grad
        assert slope is not None
        g[name] = slope.flatten(0, -2)[positions]
        if layer.bias is not None:
            by_bias: Any = layer.bias.grad
            gradients[name] = torch.cat([gradients[name], by_bias[:, None]], 1)
            a[name] = torch.cat([a[name], torch.ones(len(positions), 1, dtype=torch.float64)], 1)
    return Truth(inputs=a, outputs=g, gradients=gradients)


def recorder(name: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> Any:
    def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[name], outputs[name] = arguments[0].detach(), output
        output.retain_grad()

    return hook


def mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).mean(0)
