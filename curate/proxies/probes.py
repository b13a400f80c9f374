"""What a model does, seen by running it on a few tokens; models that cannot be scored are refused with their reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from curate.errors import CurateError
from curate.proxies.devices import products
from curate.proxies.experts import ExpertLinear, expert_layers
from curate.proxies.routers import router_layer
from curate.proxies.settings import ProxySettings

SEQUENCES, TOKENS = 3, 16
# One of several experts by number, where each is a module of its own and nothing says which tokens it sees.
_ROUTED = re.compile(r"experts?\.\d+(\.|$)")
# Hidden states that see no later token differ by rounding alone, which experts' varying batches bring in.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.004}


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a few tokens showed."""

    whole_sequences: frozenset[str]
    """Layers whose inputs are whole sequences, `[sequences, tokens, d_in]` or flattened as in OPT, or known rows."""
    ran: frozenset[str]
    """Modules of the decoder that ran at all."""


def refuse_damaged(model: PreTrainedModel, settings: ProxySettings) -> None:
    """Raise CurateError for a model with weights that are not finite.

    A row of an embedding that is no head concerns the documents with that token alone, which are set aside.
    """
    weights = [(n, p.detach()) for n, p in model.named_parameters() if p.is_floating_point() and p.numel()]
    # Both ends are NaN where any number is; unlike a mask they need no memory.
    finite = torch.stack([torch.stack(torch.aminmax(w)).isfinite().all() for _, w in weights]).tolist()
    embedding, head = (
        getattr(m, "weight", None) for m in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    own_rows = None if embedding is head or embedding is None else embedding.data_ptr()
    damaged = [
        (n, w)
        for (n, w), whole in zip(weights, finite, strict=True)
        if not whole and not (w.data_ptr() == own_rows and w.isfinite().all(1).float().mean() > 0.5)
    ]
    if not damaged:
        return
    name, weight = damaged[0]
    count = int((~weight.isfinite()).sum())
    others = f", and {len(damaged) - 1} more tensor(s) have some" if len(damaged) > 1 else ""
    hint = "Its training diverged, or its file is damaged: use an earlier state of it."
    if settings.dtype == "float16":
        hint += " If it is whole in bfloat16 or float32, its weights are too large for float16: give another --dtype."
    raise CurateError(
        f"{settings.model} is no whole model: {count:,} of the {weight.numel():,} numbers of {name} are NaN or"
        f" infinite{others}.",
        hint=hint,
    )


def refuse_short_embedding(vocabulary: int, tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Raise CurateError where the tokenizer writes tokens into every text that the model has no embedding for."""
    beyond = sorted({i for i in tokenizer("a")["input_ids"] if i >= vocabulary})
    if beyond:
        raise CurateError(
            f"The tokenizer of {model} begins or ends every text with {tokenizer.convert_ids_to_tokens(beyond[0])!r}"
            f" (token {beyond[0]}); the model's embedding has {vocabulary:,} rows.",
            hint="Resize the model (`resize_token_embeddings(len(tokenizer))`) and train it, or use its own tokenizer.",
        )


@products("float32")
@torch.no_grad()
def observe(model: PreTrainedModel, linears: Mapping[str, nn.Module], vocabulary: int, context: int | None) -> Observed:
    """Run a model's decoder on a few tokens. Raises CurateError where a token sees later ones.

    Routed experts see tokens of the router's choice. Two different inputs keep it from choosing all tokens twice.
    """
    decoder = decoder_of(model)
    tokens = min(TOKENS, context or TOKENS)
    ids = torch.arange(SEQUENCES * tokens, device=model.device).view(SEQUENCES, tokens) % vocabulary
    changed = ids.clone()
    changed[:, tokens // 2 :] = (ids.flip(0)[:, tokens // 2 :] + 3) % vocabulary
    # A fused expert sees tokens of what its module is given.
    seen_by = {n: n.rsplit(".", 2)[0] if isinstance(layer, ExpertLinear) else n for n, layer in linears.items()}
    uses = {seen: list[bool]() for seen in seen_by.values() if not _ROUTED.search(seen)}
    ran = set[str]()
    expected = ((SEQUENCES, tokens), (SEQUENCES * tokens,))

    def note(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
            ran.add(name)
            if name in uses:
                # Latent attention expands its keys with an axis of one head.
                uses[name].append(tuple(size for size in inputs[0].shape[:-1] if size != 1) in expected)

        return hook

    modules = dict(decoder.named_modules()) | dict(linears)
    hooks = [m.register_forward_hook(note(n)) for n, m in modules.items()]
    try:
        before, after = (_hidden(decoder, probe)[:, : tokens // 2] for probe in (ids, changed))
    finally:
        for hook in hooks:
            hook.remove()
    _refuse_seeing_ahead(model, before, after)
    whole = frozenset(n for n, seen in seen_by.items() if uses.get(seen) and all(uses[seen]))
    return Observed(whole_sequences=whole, ran=frozenset(ran))


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the part of a model from token ids to the last hidden state."""
    base = model.base_model
    # Where a wrapper's prefix names nothing (Llama 4's text model), transformers gives back the whole model.
    inner = getattr(model, "model", None)
    return inner if base is model and isinstance(inner, nn.Module) else base


def _hidden(decoder: Any, ids: Int[Tensor, "sequences tokens"]) -> Float[Tensor, "sequences tokens d"]:
    name = type(decoder).__name__
    try:
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CurateError(
            f"{name} does not run on the tokens of a text alone: {reason}",
            hint="Use a causal language model that reads token ids and nothing else.",
        ) from error
    if hidden is None or hidden.shape[:2] != ids.shape:
        seen = None if hidden is None else tuple(hidden.shape)
        raise CurateError(f"{name} returns hidden states of shape {seen}; expected one per token.")
    return hidden


def _refuse_seeing_ahead(model: PreTrainedModel, before: Tensor, after: Tensor) -> None:
    gap, size = float((before - after).abs().max()), float(before.abs().max())
    if gap > _ROUNDING[before.dtype] * size:
        raise CurateError(
            f"{type(model).__name__} is not causal: when later tokens change, its hidden states before them change, too"
            f" (by up to {gap / size:.1%}). A loss of next tokens that the model sees means nothing.",
            hint="Use a causal decoder; encoders, prefix models and bidirectional attention cannot be scored.",
        )


def linear_layers(decoder: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the layers that compute x Wᵀ + b by name, and the class of each that is called linear and does more."""
    layers, others = dict[str, nn.Module](), dict[str, str]()
    for name, module in decoder.named_modules():
        layers |= {f"{name}.{below}": layer for below, layer in expert_layers(module).items()}
        is_linear = isinstance(module, nn.Linear | Conv1D)
        if is_linear and (type(module) in (nn.Linear, Conv1D) or _is_plain(module)):
            layers[name] = module
        elif (router := router_layer(module)) is not None:
            layers[name] = router
        elif is_linear:
            others[name] = type(module).__name__
    return layers, others


@torch.no_grad()
@products("float32")
def _is_plain(layer: Any) -> bool:
    """Say whether a layer of a class of its own computes what nn.Linear does, by running it."""
    weight = layer.weight
    if not weight.is_floating_point() or weight.shape != (layer.out_features, layer.in_features):
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, layer.in_features, generator=generator).to(weight)
    try:
        output = layer(x)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return False
    plain = nn.functional.linear(x, weight, layer.bias)
    same_shape = isinstance(output, Tensor) and output.shape == plain.shape
    return same_shape and float((output - plain).abs().max()) <= _ROUNDING[weight.dtype] * float(plain.abs().max())
