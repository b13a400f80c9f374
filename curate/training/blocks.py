"""From a model's last hidden states to its losses and their derivatives, a block of tokens at a time.

Logits `[tokens, vocabulary]` and their gradient are most of what a training step of a small model holds. Here a block
of them lives until its products are done.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from curate.gradients.head import Head
from curate.proxies.probes import decoder_of
from curate.training.dual_layers import parts
from curate.training.optimisers import Tensors
from curate.training.swept_head import Tangents, Totals, derivatives

# Tokens that are turned into probabilities at a time.
ROWS = 256


class Output(Protocol):
    """A model in two halves: up to its last tensor with a graph, and from there to the losses without one."""

    @property
    def runs(self) -> nn.Module:
        """What the first half runs."""
        ...

    def last(self, parameters: Tensors, ids: Int[Tensor, "sequences tokens"]) -> Float[Tensor, "sequences tokens d"]:
        """Run the first half."""
        ...

    def losses(self, parameters: Tensors, last: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return every token's cross-entropy; 0 where its label is negative."""
        ...

    def derivatives(
        self,
        parameters: Tensors,
        last: Float[Tensor, "n d"],
        labels: Int[Tensor, "n"],
        coefficients: Float[Tensor, "n"],
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n d"], Tensors]:
        """Return every token's cross-entropy, and their weighted sum's gradients by `last` and what comes after."""
        ...

    def products(
        self,
        parameters: Tensors,
        directions: Tensors,
        last: Float[Tensor, "n d"],
        labels: Int[Tensor, "n"],
        coefficients: Float[Tensor, "n"] | None,
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n d"], Tensors]:
        """Return every token's slope; given coefficients also the dual gradient by a dual `last`.

        Third come the tangents of the gradients by what comes after.
        """
        ...


def output_of(model: PreTrainedModel, trained: list[str]) -> Output:
    """Return the halves of a model: cut before its head, or after it where that is more than a linear layer.

    `trained` are the names of the parameters that are handed in.
    """
    layer, decoder = model.get_output_embeddings(), decoder_of(model)
    whole = WholeLogits(model)
    if type(layer) is not nn.Linear or decoder is model:
        return whole
    names = {id(p): n for n, p in model.named_parameters() if n in trained}
    cut = BlockedHead(
        decoder=decoder,
        prefix=next(f"{n}." for n, m in model.named_modules() if m is decoder),
        head=Head.of(model),
        weight=names.get(id(layer.weight)),
        bias=names.get(id(layer.bias)),
    )
    return cut if _agree(cut, whole, model.device) else whole


@torch.no_grad()
def _agree(cut: "BlockedHead", whole: Output, device: torch.device) -> bool:
    """Compare losses on a few tokens: architectures hide scales and caps after the head."""
    vocabulary = cut.head.weight.shape[0]
    ids = torch.arange(1, 9, device=device).remainder(vocabulary)[None]
    one, other = (half.losses({}, half.last({}, ids).flatten(0, 1), ids[0].roll(-1)) for half in (cut, whole))
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class WholeLogits:
    """Every logit at once."""

    model: nn.Module

    @property
    def runs(self) -> nn.Module:
        return self.model

    def last(self, parameters: Tensors, ids: Tensor) -> Tensor:
        return functional_call(self.model, parameters, (), {"input_ids": ids, "use_cache": False}).logits

    def losses(self, parameters: Tensors, last: Tensor, labels: Tensor) -> Tensor:
        return token_losses(last, labels)

    def derivatives(
        self, parameters: Tensors, last: Tensor, labels: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, Tensors]:
        return *loss_and_pull(last, labels, coefficients), {}

    def products(
        self,
        parameters: Tensors,
        directions: Tensors,
        last: Tensor,
        labels: Tensor,
        coefficients: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensors]:
        return *dual_loss(last, labels, coefficients), {}


@dataclass(frozen=True, kw_only=True)
class BlockedHead:
    """A linear head with scale and soft cap; see `swept_head`."""

    decoder: nn.Module
    prefix: str
    """Of the decoder's parameters among the model's."""
    head: Head
    weight: str | None
    """The name of the head's weight, if it is trained; a tied embedding's is the decoder's, too."""
    bias: str | None

    @property
    def runs(self) -> nn.Module:
        return self.decoder

    def last(self, parameters: Tensors, ids: Tensor) -> Tensor:
        inner = {n.removeprefix(self.prefix): p for n, p in parameters.items() if n.startswith(self.prefix)}
        return functional_call(self.decoder, inner, (), {"input_ids": ids, "use_cache": False}).last_hidden_state

    def losses(self, parameters: Tensors, last: Tensor, labels: Tensor) -> Tensor:
        return derivatives(self._head(parameters), last, labels).losses

    def derivatives(
        self, parameters: Tensors, last: Tensor, labels: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, Tensors]:
        by_head = self._zeros(parameters)
        swept = derivatives(self._head(parameters), last, labels, coefficients, totals=Totals(**self._of_head(by_head)))
        return swept.losses, swept.by_last, by_head

    def products(
        self,
        parameters: Tensors,
        directions: Tensors,
        last: Tensor,
        labels: Tensor,
        coefficients: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensors]:
        value, moved = (t.detach() for t in parts(last))
        by_head = self._zeros(parameters)
        swept = derivatives(
            self._head(parameters),
            value,
            labels,
            coefficients,
            tangents=Tangents(last=moved, **self._of_head(directions)),
            totals=Totals(**self._of_head(by_head)),
        )
        return swept.slopes, forward_ad.make_dual(swept.by_last, swept.by_last_tangent), by_head

    def _head(self, parameters: Tensors) -> Head:
        return replace(self.head, **{k: t.detach() for k, t in self._of_head(parameters).items()})

    def _of_head(self, tensors: Tensors) -> Tensors:
        """Return those of the head's trained tensors that are given, by its own names for them."""
        names = {"weight": self.weight, "bias": self.bias}
        return {own: tensors[n] for own, n in names.items() if n is not None and n in tensors}

    def _zeros(self, parameters: Tensors) -> Tensors:
        return {n: torch.zeros_like(parameters[n]) for n in (self.weight, self.bias) if n is not None}


def token_losses(logits: Float[Tensor, "tokens vocabulary"], labels: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens"]:
    """Return every token's cross-entropy; 0 where its label is negative."""
    losses = torch.zeros(labels.shape, dtype=logits.dtype, device=logits.device)
    for block in blocks(len(labels), ROWS):
        label = labels[block].clamp_min(0)[:, None]
        losses[block] = logits[block].logsumexp(-1) - logits[block].gather(1, label).squeeze(1)
    return losses.masked_fill_(labels < 0, 0)


def loss_and_pull(
    logits: Float[Tensor, "tokens vocabulary"], labels: Int[Tensor, "tokens"], coefficients: Float[Tensor, "tokens"]
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocabulary"]]:
    """Return every token's cross-entropy, and the weighted sum's gradient by the logits."""
    pull = torch.empty_like(logits)
    losses = torch.zeros_like(coefficients)
    for block in blocks(len(labels), ROWS):
        label, weight = labels[block].clamp_min(0)[:, None], coefficients[block][:, None]
        total = logits[block].logsumexp(-1, keepdim=True)
        losses[block] = (total - logits[block].gather(1, label)).squeeze(1)
        torch.mul(less_label((logits[block] - total).exp_(), label), weight, out=pull[block])
    return losses.masked_fill_(labels < 0, 0), pull


def dual_loss(
    logits: Float[Tensor, "n vocabulary"], labels: Int[Tensor, "n"], coefficients: Float[Tensor, "n"] | None
) -> tuple[Tensor, Tensor]:
    """Return every token's slope, and (given coefficients) the dual gradient by the logits: `loss_and_pull`, dual.

    With p the probabilities and l′ the logits' tangent: the slope is ⟨p, l′⟩ - l′_y, the gradient p - 1_y, and the
    gradient's tangent p ⊙ (l′ - ⟨p, l′⟩).
    """
    flat, moved = (t.detach() for t in parts(logits))
    pull, turned = (torch.empty_like(flat), torch.empty_like(flat)) if coefficients is not None else (flat, flat)
    slopes = torch.zeros(labels.shape, dtype=logits.dtype, device=logits.device)
    for block in blocks(labels.numel(), ROWS):
        label = labels[block].clamp_min(0)[:, None]
        chances = torch.softmax(flat[block], -1)
        mean = (chances * moved[block]).sum(-1, keepdim=True)
        slopes[block] = (mean - moved[block].gather(1, label)).squeeze(1)
        if coefficients is not None:
            weight = coefficients[block][:, None]
            torch.mul((moved[block] - mean).mul_(chances), weight, out=turned[block])
            torch.mul(less_label(chances, label), weight, out=pull[block])
    slopes.masked_fill_(labels < 0, 0)
    if coefficients is None:
        return slopes, slopes
    return slopes, forward_ad.make_dual(pull, turned)


def less_label(chances: Float[Tensor, "tokens vocabulary"], label: Int[Tensor, "tokens 1"]) -> Tensor:
    """Subtract 1 at every row's label, in place (scatter_add_ is refused on a GPU where order matters)."""
    chances[torch.arange(len(chances), device=chances.device), label.squeeze(1)] -= 1
    return chances


def blocks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `count`."""
    return (slice(start, start + size) for start in range(0, count, size))
