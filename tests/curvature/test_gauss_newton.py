from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from curate.curvature.gauss_newton import GaussNewton
from curate.gradients.directions import Directions
from curate.models import Proxy
from curate.tokens import Encoded
from tests.small_models import ARCHITECTURES, batching, random_documents, tiny_model, tiny_proxy


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
    modules = [model.base_model.get_submodule(n) for n in proxy.tracked]
    parameters = [p for m in modules for p in (m.weight, m.bias) if p is not None]
    outputs = roots.view(*p.shape, -1).transpose(0, 1)  # every row of R beside its own position
    rows = []
    for t in range(len(p)):
        cotangents = torch.zeros(p.shape[1], *p.shape, dtype=p.dtype)
        cotangents[:, t] = outputs[:, t]
        found = torch.autograd.grad(logits, parameters, cotangents, is_grads_batched=True, retain_graph=True)
        gradients, columns = iter(found), []
        for module in modules:
            weight = next(gradients)
            weight = weight.transpose(1, 2) if isinstance(module, Conv1D) else weight
            if module.bias is not None:
                weight = torch.cat([weight, next(gradients).unsqueeze(2)], 2)
            columns.append(weight.flatten(1))
        rows.append(torch.cat(columns, 1))
    return torch.cat(rows) if rows else torch.zeros(0, 1)


def dense_product(proxy: Proxy, documents: Sequence[Encoded], directions: Directions) -> Tensor:
    v = flat(proxy, directions)
    roots = [square_roots(proxy, d) for d in documents if d.num_scored]
    return sum(((v @ r.T) @ r for r in roots), torch.zeros_like(v)) / len(documents)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_product_equals_the_dense_one(architecture: str) -> None:
    proxy = tiny_proxy(tiny_model(architecture))
    documents = random_documents([5, 9, 3])
    directions = random_directions(proxy, 2)
    found = GaussNewton(proxy)(directions, documents, batching(budget=18))
    expected = dense_product(proxy, documents, directions)
    torch.testing.assert_close(flat(proxy, found), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
