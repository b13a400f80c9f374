"""Projections of whole gradients: unbiased, the same in any block, literal signs, and as exact as signs allow."""

import pytest
import torch

from curate.errors import SettingsError
from curate.gradients.whole_projections import PIECE, Hadamard, Signs, whole_projection

KINDS = ["hadamard", "signs"]


def matrix(kind: str, entries: int, dim: int, seed: int = 0) -> torch.Tensor:
    return whole_projection(kind, dim, seed)(torch.eye(entries, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "hadamard" else ()) for k in KINDS])
def test_products_are_kept_in_the_mean_over_seeds(kind: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 200, dtype=torch.float64)
    products = []
    for seed in range(400):
        px, py = whole_projection(kind, 64, seed)(torch.stack([x, y]))  # type: ignore[arg-type]
        products.append(float(px @ py))
    sizes = float(x.norm() * y.norm())
    mean, error = sum(products) / 400, torch.tensor(products).std().item() / 20
    assert abs(mean - float(x @ y)) < 4 * error
    assert 0.5 * sizes / 8 < error * 20 < 2 * sizes / 8  # 1/√dim of the vectors' lengths


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entries", [5, 300, PIECE + 7])
def test_each_row_is_projected_alone(kind: str, entries: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(3, entries, dtype=torch.float64)
    project = whole_projection(kind, 16, 1)  # type: ignore[arg-type]
    together = project(values)
    torch.testing.assert_close(torch.cat([project(v[None]) for v in values]), together, rtol=1e-12, atol=1e-12)
    assert not whole_projection(kind, 16, 2)(values).allclose(together)  # type: ignore[arg-type]


def test_the_matrix_of_signs_has_entries_of_one_size_as_many_of_each_sign() -> None:
    signs = matrix("signs", 5000, 8)
    assert signs.abs().unique().tolist() == pytest.approx([8**-0.5])
    assert abs(float(signs.mean())) < 0.01
    torch.testing.assert_close(signs.T @ signs / 5000 * 8, torch.eye(8, dtype=torch.float64), rtol=0, atol=0.08)


def test_the_hadamard_projection_keeps_lengths_up_to_what_falls_on_one_place() -> None:
    whole = matrix("hadamard", 40, PIECE)
    torch.testing.assert_close(whole @ whole.T, torch.eye(40, dtype=torch.float64))  # nothing falls together


def test_both_kinds_are_as_exact() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3000, dtype=torch.float64)
    errors = {}
    for kind in KINDS:
        apart = []
        for seed in range(60):
            px, py = whole_projection(kind, 128, seed)(torch.stack([x, y]))  # type: ignore[arg-type]
            apart.append(float(px @ py - x @ y))
        errors[kind] = torch.tensor(apart).std().item()
    assert errors["hadamard"] < 1.4 * errors["signs"]


@pytest.mark.parametrize("dim", [100, 2 * PIECE])
def test_a_size_that_is_no_power_of_two_is_refused(dim: int) -> None:
    with pytest.raises(SettingsError, match=f"dim is {dim}; expected a power of 2, at most 65536"):
        Hadamard(dim, 0)
    assert Signs(100, 0)(torch.ones(1, 3)).shape == (1, 100)
