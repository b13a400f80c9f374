"""From a proxy to the model that trains, and from a step of its training to a proxy and directions that score."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from curate.errors import SettingsError
from curate.gradients.directions import Directions
from curate.proxies.proxy import DTYPES, Proxy, make_proxy, matrix_of, parameters_of, vector_of
from curate.proxies.tables import counted_tables
from curate.training.language import LanguageModel
from curate.training.optimisers import Tensors
from curate.training.recipe import Recipe


def in_proxys_precision(recipe: Recipe, proxy: Proxy) -> Recipe:
    """Return the recipe in a precision no coarser than the proxy's own."""
    return replace(recipe, precision="float64") if proxy.dtype == torch.float64 else recipe


def trainable(proxy: Proxy, recipe: Recipe) -> LanguageModel:
    """Return a copy of the proxy's model that a recipe trains.

    Raises SettingsError for layers chosen by glob where adapters are trained instead.
    """
    if recipe.lora_rank and proxy.settings.modules:
        raise SettingsError(
            "--modules chooses layers of the proxy, but with lora_rank only adapters are trained.",
            hint="Name the layers that get adapters with lora_targets instead.",
        )
    return LanguageModel(deepcopy(proxy.model, _shared(proxy, recipe)), recipe)


def _shared(proxy: Proxy, recipe: Recipe) -> dict[int, nn.Parameter]:
    """Return what a copy of the proxy's model may share with it, as `deepcopy` takes it: what never changes."""
    if not recipe.lora_rank or proxy.dtype != DTYPES[recipe.precision]:
        return {}
    return {id(p): p for n, p in proxy.model.named_parameters() if "lora_" not in n}


def scoring_proxy(proxy: Proxy, recipe: Recipe, parameters: Tensors) -> Proxy:
    """Return the proxy as it was during the training, in its own precision, tracking the layers that were trained.

    Where adapters were trained, they are the tracked layers.
    """
    model = trainable(proxy, recipe).model
    model.load_state_dict(parameters, strict=False)
    scoring = make_proxy(model.to(proxy.dtype), proxy.tokenizer, proxy.settings)  # type: ignore[arg-type]
    names = _parameter_names(scoring)
    return replace(
        scoring,
        tracked=tuple(n for n in scoring.tracked if names[n][0] in parameters),
        tables=tuple(n for n in proxy.tables if n in parameters),
    )


def directions_of(proxy: Proxy, targets: Sequence[Tensors]) -> Directions:
    """Return the parts of full directions (one set of tensors per target) that belong to tracked layers and tables."""
    directions: dict[str, Tensor] = {}
    for name, (weight, bias) in _parameter_names(proxy).items():
        layer = proxy.linears[name]
        matrices = []
        for tensors in targets:
            shift = None if bias is None else vector_of(layer, tensors[bias])
            matrices.append(_beside(matrix_of(layer, tensors[weight]), shift))
        directions[name] = torch.stack(matrices)
    for table in counted_tables(proxy):
        shifts = [None if table.bias is None else tensors[table.bias] for tensors in targets]
        matrices = [_beside(tensors[table.name], shift) for tensors, shift in zip(targets, shifts, strict=True)]
        directions[table.name] = torch.stack(matrices)
    return directions


def _beside(matrix: Tensor, shift: Tensor | None) -> Tensor:
    return matrix if shift is None else torch.cat([matrix, shift[:, None]], 1)


def covered(proxy: Proxy, parameters: Tensors) -> tuple[int, int]:
    """Return how many trained parameters are in tracked layers and tables, and how many there are in all."""
    named = {name for pair in _parameter_names(proxy).values() for name in pair if name}
    named |= {name for table in counted_tables(proxy) for name in (table.name, table.bias) if name}
    return sum(p.numel() for n, p in parameters.items() if n in named), sum(p.numel() for p in parameters.values())


def _parameter_names(proxy: Proxy) -> dict[str, tuple[str, str | None]]:
    """Return each tracked layer's weight and bias by the model's names for them."""
    names = {id(p): n for n, p in proxy.model.named_parameters()}
    pairs = {name: parameters_of(proxy.linears[name]) for name in proxy.tracked}
    return {
        name: (names[id(weight)], None if bias is None else names[id(bias)]) for name, (weight, bias) in pairs.items()
    }
