from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.curvature.gauss_newton import GaussNewton
from curate.gradients.directions import Directions
from curate.proxies.probes import linear_layers
from curate.proxies.proxy import Proxy, matrix_of, parameters_of, vector_of
from curate.proxies.tokens import Encoded, windows
from tests.small_models import (
    batching,
    each_architecture,
    encoded,
    random_documents,
    tiny_model,
    tiny_proxy,
)


@pytest.fixture(autouse=True)
def _exact(float64_throughout: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x.to(torch.promote_types(x.dtype, torch.float32)))  # Gemma 2


def random_directions(proxy: Proxy, count: int, seed: int = 0) -> Directions:
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: proxy.shape(n) for n in proxy.tracked}
    return {
        n: torch.randn(count, o, i + b, generator=generator, dtype=torch.float64) for n, (o, i, b) in shapes.items()
    }


def flat(proxy: Proxy, directions: Directions) -> Tensor:
    return torch.cat([directions[n].flatten(1) for n in proxy.tracked], 1)


def square_roots(proxy: Proxy, tokens: Encoded) -> Tensor:
    """√H_t J_t of every scored position, stacked: `[scored * vocabulary, weights]`, from whole logits by autograd."""
    model = deepcopy(proxy.model).requires_grad_(True)
    model.set_attn_implementation("eager")
    ids = torch.from_numpy(tokens.ids.astype(np.int64))
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1][torch.from_numpy(tokens.scored[1:])]
    p = logits.detach().softmax(-1)
    roots = (torch.diag_embed(p.sqrt()) - p.sqrt().unsqueeze(2) * p.unsqueeze(1)).flatten(0, 1)  # RᵀR = diag p - p pᵀ
    layers = linear_layers(model.base_model)[0]
    modules = [layers[n] for n in proxy.tracked]
    parameters = [p for m in modules for p in parameters_of(m) if p is not None]
    outputs = roots.view(*p.shape, -1).transpose(0, 1)  # every row of R beside its own position
    rows = []
    for t in range(len(p)):
        cotangents = torch.zeros(p.shape[1], *p.shape, dtype=p.dtype)
        cotangents[:, t] = outputs[:, t]
        found = torch.autograd.grad(logits, parameters, cotangents, is_grads_batched=True, retain_graph=True)
        gradients, columns = iter(found), []
        for module in modules:
            weight = torch.stack([matrix_of(module, g) for g in next(gradients)])
            if module.bias is not None:
                bias = torch.stack([vector_of(module, g) for g in next(gradients)])
                weight = torch.cat([weight, bias.unsqueeze(2)], 2)
            columns.append(weight.flatten(1))
        rows.append(torch.cat(columns, 1))
    return torch.cat(rows) if rows else torch.zeros(0, 1)


def dense_product(proxy: Proxy, documents: Sequence[Encoded], directions: Directions) -> Tensor:
    v = flat(proxy, directions)
    roots = [square_roots(proxy, d) for d in documents if d.num_scored]
    return sum(((v @ r.T) @ r for r in roots), torch.zeros_like(v)) / len(documents)


@pytest.mark.parametrize(
    "architecture", each_architecture("LlamaConfig", "GPT2Config", "Qwen2Config", "OPTConfig", "GptOssConfig")
)
def test_the_product_equals_the_dense_one(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    documents = random_documents([5, 9, 3])
    directions = random_directions(proxy, 2)
    found = GaussNewton(proxy)(directions, documents, batching(budget=18))
    expected = dense_product(proxy, documents, directions)
    torch.testing.assert_close(flat(proxy, found), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


def test_directions_alone_other_batches_and_documents_without_scored_tokens_change_nothing() -> None:
    proxy = tiny_proxy(tiny_model("GPT2Config"))
    documents = random_documents([4, 9, 2, 7])
    directions, product = random_directions(proxy, 3), GaussNewton(proxy)
    together = product(directions, documents, batching(budget=100))
    silent = [encoded([5, 6, 7], prompt=3), encoded([])]
    for q in range(3):
        alone = {n: v[q : q + 1] for n, v in directions.items()}
        found = product(alone, [*documents, *silent], batching(budget=9))
        torch.testing.assert_close(flat(proxy, found), flat(proxy, together)[q : q + 1])


def test_the_windows_of_a_long_document_are_samples_of_their_own() -> None:
    proxy = tiny_proxy()
    (long,) = random_documents([12])
    pieces = [Encoded(ids=i, scored=s, truncated=False) for i, s in windows(long, batching(context=5).tokens)]
    directions, product = random_directions(proxy, 1), GaussNewton(proxy)
    whole = product(directions, [long], batching(context=5, long="windows"))
    torch.testing.assert_close(flat(proxy, whole), flat(proxy, product(directions, pieces, batching())))


def test_documents_that_are_not_finite_leave_the_mean() -> None:
    proxy = tiny_proxy()
    clean = random_documents([5, 8, 6], vocabulary=60)
    with torch.no_grad():
        proxy.model.get_input_embeddings().weight[66] = torch.nan  # type: ignore[index]
    directions, product = random_directions(proxy, 1), GaussNewton(proxy)
    expected = product(directions, clean, batching())
    found = product(directions, [*clean, encoded([3, 66, 4, 5])], batching(budget=100))
    torch.testing.assert_close(flat(proxy, found), flat(proxy, expected))
    assert flat(proxy, found).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_proxies_are_multiplied_in_float32_and_stay_as_they_were(dtype: torch.dtype) -> None:
    model = tiny_model("Qwen2Config").to(dtype)
    narrow, wide = tiny_proxy(model), tiny_proxy(deepcopy(model).double())
    documents = random_documents([5, 9])
    directions = random_directions(wide, 2)
    found = GaussNewton(narrow)(directions, documents, batching())
    expected = flat(wide, GaussNewton(wide)(directions, documents, batching()))
    assert {v.dtype for v in found.values()} == {torch.float32}
    torch.testing.assert_close(
        flat(narrow, found).double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )
    assert narrow.model.dtype == dtype
    assert all("forward" not in vars(m) for p in (narrow, wide) for m in p.linears.values())
