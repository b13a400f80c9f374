"""One forward and one backward pass through a frozen proxy: what every engine runs inside its taps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from curate.errors import CurateError
from curate.gradients.head import Head, HeadTaps
from curate.gradients.linear import by_sequence
from curate.proxies.devices import products, sent
from curate.proxies.proxy import Proxy
from curate.proxies.tables import counted_tables
from curate.proxies.tokens import TokenBatch

EmbeddingTap = Callable[[Float[Tensor, "sequences tokens d"]], None]
"""Takes the gradients at the input embedding's output."""


@dataclass(frozen=True, kw_only=True)
class TableTaps:
    """What a pass hands out at the proxy's tables, beside what layers' taps see."""

    head: HeadTaps | None = None
    embedding: Sequence[EmbeddingTap] = ()
    done: Callable[[], None] | None = None
    """Called when the pass is over."""


class FrozenPass:
    """Run a proxy's decoder and head over token batches, weights frozen."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy, self.head = proxy, Head.of(proxy.model)
        self.tables = counted_tables(proxy)
        self._check_head()

    def backward(
        self,
        batch: TokenBatch,
        uniforms: Float[Tensor, "sequences tokens"] | None = None,
        taps: TableTaps | None = None,
    ) -> Float[Tensor, "sequences"]:
        """Send the gradient of the loss, summed over scored tokens, through the decoder; return each sequence's loss.

        With `uniforms` in [0, 1) the labels are drawn from the model at scored positions: what a Fisher matrix needs.
        Call it inside `tapped`: without a tap there is no graph to go back through.
        """
        batch = batch.to(self.proxy.device)
        drawn = None if uniforms is None else sent(uniforms, self.proxy.device).flatten()
        taps = taps or TableTaps()
        embedding: Any = self.proxy.model.get_input_embeddings()
        with products(self.proxy.settings.precision):
            with _tapped_embedding(embedding, batch.ids.shape, taps.embedding):
                hidden = self._hidden(batch.ids)
            losses, gradients = self.head(
                hidden.detach().flatten(0, 1),
                batch.labels.flatten(),
                uniforms=drawn,
                taps=taps.head,
                scored=batch.scored,
            )
            assert gradients is not None
            hidden.backward(gradients.view_as(hidden))
            if taps.done is not None:
                taps.done()
        return losses.view(batch.ids.shape).sum(-1)

    @torch.no_grad()
    def losses(self, batch: TokenBatch) -> Float[Tensor, "sequences tokens"]:
        """Return each position's loss (0 where it carries none), without any gradient."""
        batch = batch.to(self.proxy.device)
        with products(self.proxy.settings.precision):
            hidden = self._hidden(batch.ids)
            losses, _ = self.head(hidden.flatten(0, 1), batch.labels.flatten(), gradient=False, scored=batch.scored)
        return losses.view(batch.ids.shape)

    def _hidden(self, ids: Tensor) -> Tensor:
        return self.proxy.decoder(input_ids=ids, use_cache=False).last_hidden_state

    @torch.no_grad()
    @products("float32")
    def _check_head(self) -> None:
        """Compare the head with the model's own logits on a few tokens: architectures hide scales and caps there."""
        vocabulary = self.head.weight.shape[0]
        ids = torch.arange(1, 9, device=self.proxy.device).remainder(vocabulary).unsqueeze(0)
        labels = ids.roll(-1, 1)
        logits = self.proxy.model(input_ids=ids, use_cache=False).logits[0].cpu().double()
        expected = torch.nn.functional.cross_entropy(logits, labels[0].cpu(), reduction="none")
        losses = self.head(self._hidden(ids)[0], labels[0], gradient=False)[0].cpu()
        tolerance = 0.1 if self.proxy.dtype in (torch.bfloat16, torch.float16) else 1e-3
        if not torch.allclose(losses.double(), expected, rtol=tolerance, atol=tolerance):
            gap = (losses - expected).abs().max().item()
            raise CurateError(
                f"{type(self.proxy.model).__name__} does more between its last hidden state and its logits than a"
                f" linear head with scale, bias and soft cap: the losses differ by {gap:.3g} nats.",
                hint="Use another proxy of the same family without that step, and please report this architecture.",
            )


@contextmanager
def _tapped_embedding(embedding: nn.Module, shape: torch.Size, taps: Sequence[EmbeddingTap]) -> Iterator[None]:
    """Let taps see the gradients at an embedding's output, on the way back of what is computed in the context."""
    if not taps:
        yield
        return

    def see(gradients: Tensor) -> None:
        for tap in taps:
            tap(by_sequence(gradients, shape))

    def begin_graph(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        leaf = torch.zeros((), device=output.device, requires_grad=True)
        return _Embedded.apply(output, leaf, see)  # type: ignore[return-value]

    hook = embedding.register_forward_hook(begin_graph)
    try:
        yield
    finally:
        hook.remove()


class _Embedded(torch.autograd.Function):
    """Where the graph begins when the embedding's gradients are wanted."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, leaf: Tensor, see: EmbeddingTap) -> Tensor:
        ctx.see = see
        return output.data  # no view: models scale it in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, None, None]:
        ctx.see(*grad_outputs)
        return None, None, None
