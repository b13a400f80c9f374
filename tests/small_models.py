"""Tiny random models of many architectures, the tokens they read, and the slow truth about their gradients."""

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from curate.documents import hash_content
from curate.gradients.documents import Batching, document_sketches
from curate.gradients.sketches import Block, SketchEngine
from curate.proxies.probes import decoder_of
from curate.proxies.proxy import Proxy, make_proxy
from curate.proxies.room import Room
from curate.proxies.settings import ProxySettings
from curate.proxies.tables import tables_of
from curate.proxies.tokens import Encoded, TokenSettings
from curate.schema import Document
from curate.training.tokenizer import train_tokenizer

VOCABULARY = 67
CONTEXT = 24

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
_OPT = {k: v for k, v in _SHAPE.items() if k != "intermediate_size"} | {"ffn_dim": 24, "word_embed_proj_dim": 12}
_CAPS = {"head_dim": 4, "sliding_window": 4, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}

# The name of a transformers configuration → its arguments, chosen so that every peculiarity shows in 12 tokens.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaConfig": _GROUPED,
    "GPTNeoXConfig": _SHAPE,
    "GPT2Config": _GPT,  # Conv1D
    "Gemma2Config": _GROUPED | _CAPS | {"query_pre_attn_scalar": 4, "attn_implementation": "eager"},
    "CohereConfig": _GROUPED | {"logit_scale": 0.25},
    "GraniteConfig": _GROUPED | {"logits_scaling": 3.0},
    "PhiConfig": _SHAPE,  # a bias at the head
    "GPTJConfig": _GPT | {"rotary_dim": 4},  # a bias at the head
    "Qwen2Config": _GROUPED,  # biases at q, k and v alone
    "OPTConfig": _OPT,  # flattens sequences before its feed-forward layers; projects in and out
    "OlmoeConfig": _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2},
    # Experts transposed, interleaved and with biases.
    "GptOssConfig": _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 4, "sliding_window": 4},
}

ENCODERS: dict[str, dict[str, Any]] = {
    "BertConfig": _SHAPE,
    "RobertaConfig": _SHAPE,
    "ElectraConfig": _SHAPE | {"embedding_size": 16},
}


def tiny_model(architecture: str = "LlamaConfig", *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random float64 model whose every parameter, biases and norms included, matters to its loss."""
    config = getattr(transformers, architecture)(**((ARCHITECTURES | ENCODERS)[architecture] | changes))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # grouped products have no float64
    return model.eval()


def tiny_proxy(
    model: PreTrainedModel | None = None, tokenizer: PreTrainedTokenizerBase | None = None, *modules: str
) -> Proxy:
    settings = ProxySettings(model="tiny", dtype="float64", device="cpu", modules=modules)
    return make_proxy(model or tiny_model(), tokenizer or tiny_tokenizer(), settings)


def tiny_tokenizer(vocab_size: int = 300) -> PreTrainedTokenizerBase:
    texts = ["the quick brown fox jumps over the lazy dog", "def f(x): return x + 1", "naïve café – 東京 🦊"] * 3
    return train_tokenizer(texts, vocab_size=vocab_size, context=CONTEXT)


def each_architecture(*fast: str) -> list[Any]:
    """Every architecture as a parameter of a test, which is slow for those that are not named."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in ARCHITECTURES]


def document(**content: Any) -> Document:
    return Document(doc_id="d", shard="pool.jsonl", row=3, content_hash="0" * 32, **content)


def encoded(ids: Sequence[int] | Tensor, prompt: int = 1) -> Encoded:
    """Tokens as a document of which the first `prompt` carry no loss; each token is a word of its text."""
    array = np.asarray(ids, np.int32)
    scored = np.arange(len(array)) >= max(1, prompt)
    text = " ".join(f"w{i}" for i in array.tolist())
    return Encoded(
        ids=array, scored=scored, truncated=False, text=text, content_hash=hash_content({"text": f"{prompt}:{text}"})
    )


def random_documents(lengths: Sequence[int], *, vocabulary: int = VOCABULARY, seed: int = 0) -> list[Encoded]:
    """Random tokens; every third document begins with a prompt that carries no loss."""
    rng = np.random.default_rng(seed)
    return [
        encoded(rng.integers(1, vocabulary, n), prompt=1 + n // 3 if i % 3 == 1 else 1) for i, n in enumerate(lengths)
    ]


def batching(budget: int = 64, context: int = CONTEXT, long: str = "truncate") -> Batching:
    return Batching(tokens=TokenSettings(context=context, long=long), room=Room(budget))


def model_loss(model: nn.Module, tokens: Encoded) -> Tensor:
    """The summed loss of a document's scored tokens, from the model's own logits."""
    ids = torch.from_numpy(tokens.ids.astype(np.int64))
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].double()
    losses = nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    return losses[torch.from_numpy(tokens.scored[1:])].sum()


def whole_gradients(
    proxy: Proxy, tokens: Encoded, model: PreTrainedModel | None = None
) -> tuple[float, dict[str, Tensor]]:
    """A document's loss and, per tracked layer and table, its gradient `[d_out, d_in (+ 1 for a bias)]`, by autograd.

    Through `model`, where it computes the same in another way.
    """
    for module in (model or proxy.model).modules():
        vars(module).update({k: v.detach() for k, v in vars(module).items() if isinstance(v, Tensor)})  # states
    copy = deepcopy(model or proxy.model).requires_grad_(True)
    if copy._can_set_experts_implementation():
        copy.set_experts_implementation("eager")  # transformers' own, expert after expert
        for module in copy.modules():
            vars(module).pop("forward", None)  # routers' own
    loss = model_loss(copy, tokens)
    loss.backward()
    gradients = {name: gradient_of(decoder_of(copy), name) for name in proxy.tracked}
    parameters = dict(copy.named_parameters())
    for table in (t for name, t in tables_of(proxy).items() if name in proxy.tables) if proxy.tables else ():
        weight = parameters[table.name].grad
        assert weight is not None
        bias = None if table.bias is None else parameters[table.bias].grad
        gradients[table.name] = weight if bias is None else torch.cat([weight, bias[:, None]], 1)
    return loss.item(), gradients


def gradient_of(decoder: nn.Module, name: str) -> Tensor:
    """A layer's gradient `[d_out, d_in (+ 1 for a bias)]` after a backward pass."""
    if fused := re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)", name):
        experts, number, kind = decoder.get_submodule(fused[1]), int(fused[2]), fused[3]
        weight, bias = getattr(experts, kind).grad[number], getattr(experts, f"{kind}_bias", None)
        weight = weight.T if experts.is_transposed else weight
        return weight if bias is None else torch.cat([weight, bias.grad[number][:, None]], 1)
    layer: Any = decoder.get_submodule(name)
    weight = layer.weight.grad.T if isinstance(layer, Conv1D) else layer.weight.grad
    bias = getattr(layer, "bias", None)
    return weight if bias is None else torch.cat([weight, bias.grad[:, None]], 1)


def sketch_of(
    gradients: dict[str, Tensor], blocks: Sequence[Block], projection: Callable[[str, str, int], Tensor | None]
) -> Tensor:
    """P_gᵀ (GᵀA) P_a of every layer, one after the other; of fused experts, their sum."""
    parts = []
    for block in blocks:
        names = [n for n in gradients if block.name in (n, re.sub(r"\.experts\.\d+\.", ".experts.", n))]
        parts.append(sum((projected(n, gradients[n], projection) for n in names), torch.zeros(())).flatten())
    return torch.cat(parts)


def projected(name: str, gradient: Tensor, projection: Callable[[str, str, int], Tensor | None]) -> Tensor:
    p_in, p_out = projection(name, "inputs", gradient.shape[1]), projection(name, "outputs", gradient.shape[0])
    part = gradient if p_in is None else gradient @ p_in
    return part if p_out is None else p_out.T @ part


def assert_autograds_gradients(proxy: Proxy, model: PreTrainedModel | None = None) -> None:
    """Compare losses and whole gradients of documents in one batch with autograd's, one document after the other."""
    documents = random_documents([12, 7, 10], vocabulary=proxy.vocabulary)
    engine = SketchEngine(proxy, dim=1 << 20, seed=0)
    for part in document_sketches(engine, documents, batching()):
        for i, values, loss in zip(part.documents, part.values, part.losses, strict=True):
            expected_loss, gradients = whole_gradients(proxy, documents[i], model)
            expected = sketch_of(gradients, engine.blocks, lambda *_: None)
            torch.testing.assert_close(
                loss.double(), torch.tensor(expected_loss, dtype=torch.float64), rtol=1e-8, atol=1e-8
            )
            torch.testing.assert_close(values, expected.detach(), rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
