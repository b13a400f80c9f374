from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.curvature import diagonal, ekfac, kfac, shampoo
from curate.curvature.eigenbasis import Bases, Squares, into_eigenvectors, to_tensors
from curate.gradients.covariances import Covariances
from curate.gradients.linear import tapped
from curate.gradients.passes import BatchView, Passes, Sums
from curate.gradients.shared_inputs import input_leaders
from curate.progress import Silent
from curate.proxies.proxy import Proxy
from tests.curvature.truth import mean, truths
from tests.small_models import ARCHITECTURES, batching, random_documents, tiny_model, tiny_proxy

LENGTHS = [12, 3, 9, 2, 24, 12, 17]
FAST = ("LlamaConfig", "Qwen2Config", "OPTConfig", "GptOssConfig")


def show(sums: Sums, proxy: Proxy, name: str, a: Tensor, g: Tensor) -> None:
    """Let a layer's taps see one-token documents with these inputs and output gradients."""
    documents = len(a)
    view = BatchView(
        shape=torch.Size((documents, 1)), scored=torch.arange(documents), finite=torch.ones(documents).bool()
    )
    with tapped(proxy.linears, sums.taps(view)):
        proxy.linears[name](a[:, None]).backward(g[:, None])
    assert view.finite.all()


@pytest.mark.parametrize("damping", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("module", ["layers.0.self_attn.k_proj", "layers.0.mlp.up_proj"])  # with a bias, and without
def test_where_gradients_are_independent_of_inputs_the_solve_is_the_dense_damped_kronecker_one(
    module: str, damping: float
) -> None:
    proxy = tiny_proxy(tiny_model("Qwen2Config"), None, module)
    d_out, d_in, biased = proxy.shape(module)
    torch.manual_seed(1)
    ours, theirs = torch.randn(30, d_in).double(), torch.randn(40, d_out).double()
    a, g = ours.repeat_interleave(40, 0), theirs.repeat(30, 1)  # every pair: exactly independent
    first = input_leaders(proxy)
    factors = Covariances(proxy, first)
    show(factors, proxy, module, a, g)
    for total in (factors.inputs[module], factors.outputs[module]):
        total.div_(len(a))
    wide = torch.cat([a, torch.ones(len(a), 1).double()], 1) if biased else a
    dense = torch.kron(g.T @ g / len(g), wide.T @ wide / len(a))
    into_eigenvectors(factors.inputs, Silent())
    into_eigenvectors(factors.outputs, Silent())
    bases = Bases(outputs=factors.outputs, inputs=factors.inputs, leaders=first)
    squares = Squares(proxy, first, bases)
    show(squares, proxy, module, a, g)
    eigenvalues = {module: squares.sums[module] / len(a)}
    found = ekfac.Ekfac.of(to_tensors(bases, eigenvalues), damping=damping)
    delta = damping * dense.diagonal().mean()
    assert found.dampings[module] == pytest.approx(delta.item())
    u = torch.randn(2, d_out, d_in + biased).double()
    expected = torch.linalg.solve(dense + delta * torch.eye(len(dense)).double(), u.flatten(1).T).T.view_as(u)
    torch.testing.assert_close(found.solve({module: u})[module], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("architecture", "fisher"),
    [
        *(pytest.param(a, "sampled", marks=() if a in FAST else pytest.mark.slow) for a in ARCHITECTURES),
        ("GPT2Config", "empirical"),
    ],
)
def test_bases_diagonalise_the_covariances_and_eigenvalues_are_the_mean_over_documents(
    architecture: str, fisher: str
) -> None:
    proxy, documents = tiny_proxy(tiny_model(architecture)), random_documents(LENGTHS)
    tensors = ekfac.fit(Passes(proxy, documents, batching(budget=30), fisher=fisher, seed=4))
    passes = Passes(proxy, documents, batching(), fisher=fisher, seed=4)
    one, two = truths(proxy, passes, 1), truths(proxy, passes, 2)
    factors = sorted(key.removeprefix("inputs/") for key in tensors if key.startswith("inputs/"))
    for name in proxy.tracked:
        q_s, q_a = tensors[f"outputs/{name}"], tensors[f"inputs/{factors[int(tensors[f'inputs_of/{name}'])]}"]
        for basis, rows in ((q_s, [t.outputs[name] for t in one]), (q_a, [t.inputs[name] for t in one])):
            together = torch.cat(rows)
            diagonal = basis.T @ (together.T @ together / len(together)) @ basis
            torch.testing.assert_close(diagonal, diagonal.diagonal().diag(), rtol=0, atol=1e-9 * diagonal.max().item())
            torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)).double())
        expected = mean([(q_s.T @ t.gradients[name] @ q_a) ** 2 for t in two])
        torch.testing.assert_close(tensors[f"eigenvalues/{name}"], expected, rtol=1e-7, atol=1e-9)


def test_the_basis_of_shared_inputs_is_kept_once() -> None:
    tensors = ekfac.fit(Passes(tiny_proxy(), random_documents(LENGTHS), batching()))
    inputs = [key for key in tensors if key.startswith("inputs/") and ".0." in key]
    names = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
    assert inputs == [f"inputs/layers.0.{name}" for name in names]
    assert sum(key.startswith("outputs/layers.0.") for key in tensors) == 7


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("Qwen2Config", ("layers.0.self_attn.k_proj", "layers.1.mlp.down_proj")),
        ("GptOssConfig", ("layers.0.mlp.experts.0.down_proj", "layers.1.mlp.experts.2.down_proj")),
    ],
)
def test_kfac_is_the_dense_damped_solve_with_both_covariances_on_the_scale_of_a_document(
    architecture: str, names: Sequence[str]
) -> None:
    proxy, documents = tiny_proxy(tiny_model(architecture)), random_documents(LENGTHS)
    found = kfac.Kfac.of(kfac.fit(Passes(proxy, documents, batching(budget=30), seed=4)), damping=0.2)
    passes = Passes(proxy, documents, batching(), seed=4)
    truth = truths(proxy, passes, 1)
    for name in names:
        a, g = torch.cat([t.inputs[name] for t in truth]), torch.cat([t.outputs[name] for t in truth])
        scored = len(a)
        assert scored == sum(e.num_scored for e in documents) if "experts" not in name else scored > 0
        dense = torch.kron(g.T @ g / scored, a.T @ a / scored) * scored / len(documents)
        delta = 0.2 * dense.diagonal().mean()
        u = torch.randn(3, g.shape[1], a.shape[1]).double()
        expected = torch.linalg.solve(dense + delta * torch.eye(len(dense)).double(), u.flatten(1).T).T.view_as(u)
        torch.testing.assert_close(found.solve({name: u})[name], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("curvature", [kfac, ekfac, pytest.param(shampoo, marks=pytest.mark.slow), diagonal])
def test_an_expert_that_no_document_reaches_has_no_curvature_and_no_solution(curvature: Any) -> None:
    model = tiny_model("GptOssConfig")
    with torch.no_grad():
        model.model.layers[1].mlp.router.bias[2] = -1e9
    proxy = tiny_proxy(model)
    tensors = curvature.fit(Passes(proxy, random_documents(LENGTHS), batching(budget=30)))
    kind = diagonal.Diagonal if curvature is diagonal else kfac.Kfac
    shapes = {n: proxy.shape(n) for n in proxy.tracked}
    directions = {n: torch.randn(1, o, i + biased).double() for n, (o, i, biased) in shapes.items()}
    solved = kind.of(tensors, damping=0.1).solve(directions)
    assert set(solved) == set(proxy.tracked)
    unreached = {n for n, u in solved.items() if not u.any()}
    assert unreached == {f"layers.1.mlp.experts.2.{kind}" for kind in ("gate_up_proj", "down_proj")}
