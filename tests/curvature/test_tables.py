from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.curvature import diagonal, ekfac, kfac, shampoo
from curate.curvature.groups import fit_in_groups
from curate.gradients.passes import Passes
from curate.proxies.proxy import Proxy
from curate.proxies.tables import tables_of, with_tables
from tests.small_models import batching, random_documents, tiny_model, tiny_proxy, whole_gradients

DOCUMENTS = random_documents([12, 3, 9, 24, 17, 8, 22], seed=1)
FITS: dict[str, tuple[Callable[..., dict[str, Tensor]], Any]] = {
    "diagonal": (diagonal.fit, diagonal.Diagonal.of),
    "ekfac": (ekfac.fit, ekfac.Ekfac.of),
    "kfac": (kfac.fit, kfac.Kfac.of),
    "shampoo": (shampoo.fit, shampoo.Shampoo.of),
}


def proxy_of(tied: bool) -> Proxy:
    return with_tables(tiny_proxy(tiny_model("LlamaConfig", tie_word_embeddings=tied), None, "*.mlp.*"))


def passes_over(proxy: Proxy, budget: int = 40, fisher: str = "empirical") -> Passes:
    return Passes(proxy, DOCUMENTS, batching(budget=budget), fisher=fisher, seed=4)


def gradients_of(proxy: Proxy, name: str) -> Tensor:
    return torch.stack([whole_gradients(proxy, d)[1][name] for d in DOCUMENTS])


@pytest.mark.parametrize(
    ("architecture", "tied"), [("LlamaConfig", True), pytest.param("PhiConfig", False, marks=pytest.mark.slow)]
)
def test_eigenvalues_of_tables_are_the_mean_over_documents_in_the_basis(architecture: str, tied: bool) -> None:
    model = tiny_model(architecture, tie_word_embeddings=tied)
    proxy = with_tables(tiny_proxy(model))
    by_ekfac, by_shampoo, by_diagonal = (f(passes_over(proxy)) for f in (ekfac.fit, shampoo.fit, diagonal.fit))
    for name in proxy.tables:
        whole = gradients_of(proxy, name)
        torch.testing.assert_close(by_diagonal[name], whole.square().mean(0), rtol=1e-7, atol=1e-9)
        for tensors in (by_ekfac, by_shampoo):
            basis = tensors[f"inputs/{name}"]
            torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)).double())
            expected = (whole @ basis).square().mean(0)
            torch.testing.assert_close(tensors[f"eigenvalues/{name}"], expected, rtol=1e-7, atol=1e-9)
            assert f"outputs/{name}" not in tensors
        moment = torch.einsum("nvd,nve->de", whole, whole)
        basis = by_shampoo[f"inputs/{name}"]
        turned = basis.T @ moment @ basis
        torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-9 * turned.max().item())


def sides(proxy: Proxy) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p - 1_y and h at scored positions; tokens read and the gradients there, where those are not 0."""
    pulls, states, tokens, gradients = [], [], [], []
    for document in DOCUMENTS:
        ids = torch.from_numpy(document.ids).long()[None]
        embedded = proxy.model.get_input_embeddings()(ids).requires_grad_(True)  # type: ignore[misc]
        hidden = proxy.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits = hidden @ proxy.model.get_output_embeddings().weight.T  # type: ignore[operator, union-attr]
        logits.retain_grad()
        scored = torch.from_numpy(document.scored[1:])
        torch.nn.functional.cross_entropy(logits[0, :-1][scored], ids[0, 1:][scored], reduction="sum").backward()
        assert logits.grad is not None
        assert embedded.grad is not None
        pulls.append(logits.grad[0, :-1][scored])
        states.append(hidden[0, :-1][scored].detach())
        read = embedded.grad[0].any(-1)
        tokens.append(ids[0][read])
        gradients.append(embedded.grad[0][read])
    return torch.cat(pulls), torch.cat(states), torch.cat(tokens), torch.cat(gradients)


@pytest.mark.parametrize("tied", [True, False])
def test_kfac_has_a_diagonal_over_the_vocabulary_and_a_covariance_over_the_width(tied: bool) -> None:
    proxy = proxy_of(tied)
    tensors = kfac.fit(passes_over(proxy))
    pulls, states, tokens, gradients = sides(proxy)
    head = torch.einsum("v,de->vde", pulls.square().sum(0), states.T @ states / len(states))
    counts = tokens.bincount(minlength=head.shape[0]).double()
    embedding = torch.einsum("v,de->vde", counts, gradients.T @ gradients / len(gradients))
    for name, table in tables_of(proxy).items():
        by_row = (table.heads * head + table.embeds * embedding) / len(DOCUMENTS)
        basis, eigenvalues = tensors[f"inputs/{name}"], tensors[f"eigenvalues/{name}"]
        expected = torch.einsum("di,vde,ei->vi", basis, by_row, basis)
        torch.testing.assert_close(eigenvalues, expected, rtol=1e-6, atol=1e-9)
        turned = basis.T @ by_row.sum(0) @ basis
        torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-9 * turned.max().item())
        if not tied:
            damped = by_row + 0.2 * by_row.diagonal(dim1=1, dim2=2).mean() * torch.eye(by_row.shape[1]).double()
            u = torch.randn(2, *table.shape).double()
            solved = kfac.Kfac.of(tensors, damping=0.2).solve({name: u})[name]
            torch.testing.assert_close(solved, torch.linalg.solve(damped, u.unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("kfac", "shampoo") else ()) for kind in FITS]
)
def test_a_fit_with_tables_depends_on_no_batch_and_turns_no_gradient_around(kind: str) -> None:
    fit, read = FITS[kind]
    proxy = proxy_of(tied=kind != "shampoo")
    directions = {n: gradients_of(proxy, n)[:2] for n in (*proxy.tracked, *proxy.tables)}

    def solved(budget: int) -> Mapping[str, Tensor]:
        return read(fit(passes_over(proxy, budget, "sampled")), damping=0.1).solve(directions)

    alone, together = solved(1), solved(1000)
    assert alone.keys() == directions.keys()
    for name, u in directions.items():
        torch.testing.assert_close(together[name], alone[name], rtol=1e-6, atol=1e-6 * float(alone[name].abs().max()))
        assert (alone[name] * u).sum((1, 2)).gt(0).all()


def test_layers_in_groups_leave_the_tables_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, fitted_tables = proxy_of(tied=False), []

    def passes(part: Proxy) -> Passes:
        fitted_tables.append(part.tables)
        return passes_over(part)

    whole = ekfac.fit(passes_over(proxy))
    monkeypatch.setattr("curate.curvature.groups.free_bytes", lambda _: 1)
    parts = fit_in_groups(proxy, passes, ekfac.fit)
    assert fitted_tables == [proxy.tables, *[()] * (len(proxy.tracked) - 1)]
    for name in proxy.tables:
        torch.testing.assert_close(parts[f"eigenvalues/{name}"], whole[f"eigenvalues/{name}"])
