"""Causal attention in bfloat16 for CPUs, in blocks of queries; torch's own kernel takes twice as long there.

A block of queries is multiplied by the keys up to its last one: half of all products fall away, nothing of size tokens
× tokens is held, and the backward pass computes the weights again instead of keeping them (Dao et al. 2022, arXiv
2205.14135). The products go to the library that multiplies bfloat16 matrices fastest, which torch's kernel does not
use; in float32 the two are even.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "curate_blocks"
BLOCK = 128  # queries: 64 and 256 are slower at contexts of 512

Rows = Float[Tensor, "heads tokens width"]


def use_block_attention(model: PreTrainedModel) -> None:
    """Use this attention in place of torch's for a bfloat16 model on a CPU; leave other models as they are.

    The result is the same but for rounding.
    """
    narrow = model.device.type == "cpu" and model.dtype == torch.bfloat16
    if narrow and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def use_plain_attention(model: PreTrainedModel) -> None:
    """Give a model torch's attention back."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")


@contextmanager
def dual_attention(model: PreTrainedModel) -> Iterator[None]:
    """Give a model attention of dual numbers for the length of the context, unless its own is of plain operations."""
    implementation = model.config._attn_implementation
    if implementation in (None, "eager", NAME):
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


class _Causal(torch.autograd.Function):
    """softmax(q kᵀ) v with every query seeing the keys up to its own place; derivatives of any order."""

    @staticmethod
    def forward(ctx: Any, q: Rows, k: Rows, v: Rows) -> Rows:
        out = torch.cat([_weights(q, k, i) @ v[:, : i + BLOCK] for i in range(0, q.shape[1], BLOCK)], 1)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Rows) -> tuple[Rows, Rows, Rows]:
        (grad,) = grads
        q, k, v, out = ctx.saved_tensors
        weighted_sum = (grad * out).sum(-1, keepdim=True)
        by_q, by_k, by_v = [], torch.zeros_like(k), torch.zeros_like(v)
        for i in range(0, q.shape[1], BLOCK):
            block, visible = slice(i, i + BLOCK), slice(0, i + BLOCK)
            weights = _weights(q, k, i)
            by_v[:, visible] += weights.mT @ grad[:, block]
            by_scores = torch.baddbmm(weighted_sum[:, block], grad[:, block], v[:, visible].mT, beta=-1) * weights
            by_q.append(by_scores @ k[:, visible])
            by_k[:, visible] += by_scores.mT @ q[:, block]
        return torch.cat(by_q, 1), by_k, by_v


def _dual_causal(q: Rows, k: Rows, v: Rows) -> Rows:
    """Return what `_Causal` does of dual numbers, block by block; outside any graph."""
    (q, q_t), (k, k_t), (v, v_t) = map(_parts, (q, k, v))
    width = v.shape[-1]
    queries, keys, values = torch.cat([q_t, q], -1), torch.cat([k, k_t], -1), torch.cat([v, v_t], -1)
    out, out_t = torch.empty_like(v), torch.empty_like(v)
    for i in range(0, q.shape[1], BLOCK):
        block, visible = slice(i, i + BLOCK), slice(0, i + BLOCK)
        weights = _weights(q, k, i)
        turned = (queries[:, block] @ keys[:, visible].mT).mul_(weights)
        carried = weights @ values[:, visible]
        out[:, block] = carried[:, :, :width]
        out_t[:, block] = torch.baddbmm(carried[:, :, width:], turned, v[:, visible])
        out_t[:, block].addcmul_(turned.sum(-1, keepdim=True), out[:, block], value=-1)
    return forward_ad.make_dual(out, out_t)


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    value, tangent = forward_ad.unpack_dual(x)
    return value, torch.zeros_like(value) if tangent is None else tangent


def _weights(q: Rows, k: Rows, start: int) -> Float[Tensor, "heads queries keys"]:
    """Return the attention weights of the queries of one block over all keys that they may see."""
    scores = q[:, start : start + BLOCK] @ k[:, : start + BLOCK].mT
    size = scores.shape[1]
    later = torch.ones(size, size, dtype=torch.bool, device=scores.device).triu_(1)
    scores[:, :, start:].masked_fill_(later, float("-inf"))
    return scores.softmax(-1)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks for it, query `[batch, heads, tokens, width]`; `[batch, tokens, heads, width]`."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    special = any(options.get(name) is not None for name in ("softcap", "sliding_window", "s_aux", "head_mask"))
    plain = causal and attention_mask is None and not dropout and not special and query.shape[2] == key.shape[2]
    is_dual = plain and any(forward_ad.unpack_dual(t).tangent is not None for t in (query, key, value))
    if not plain or (query.device.type != "cpu" and not is_dual):
        torchs: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward
        return torchs(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **options
        )
    batch, heads, tokens, width = query.shape
    if key.shape[1] != heads:  # grouped queries: several query heads share a key head
        key, value = (t.repeat_interleave(heads // key.shape[1], 1) for t in (key, value))
    scale = width**-0.5 if scaling is None else scaling
    flattened = ((query * scale).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1))
    attend: Callable[..., Tensor] = _dual_causal if is_dual else _Causal.apply
    out = attend(*flattened)
    return out.view(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
