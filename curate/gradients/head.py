"""The language-model head together with its cross-entropy, and the gradient of the hidden states in the same sweep.

Logits `[tokens, vocabulary]` are most of a small model's memory and time. Here they never exist whole: vocabulary rows
come in blocks, each block's exponentials are used twice while they are in the cache (for the normaliser and for the
gradient), and forgotten, as attention does with keys. Exact: the result is that of the plain softmax, up to rounding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from curate.errors import CurateError
from curate.gradients.linear import linear
from curate.proxies.devices import widest
from curate.proxies.tokens import IGNORED

# Measured on two cores: 512 tokens by 1 024 vocabulary rows of float32 stay within the caches.
TOKENS_CPU, ROWS_CPU = 512, 1024
TOKENS_GPU, ROWS_GPU = 8192, 16384
# What configurations call the cap (Gemma; RecurrentGemma; xLSTM).
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True, kw_only=True)
class Along:
    """Directions in the head's weight and bias."""

    weights: Float[Tensor, "directions vocabulary d"]
    biases: Float[Tensor, "directions vocabulary"] | None = None


@dataclass(frozen=True, kw_only=True)
class HeadTaps:
    """What the head hands out beside losses and gradients; positions are those that carry loss, some at a time."""

    see: Callable[[Int[Tensor, "n"], Float[Tensor, "n d"], Int[Tensor, "n"]], None] | None = None
    """Takes positions, hidden states and labels (those drawn, where labels are)."""
    along: Along | None = None
    add: Callable[[Int[Tensor, "n"], Float[Tensor, "n directions"]], None] | None = None
    """Takes positions and their losses' derivatives along `along`."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Everything between the last hidden state and the loss, frozen."""

    weight: Float[Tensor, "vocabulary d"]
    bias: Float[Tensor, "vocabulary"] | None = None
    scale: float = 1.0
    """Logits are multiplied by this (Cohere, Granite)."""
    softcap: float | None = None
    """Logits are squashed to ±softcap by tanh (Gemma 2)."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Head":
        """Read the head of a model; whoever uses it checks it against the model's own logits."""
        layer, config = model.get_output_embeddings(), model.config.get_text_config()
        if layer is None or not isinstance(getattr(layer, "weight", None), Tensor):
            raise CurateError(f"{type(model).__name__} has no linear language-model head to take a loss from.")
        scale = 1.0
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            scale = 1.0 / float(divisor)
        elif (factor := getattr(config, "logit_scale", None)) is not None:
            scale = float(factor)
        bias = getattr(layer, "bias", None)
        return cls(
            weight=layer.weight.detach(),
            bias=None if bias is None else bias.detach(),
            scale=scale,
            softcap=next((cap for name in _SOFTCAPS if (cap := getattr(config, name, None))), None),
        )

    def __call__(
        self,
        hidden: Float[Tensor, "tokens d"],
        labels: Int[Tensor, "tokens"],
        *,
        gradient: bool = True,
        uniforms: Float[Tensor, "tokens"] | None = None,
        taps: HeadTaps | None = None,
        scored: Int[Tensor, "scored"] | None = None,
    ) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens d"] | None]:
        """Return each position's cross-entropy (nats, float32 or wider) and its gradient by the hidden state.

        Positions labelled IGNORED get loss 0 and gradient 0, and cost nothing: they are left out of the products. With
        `uniforms` in [0, 1) the other labels are replaced by draws from the model's own distribution, by its inverse.
        `scored` are the positions of the others, where they are known.
        """
        scored = (labels != IGNORED).nonzero().squeeze(-1) if scored is None else scored
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.zeros(labels.shape, dtype=wide, device=hidden.device)
        gradients = torch.zeros_like(hidden) if gradient else None
        tokens = TOKENS_CPU if hidden.device.type == "cpu" else TOKENS_GPU
        for positions in scored.split(tokens) if len(scored) else ():
            count, rows = len(positions), padded(positions)
            drawn = None if uniforms is None else uniforms[rows]
            chunk = self._chunk(hidden[rows], labels[rows], gradient, drawn, taps.along if taps else None)
            loss, grad = chunk.losses, chunk.gradients
            losses[positions] = loss[:count]
            if taps is not None and taps.see is not None:
                taps.see(positions, hidden[positions], chunk.labels[:count])
            if taps is not None and taps.add is not None and chunk.along is not None:
                taps.add(positions, chunk.along[:count])
            if gradients is not None and grad is not None:
                gradients[positions] = grad[:count].to(gradients.dtype)
        return losses, gradients

    def _logits(self, hidden: Tensor, rows: slice) -> Tensor:
        logits = linear(hidden, self.weight[rows], None if self.bias is None else self.bias[rows] * self.scale)
        if self.softcap is not None:
            logits = torch.tanh_(logits.div_(self.softcap)).mul_(self.softcap)
        return logits

    def _label_logits(self, hidden: Tensor, labels: Tensor) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logits = (hidden.to(wide) * self.weight[labels].to(wide)).sum(-1)
        if self.bias is not None:
            logits = logits + self.bias[labels].to(wide) * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def _chunk(
        self, hidden: Tensor, labels: Tensor, gradient: bool, uniforms: Tensor | None, along: Along | None
    ) -> "_Chunk":
        hidden = hidden * self.scale if self.scale != 1.0 else hidden
        # A reference keeps exponentials in range, and any attained logit will do unless another lies 88 nats above it.
        # Where logits are near 0 anyway none is subtracted, which saves a pass over memory.
        reference: Tensor | None = self._logits(hidden, slice(0, 64)).amax(-1, keepdim=True)
        if hidden.device.type == "cpu" and float(reference.abs().amax()) < 30:  # a GPU would have to be waited for
            reference = None
        sums, pulled, moved = self._sweep(hidden, reference, gradient, along)
        normaliser = sums.sum(-1)
        # The upper bound leaves room for the weights that the exponentials are multiplied by.
        if not bool(((normaliser > 1e-20) & (normaliser < 1e30)).all()):
            blocks = [self._logits(hidden, rows).amax(-1, keepdim=True) for rows in self._blocks(hidden)]
            reference = torch.cat(blocks, -1).amax(-1, keepdim=True)
            sums, pulled, moved = self._sweep(hidden, reference, gradient, along)
            normaliser = sums.sum(-1)
        if uniforms is not None:
            labels = self._draw(hidden, reference, sums, uniforms)
        label_logits = self._label_logits(hidden, labels)
        losses = normaliser.log() - label_logits
        if reference is not None:
            losses = losses + reference.squeeze(-1).to(losses.dtype)
        if pulled is None:
            return _Chunk(losses=losses, labels=labels)
        slope = 1.0 if self.softcap is None else (1 - (label_logits / self.softcap) ** 2).unsqueeze(-1)
        grad = pulled / normaliser.unsqueeze(-1) - self.weight[labels].to(pulled.dtype) * slope
        if along is not None and moved is not None:
            of_labels = torch.stack([(hidden * u[labels]).sum(-1, dtype=moved.dtype) for u in along.weights], 1)
            if along.biases is not None:
                of_labels += along.biases[:, labels].T.to(of_labels) * self.scale
            moved = moved / normaliser.unsqueeze(-1) - of_labels * slope
        grad = grad * self.scale if self.scale != 1.0 else grad
        return _Chunk(losses=losses, labels=labels, gradients=grad, along=moved)

    def _blocks(self, hidden: Tensor) -> list[slice]:
        rows = ROWS_CPU if hidden.device.type == "cpu" else ROWS_GPU
        return [slice(start, start + rows) for start in range(0, self.weight.shape[0], rows)]

    def _sweep(
        self, hidden: Tensor, reference: Tensor | None, gradient: bool, along: Along | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return Σ_v e_v by block of the vocabulary, Σ_v e_v ∂l_v/∂h and Σ_v e_v l_v′, with e_v = exp(l_v - reference).

        l_v′ is a logit's derivative along a direction.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        blocks = self._blocks(hidden)
        sums = torch.zeros(hidden.shape[0], len(blocks), dtype=wide, device=hidden.device)
        pulled = torch.zeros(hidden.shape, dtype=wide, device=hidden.device) if gradient else None
        moved = None if along is None else sums.new_zeros(len(hidden), len(along.weights))
        for i, rows in enumerate(blocks):
            logits = self._logits(hidden, rows)
            slope = None if self.softcap is None else 1 - (logits / self.softcap) ** 2
            exponentials = (logits if reference is None else logits.sub_(reference)).exp_()
            sums[:, i] = exponentials.sum(-1, dtype=wide)
            if pulled is not None:
                weighted = exponentials if slope is None else exponentials * slope
                pulled += linear(weighted, self.weight[rows].T)
                if along is not None and moved is not None:
                    self._move(hidden, rows, weighted, along, moved)
        return sums, pulled, moved

    def _move(self, hidden: Tensor, rows: slice, weighted: Tensor, along: Along, moved: Tensor) -> None:
        """Add a block's part of Σ_v e_v l_v′ for every direction."""
        for q, direction in enumerate(along.weights):
            shift = None if along.biases is None else along.biases[q, rows] * self.scale
            slopes = linear(hidden, direction[rows], shift)
            moved[:, q] += torch.linalg.vecdot(slopes.to(moved.dtype), weighted.to(moved.dtype))

    def pulls(
        self, hidden: Float[Tensor, "n d"], labels: Int[Tensor, "n"]
    ) -> Iterator[tuple[slice, Float[Tensor, "n rows"]]]:
        """Yield each block of the vocabulary with the losses' derivatives by W_v h + b_v, in float32 or wider.

        Two products more than the head's own: the blocks' logits, for the normaliser and again for the probabilities.
        """
        hidden = hidden * self.scale if self.scale != 1.0 else hidden
        wide = torch.promote_types(hidden.dtype, torch.float32)
        blocks = self._blocks(hidden)
        normaliser = torch.stack([self._logits(hidden, rows).to(wide).logsumexp(-1) for rows in blocks]).logsumexp(0)
        for rows in blocks:
            logits = self._logits(hidden, rows).to(wide)
            pull = (logits - normaliser[:, None]).exp()
            less_labels(pull, labels, rows, torch.ones_like(pull[:, 0]))
            if self.softcap is not None:
                pull *= 1 - (logits / self.softcap) ** 2
            yield rows, pull * self.scale if self.scale != 1.0 else pull

    def _draw(self, hidden: Tensor, reference: Tensor | None, sums: Tensor, uniforms: Tensor) -> Tensor:
        """Return labels from the model's distribution: first the block, by the blocks' sums, then the row within it.

        Each token's logits are computed again for its own block alone, one part in the number of blocks of a sweep.
        """
        fine = widest(hidden.device)
        cumulated = sums.to(fine).cumsum(-1)
        thresholds = uniforms.to(cumulated).unsqueeze(-1) * cumulated[:, -1:]
        chosen = torch.searchsorted(cumulated, thresholds, right=True).squeeze(-1).clamp_max(sums.shape[1] - 1)
        within = thresholds.squeeze(-1) - (cumulated - sums).gather(1, chosen.unsqueeze(-1)).squeeze(-1)
        labels = torch.empty_like(chosen)
        blocks = self._blocks(hidden)
        by_block, order = chosen.sort(stable=True)
        edges = torch.searchsorted(by_block, torch.arange(len(blocks) + 1, device=chosen.device)).tolist()
        for block, (start, end) in zip(blocks, pairwise(edges), strict=True):
            if start == end:
                continue
            members = order[start:end]
            rows = padded(members)
            logits = self._logits(hidden[rows], block)
            exponentials = (logits if reference is None else logits - reference[rows]).exp()
            inside = exponentials[: len(members)].to(fine).cumsum(-1)
            offsets = torch.searchsorted(inside, within[members].unsqueeze(-1), right=True).squeeze(-1)
            labels[members] = block.start + offsets.clamp_max(logits.shape[1] - 1)
        return labels


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some tokens' losses, the labels they are of, and the derivatives that were wanted."""

    losses: Float[Tensor, "n"]
    labels: Int[Tensor, "n"]
    gradients: Float[Tensor, "n d"] | None = None
    along: Float[Tensor, "n directions"] | None = None


def less_labels(
    pull: Float[Tensor, "n rows"], labels: Int[Tensor, "n"], rows: slice, weights: Float[Tensor, "n"]
) -> None:
    """Subtract weights, in place, at the labels that are among these rows of the vocabulary."""
    inside = (labels >= rows.start) & (labels < rows.stop)  # no list of those: a GPU would have to be waited for
    columns = (labels - rows.start).clamp(0, pull.shape[1] - 1)
    pull[torch.arange(len(pull), device=pull.device), columns] -= weights.where(inside, 0)


def padded(positions: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
    """Repeat the last position up to a multiple of 64: oneDNN keeps half a megabyte for every number of rows it saw."""
    missing = -len(positions) % 64
    return torch.cat([positions, positions[-1:].expand(missing)]) if missing else positions
