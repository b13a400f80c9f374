"""Mean of a document's hidden states after the proxy's first layers: dearer than the others, and reads word order."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from curate.errors import CurateError, SettingsError
from curate.proxies.devices import products
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, TokenBatch
from curate.students.contract import Inputs, Reader

NEEDS = frozenset({"model"})


class _Reached(Exception):
    """The last layer that is wanted has been run; `states` is what it gave."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def read(inputs: Inputs) -> Reader:
    """Return what passes documents through the first layers. Raises SettingsError for more than the proxy has."""
    proxy, batching = inputs.model
    layer = _layer(proxy, inputs.layers)

    @torch.no_grad()
    def means(encoded: Sequence[Encoded]) -> np.ndarray:
        whole = [replace(e, scored=np.ones(len(e.ids), bool)) for e in encoded]  # windows of mere prompt count, too
        sums, totals = torch.zeros(len(encoded), 0), torch.zeros(len(encoded))

        def add_up(batch: TokenBatch) -> tuple[Tensor, Tensor]:
            position, start = torch.arange(batch.ids.shape[1])[None], torch.tensor(batch.starts)[:, None]
            lengths = torch.tensor([len(whole[i].ids) for i in batch.documents])[:, None] - start
            counted = (position < lengths) & ((position > 0) | (start == 0))  # a window repeats one token
            states = _states(proxy, layer, batch.to(proxy.device).ids)
            return torch.einsum("st,std->sd", counted.to(states), states).cpu(), counted.sum(1)

        for batch, (states, counts) in batching.run("embedding", whole, add_up):
            sums = sums if sums.shape[1] else states.new_zeros(len(encoded), states.shape[1])
            sums.index_add_(0, torch.tensor(batch.documents), states)
            totals.index_add_(0, torch.tensor(batch.documents), counts.to(totals))
        return (sums / totals.clamp_min(1)[:, None]).numpy()

    return means


def _layer(proxy: Proxy, layers: int | None) -> nn.Module:
    """Return the last layer to run, of the longest list of modules in the decoder."""
    lists = [m for m in proxy.decoder.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise CurateError(
            "The student 'hidden' finds no list of layers in this proxy.", hint="Choose --student embeddings."
        )
    stack = max(lists, key=len)
    number = layers or max(1, len(stack) // 2)
    if number > len(stack):
        raise SettingsError(f"layers is {number}; the proxy has {len(stack)}.", hint=f"Give --layers {len(stack)}.")
    return stack[number - 1]


def _states(proxy: Proxy, layer: nn.Module, ids: Tensor) -> Tensor:
    """Run the decoder up to a layer and return its states, float32 `[sequences, tokens, d]`."""

    def stop(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        raise _Reached(output if isinstance(output, Tensor) else output[0])

    hook = layer.register_forward_hook(stop)
    try:
        with products(proxy.settings.precision):
            proxy.decoder(input_ids=ids, use_cache=False)
    except _Reached as reached:
        return reached.states.float()
    finally:
        hook.remove()
    raise AssertionError("the decoder has not run its layers")
