"""From a model's last hidden states to its losses and their first derivatives, a block of tokens at a time.

Logits `[tokens, vocabulary]` and their gradient are most of what a training step of a small model holds. Here a block
of them lives until its three products are done.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from curate.gradients.head import Head
from curate.proxies.probes import decoder_of
from curate.training.optimisers import Tensors

# Tokens whose logits are held at a time, and those that are turned into probabilities at a time.
TOKENS, ROWS = 1024, 256


class Output(Protocol):
    """A model in two halves: up to its last tensor with a graph, and from there to the losses without one."""

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

    def last(self, parameters: Tensors, ids: Tensor) -> Tensor:
        return functional_call(self.model, parameters, (), {"input_ids": ids, "use_cache": False}).logits

    def losses(self, parameters: Tensors, last: Tensor, labels: Tensor) -> Tensor:
        return token_losses(last, labels)

    def derivatives(
        self, parameters: Tensors, last: Tensor, labels: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, Tensors]:
        return *loss_and_pull(last, labels, coefficients), {}


@dataclass(frozen=True, kw_only=True)
class BlockedHead:
    """A linear head with scale and soft cap, that takes a block of hidden states at a time."""

    decoder: nn.Module
    prefix: str
    """Of the decoder's parameters among the model's."""
    head: Head
    weight: str | None
    """The name of the head's weight, if it is trained; a tied embedding's is the decoder's, too."""
    bias: str | None

    def last(self, parameters: Tensors, ids: Tensor) -> Tensor:
        inner = {n.removeprefix(self.prefix): p for n, p in parameters.items() if n.startswith(self.prefix)}
        return functional_call(self.decoder, inner, (), {"input_ids": ids, "use_cache": False}).last_hidden_state

    def losses(self, parameters: Tensors, last: Tensor, labels: Tensor) -> Tensor:
        head = self._head(parameters)
        return torch.cat([token_losses(_logits(head, last[b]), labels[b]) for b in blocks(len(labels), TOKENS)])

    def derivatives(
        self, parameters: Tensors, last: Tensor, labels: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, Tensors]:
        head, losses, by_last = self._head(parameters), torch.zeros_like(coefficients), torch.empty_like(last)
        by_head = {n: torch.zeros_like(parameters[n]) for n in (self.weight, self.bias) if n is not None}
        for block in blocks(len(labels), TOKENS):
            logits = _logits(head, last[block])
            slope = head.scale if head.softcap is None else head.scale * (1 - (logits / head.softcap) ** 2)
            losses[block], pull = loss_and_pull(logits, labels[block], coefficients[block])
            pull *= slope
            torch.mm(pull, head.weight, out=by_last[block])
            if self.weight is not None:
                by_head[self.weight].addmm_(pull.T, last[block])
            if self.bias is not None:
                by_head[self.bias] += pull.sum(0)
        return losses, by_last, by_head

    def _head(self, parameters: Tensors) -> Head:
        values = {"weight": self.weight, "bias": self.bias}
        return replace(self.head, **{k: parameters[n].detach() for k, n in values.items() if n in parameters})


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


def less_label(chances: Float[Tensor, "tokens vocabulary"], label: Int[Tensor, "tokens 1"]) -> Tensor:
    """Subtract 1 at every row's label, in place (scatter_add_ is refused on a GPU where order matters)."""
    chances[torch.arange(len(chances), device=chances.device), label.squeeze(1)] -= 1
    return chances


def blocks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `count`."""
    return (slice(start, start + size) for start in range(0, count, size))


def _logits(head: Head, hidden: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens vocabulary"]:
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias)
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits = logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits
