"""The curvature of the cross-entropy at the last hidden state: Wᵀ H W δh, one sweep over the vocabulary.

H = diag(p) - p pᵀ is the Hessian of the cross-entropy by the logits, whatever the label: the covariance of the gradient
that a label drawn from the model would give. As in the head itself, logits come in blocks of vocabulary rows, are used
while they are in the cache, and never exist whole.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.head import ROWS_CPU, ROWS_GPU, TOKENS_CPU, TOKENS_GPU, Head
from curate.gradients.linear import linear


def softmax_curvature(
    head: Head, hidden: Float[Tensor, "tokens d"], tangents: Float[Tensor, "directions tokens d"]
) -> Float[Tensor, "directions tokens d"]:
    """Return Jᵀ H J δh at every token and for every direction δh, J the Jacobian of the logits by the hidden state.

    Scale, bias and soft cap of the head are part of J. Exact up to the rounding of `hidden`'s dtype.
    """
    most = TOKENS_CPU if hidden.device.type == "cpu" else TOKENS_GPU
    chunk = max(1, most // (1 + tangents.shape[0]))
    parts = [
        _chunk(head, torch.cat([h[None], t]))
        for h, t in zip(hidden.split(chunk), tangents.split(chunk, 1), strict=True)
    ]
    return torch.cat(parts, 1)


def _chunk(head: Head, stacked: Float[Tensor, "stack tokens d"]) -> Float[Tensor, "directions tokens d"]:
    """Cov(ż, ∂z/∂h) under p = exp(z) / Σ exp(z), as E[ż ∂z] - E[ż] E[∂z] from running sums; z the capped logits.

    Slot 0 of the stack is the hidden state, the others its tangents: each block takes one product there and one back.
    The reference that keeps exponentials in range is the largest logit so far (online softmax).
    """
    stacked = stacked * head.scale if head.scale != 1.0 else stacked
    directions, tokens = stacked.shape[0] - 1, stacked.shape[1]
    rows = ROWS_CPU if stacked.device.type == "cpu" else ROWS_GPU
    peak = torch.full((tokens, 1), -torch.inf, dtype=stacked.dtype, device=stacked.device)
    sums = stacked.new_zeros(1 + directions, tokens, 1)  # Σ e^z, then Σ e^z ż
    pulled = torch.zeros_like(stacked)  # Σ e^z ∂z/∂h, then Σ e^z ż ∂z/∂h
    for start in range(0, head.weight.shape[0], rows):
        weight = head.weight[start : start + rows]
        block = linear(stacked, weight)
        logits, moved = block[0], block[1:]
        if head.bias is not None:
            logits += head.bias[start : start + rows] * head.scale
        slope = None
        if head.softcap is not None:
            squashed = torch.tanh_(logits.div_(head.softcap))
            slope = 1 - squashed**2
            moved *= slope
            logits = squashed.mul_(head.softcap)
        highest = torch.maximum(peak, logits.amax(-1, keepdim=True))
        decay, peak = (peak - highest).exp_(), highest
        moved *= logits.sub_(peak).exp_()
        sums = sums.mul_(decay).add_(block.sum(-1, keepdim=True))
        if slope is not None:
            block *= slope
        pulled = pulled.mul_(decay).add_(linear(block, weight.T))
    normaliser, mean = sums[0], sums[1:] / sums[0]
    result = (pulled[1:] - mean * pulled[0]) / normaliser
    return result * head.scale if head.scale != 1.0 else result
