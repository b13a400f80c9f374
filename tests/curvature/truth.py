"""The slow truth about a background: each document's activations and gradients by hooks and autograd, one at a time."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curate.gradients.passes import Passes, uniforms
from curate.proxies.probes import linear_layers
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.small_models import gradient_of


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
            labels = drawn(proxy, tokens, uniforms(passes.seed, number, [sample], len(tokens.ids))[0])
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
    layers, seen = linear_layers(copy.base_model)[0], dict[str, Tensor]()
    for name in proxy.tracked:
        layers[name].register_forward_hook(recorder(name, inputs, outputs, seen))
    logits = copy(input_ids=as_ids(tokens), use_cache=False).logits[0, :-1].double()
    scored = torch.from_numpy(tokens.scored[1:])
    nn.functional.cross_entropy(logits[scored], labels[scored], reduction="sum").backward()
    positions = scored.nonzero().squeeze(-1)
    gradients, a, g = {}, {}, {}
    for name in proxy.tracked:
        layer: Any = layers[name]
        d_out, d_in = layer.weight.shape if not isinstance(layer, Conv1D) else layer.weight.T.shape
        gradients[name] = gradient_of(copy.base_model, name)
        if name not in inputs:  # an expert that no token was sent to
            a[name], g[name] = torch.zeros(0, d_in).double(), torch.zeros(0, d_out).double()
        else:
            rows = torch.isin(seen[name], positions).nonzero().squeeze(-1) if name in seen else positions
            a[name] = inputs[name].flatten(0, -2)[rows]
            slope = outputs[name].grad
            assert slope is not None
            g[name] = slope.flatten(0, -2)[rows]
        if layer.bias is not None:
            a[name] = torch.cat([a[name], torch.ones(len(a[name]), 1, dtype=torch.float64)], 1)
    return Truth(inputs=a, outputs=g, gradients=gradients)


def recorder(name: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor], seen: dict[str, Tensor]) -> Any:
    def hook(_module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        inputs[name], outputs[name] = arguments[0].detach(), output
        if len(arguments) > 1:
            seen[name] = arguments[1].tokens
        output.retain_grad()

    return hook


def mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).mean(0)
