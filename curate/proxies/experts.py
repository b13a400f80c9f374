"""Routed experts whose weights are fused into one tensor `[experts, …]`, computed as a linear layer per expert.

transformers lets a model's experts be computed by any registered function. The one here calls a layer for each expert
that has tokens, so that whatever works on linear layers works on every expert. A layer holds no weights: it reads its
slice of the fused tensor, also after that was moved, converted, copied or replaced.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from curate.proxies.routers import expose_router

_NAME = "curate"
# Kept in the module's own dictionary: as a sub-module, a layer would hold its own parent.
_LAYERS = "curate_experts"


@dataclass(frozen=True, eq=False)
class Rows:
    """The tokens of a batch that one expert sees."""

    tokens: Int[Tensor, "tokens"]
    """Flat positions in the batch, ascending."""
    _number: int
    _experts: "_Experts"

    @classmethod
    def of_experts(cls, tokens: Sequence[Tensor]) -> list["Rows"]:
        """Return the rows of each of the experts that a batch goes through."""
        experts = _Experts(tokens)
        return [cls(seen, number, experts) for number, seen in enumerate(tokens)]

    def by_sequence(self, x: Float[Tensor, "rows width"], shape: torch.Size) -> Float[Tensor, "sequences slots width"]:
        """Give every sequence as many slots as the fullest needs; slots without a row are zero.

        `shape` is the batch's `[sequences, tokens]`.
        """
        slots, places = self._experts.places(shape)[self._number]
        return x.new_zeros(shape[0] * slots, x.shape[1]).index_copy_(0, places, x).view(shape[0], slots, -1)


@dataclass(frozen=True, eq=False)
class _Experts:
    """The tokens of all experts of one pass, whose places in sequences are found at once: a GPU is waited for once."""

    tokens: Sequence[Tensor]
    _places: dict[torch.Size, list[tuple[int, Tensor]]] = field(default_factory=dict, repr=False)

    def places(self, shape: torch.Size) -> list[tuple[int, Tensor]]:
        """Return each expert's slots per sequence, and its tokens' places among the slots of all sequences."""
        if shape not in self._places:
            self._places[shape] = list(self._found(*shape))
        return self._places[shape]

    def _found(self, sequences: int, length: int) -> Iterator[tuple[int, Tensor]]:
        edges = torch.arange(sequences + 1, device=self.tokens[0].device) * length
        starts = [torch.searchsorted(tokens, edges) for tokens in self.tokens]
        most = torch.stack([start.diff().max() for start in starts]).tolist()
        for tokens, start, slots in zip(self.tokens, starts, most, strict=True):
            sequence = tokens // length
            yield slots, sequence * slots + torch.arange(len(tokens), device=edges.device) - start[sequence]


class ExpertLinear(nn.Module):
    """One expert's slice of a fused weight, as a linear layer."""

    owner: Any
    """The module of all experts."""

    def __init__(self, owner: nn.Module, kind: str, expert: int) -> None:
        super().__init__()
        self.__dict__["owner"] = owner
        self.kind, self.expert = kind, expert

    def fused_name(self, name: str) -> str:
        """Return the name of the fused weight from this layer's."""
        return f"{name.rsplit('.', 2)[0]}.{self.kind}"

    @property
    def fused(self) -> nn.Parameter:
        """The weight of all experts."""
        return getattr(self.owner, self.kind)

    @property
    def fused_bias(self) -> nn.Parameter | None:
        return getattr(self.owner, f"{self.kind}_bias") if self.owner.has_bias else None

    def matrix(self, fused: Float[Tensor, "experts _ _"]) -> Float[Tensor, "d_out d_in"]:
        """Return this expert's part of a tensor that is laid out as the fused weight."""
        return fused[self.expert].T if self.owner.is_transposed else fused[self.expert]

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        return self.matrix(self.fused)

    @property
    def bias(self) -> Float[Tensor, "d_out"] | None:
        return None if self.fused_bias is None else self.fused_bias[self.expert]

    def forward(self, x: Float[Tensor, "rows d_in"], rows: Rows) -> Float[Tensor, "rows d_out"]:
        """Apply the layer; `rows` says which tokens x is of."""
        return functional.linear(x, self.weight, self.bias)


def expose_experts(model: PreTrainedModel) -> None:
    """Have a model's fused experts and the routers beside them computed by layers, where all of them allow it."""
    fused: list[Any] = [m for m in model.modules() if hasattr(m, "_is_expert_parallel")]
    if not fused or not model._can_set_experts_implementation():
        return
    if not all(_is_plain(m) for m in fused):
        if model.dtype == torch.float64:
            model.set_experts_implementation("eager")  # grouped products have no float64
        return
    model.set_experts_implementation(_NAME)
    for module in model.modules():
        children = list(module.children())
        if any(child in fused for child in children):
            for child in children:
                expose_router(child)
    for module in fused:
        kinds = ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")
        module.__dict__[_LAYERS] = [
            tuple(ExpertLinear(module, kind, expert) for kind in kinds) for expert in range(module.down_proj.shape[0])
        ]


def expert_layers(module: nn.Module) -> dict[str, ExpertLinear]:
    """Return the layers of a module of fused experts by their names below it; none for any other module."""
    return {f"{layer.expert}.{layer.kind}": layer for pair in vars(module).get(_LAYERS, ()) for layer in pair}


def _is_plain(module: Any) -> bool:
    weights = [getattr(module, name, None) for name in ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")]
    whole = all(isinstance(w, Tensor) and w.ndim == 3 and w.is_floating_point() and w.itemsize > 1 for w in weights)
    return whole and not module._is_expert_parallel


def _compute(
    module: Any,
    hidden_states: Float[Tensor, "tokens d"],
    top_k_index: Int[Tensor, "tokens k"],
    top_k_weights: Float[Tensor, "tokens k"],
) -> Float[Tensor, "tokens d"]:
    """Compute fused experts; a token's choice beyond the last expert adds nothing."""
    layers = vars(module)[_LAYERS]
    chosen, order = top_k_index.flatten().sort(stable=True)
    edges = torch.searchsorted(chosen, torch.arange(len(layers) + 1, device=chosen.device)).tolist()
    order = order[edges[0] : edges[-1]]
    tokens = order // top_k_index.shape[1]
    sizes = [end - start for start, end in pairwise(edges)]
    outputs = []
    of_experts = Rows.of_experts(tokens.split(sizes))
    for (up, down), x, rows in zip(layers, hidden_states[tokens].split(sizes), of_experts, strict=True):
        if len(x):
            inner = up(x, rows)
            inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
            outputs.append(down(inner, rows))
    if not outputs:
        return torch.zeros_like(hidden_states)
    output = torch.cat(outputs)
    if module.has_post_expert_norm:
        output = module.post_expert_norm(output)
    weighted = output * top_k_weights.flatten()[order, None]
    # Every choice at its own place, then a sum in the order of choice: nothing is added in an order that may vary.
    placed = weighted.new_zeros(top_k_index.numel(), output.shape[1]).index_copy(0, order, weighted)
    return placed.view(*top_k_index.shape, -1).sum(1).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(_NAME, _compute)
