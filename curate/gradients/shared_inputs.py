"""Which layers see the very same inputs: q, k and v; gate and up. What is made of inputs is then made once."""

from typing import Any

import torch
from torch import Tensor, nn

from curate.errors import CurateError
from curate.proxies.proxy import Proxy


def first_of_inputs(proxy: Proxy) -> dict[str, str]:
    """Return, by tracked layer, the first layer in the forward pass that sees the same inputs (often itself).

    The same means the same memory, unchanged in between, and a ones column for both or none. Found on a few tokens, all
    inputs held side by side so that no memory is used twice. Raises CurateError for a layer that a pass uses twice:
    its gradient would be the sum of both uses.
    """
    seen: dict[tuple[Any, ...], str] = {}
    first: dict[str, str] = {}
    held: list[Tensor] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if name in first:
                raise CurateError(
                    f"{type(proxy.model).__name__} uses the layer {name} twice in a pass, and has no gradient per use.",
                    hint="Leave it out with --modules.",
                )
            held.append(x)
            key = (x.data_ptr(), x._version, tuple(x.shape), x.stride(), proxy.shape(name)[2])
            first[name] = seen.setdefault(key, name)

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
    return first
