"""One forward and one backward pass through a frozen proxy: what every engine runs inside its taps."""

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError
from curate.gradients.head import Head
from curate.proxies.devices import products
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import TokenBatch


class FrozenPass:
    """Run a proxy's decoder and head over token batches, weights frozen."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy, self.head = proxy, Head.of(proxy.model)
        self._check_head()

    def backward(
        self, batch: TokenBatch, uniforms: Float[Tensor, "sequences tokens"] | None = None
    ) -> Float[Tensor, "sequences"]:
        """Send the gradient of the loss, summed over scored tokens, through the decoder; return each sequence's loss.

        With `uniforms` in [0, 1) the labels are drawn from the model at scored positions: what a Fisher matrix needs.
        Call it inside `tapped`: without a tap there is no graph to go back through.
        """
        batch = batch.to(self.proxy.device)
        drawn = None if uniforms is None else uniforms.to(self.proxy.device).flatten()
        with products(self.proxy.settings.precision):
            hidden = self._hidden(batch.ids)
            losses, gradients = self.head(hidden.detach().flatten(0, 1), batch.labels.flatten(), uniforms=drawn)
            assert gradients is not None
            hidden.backward(gradients.view_as(hidden))
        return losses.view(batch.ids.shape).sum(-1)

    @torch.no_grad()
    def losses(self, batch: TokenBatch) -> Float[Tensor, "sequences tokens"]:
        """Return each position's loss (0 where it carries none), without any gradient."""
        batch = batch.to(self.proxy.device)
        with products(self.proxy.settings.precision):
            hidden = self._hidden(batch.ids)
            losses, _ = self.head(hidden.flatten(0, 1), batch.labels.flatten(), gradient=False)
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
