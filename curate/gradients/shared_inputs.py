"""Find layers that see the very same inputs (q, k and v; gate and up), so that work on inputs is done once."""

from typing import Any

import torch
from torch import Tensor, nn

from curate.errors import CurateError
from curate.proxies.proxy import Proxy


def input_leaders(proxy: Proxy) -> dict[str, str]:
    """Return every tracked layer's leader: the first layer in the forward pass that sees the same inputs.

    The same means the same memory, unchanged in between, and a ones column for both or none. A layer may be its own
    leader. Runs a few tokens and holds all their inputs, so that no memory is used twice.

    Raises CurateError for a layer that a pass uses twice: its gradient would be the sum of both uses.
    """
    leader_of_memory: dict[tuple[Any, ...], str] = {}
    leaders: dict[str, str] = {}
    held: list[Tensor] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0]
            if name in leaders:
                raise CurateError(
                    f"{type(proxy.model).__name__} uses the layer {name} twice in a pass, and has no gradient per use.",
                    hint="Leave it out with --modules.",
                )
            held.append(x)
            key = (x.data_ptr(), x._version, tuple(x.shape), x.stride(), proxy.shape(name)[2])
            leaders[name] = leader_of_memory.setdefault(key, name)

        return hook

    hooks = [proxy.linears[n].register_forward_pre_hook(note(n)) for n in proxy.tracked]
    vocabulary = int(proxy.model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]
    ids = torch.arange(10, device=proxy.device).view(2, 5) % vocabulary
    try:
        with torch.no_grad():
            proxy.decoder(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    # An expert that none of these tokens chose sees no other layer's rows.
    return leaders | {name: name for name in proxy.tracked if name not in leaders}
