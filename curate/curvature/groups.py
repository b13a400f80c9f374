"""Layers in groups, for curvatures that do not fit a device's memory together: each group has passes of its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from curate.curvature.eigenbasis import joined
from curate.gradients.passes import Passes
from curate.memory import free_bytes
from curate.proxies.proxy import Proxy
from curate.proxies.tables import counted_tables

# Of the free memory; the rest is for the batches.
SHARE = 0.5


def layer_groups(proxy: Proxy, free: int | None) -> list[tuple[str, ...]]:
    """Cut a proxy's tracked layers into runs whose factors and eigenvalues fit into a share of `free` bytes; None: one.

    A layer that does not fit by itself is a group of its own. The tables are in the first group.
    """
    if free is None:
        return [proxy.tracked]
    groups: list[list[str]] = [[]]
    number = 8 if proxy.settings.dtype == "float64" else 4
    held = number * sum(2 * width**2 + 2 * rows * width for rows, width in (t.shape for t in counted_tables(proxy)))
    for name in proxy.tracked:
        d_out, d_in, has_bias = proxy.shape(name)
        width = d_in + has_bias
        needed = number * (d_out**2 + width**2 + 2 * d_out * width)
        if groups[-1] and held + needed > SHARE * free:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += needed
    return [tuple(group) for group in groups]


def fit_in_groups(
    proxy: Proxy,
    passes: Callable[[Proxy], Passes],
    fit: Callable[[Passes], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Fit a curvature group by group; `passes` are those of a proxy that tracks one. Returns tensors on the CPU."""
    groups = layer_groups(proxy, free_bytes(proxy.device))
    proxies = [replace(proxy, tracked=group, tables=() if i else proxy.tables) for i, group in enumerate(groups)]
    return joined([{name: tensor.cpu() for name, tensor in fit(passes(part)).items()} for part in proxies])
