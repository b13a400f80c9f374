import math

import pytest
import torch
from torch import Tensor

from curate.curvature.second_moment import (
    SecondMoment,
    decompose_sample,
    inverse_roots,
    mix,
    mixing_share,
    roots_of,
    spectrum,
)
from curate.gradients.roots import ThinRoot, whiten
from curate.gradients.scoring import prepare_sketches
from curate.gradients.sketches import Block

BLOCKS = [Block(name="a", start=0, rows=2, columns=3), Block(name="b", start=6, rows=2, columns=2)]


def sketches(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 10, generator=generator, dtype=torch.float64) * torch.logspace(0, 1, 10, dtype=torch.float64)


def test_the_second_moment_is_the_mean_of_outer_products_layer_by_layer() -> None:
    values = sketches(13)
    moment = SecondMoment(BLOCKS)
    for part in values.split([1, 7, 5]):
        moment.update(part)
    assert moment.count == 13
    found = moment.mean()
    for name, columns in (("a", slice(0, 6)), ("b", slice(6, 10))):
        outer = torch.stack([torch.outer(row[columns], row[columns]) for row in values])
        torch.testing.assert_close(found[name], outer.mean(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_documents_that_are_not_finite_are_left_out_whole(bad: float) -> None:
    values = sketches(6)
    values[2, 9] = bad
    spoilt, clean = SecondMoment(BLOCKS), SecondMoment(BLOCKS)
    spoilt.update(values)
    clean.update(values[[0, 1, 3, 4, 5]])
    assert spoilt.count == 5
    assert all(spoilt.mean()[n].equal(clean.mean()[n]) for n in ("a", "b"))


def test_the_caller_may_use_its_sketches_again() -> None:
    values = sketches(6)
    before, moment = values.clone(), SecondMoment(BLOCKS)
    moment.update(values)
    moment.mean()["a"].zero_()
    moment.update(values)
    assert values.equal(before)
    torch.testing.assert_close(moment.mean()["a"], values[:, :6].T @ values[:, :6] / 6)


@pytest.mark.parametrize("damping", [0.1, 3.0])
def test_both_roots_together_are_one_damped_solve(damping: float) -> None:
    moment = SecondMoment(BLOCKS)
    moment.update(sketches(4))  # fewer documents than dimensions: R alone has no inverse
    moments, (one, other) = moment.mean(), sketches(2, seed=1)
    whitening = inverse_roots(moments, damping=damping)
    whitened = prepare_sketches(torch.stack([one, other]), BLOCKS, whitening, unit=False)
    expected = torch.zeros((), dtype=torch.float64)
    for block in BLOCKS:
        columns = slice(block.start, block.stop)
        mean = moments[block.name].trace() / (block.stop - block.start)
        damped = moments[block.name] + damping * mean * torch.eye(block.stop - block.start, dtype=torch.float64)
        expected = expected + one[columns] @ torch.linalg.solve(damped, other[columns])
    torch.testing.assert_close(whitened[0] @ whitened[1], expected)
    assert all(torch.allclose(root, root.T) for root in whitening.values())


@pytest.mark.parametrize("documents", [1, 5, 9, 10, 30])
@pytest.mark.parametrize("damping", [0.01, 0.1, 1.0])
def test_the_root_of_a_sample_is_that_of_its_moment(documents: int, damping: float) -> None:
    sample, values = sketches(documents), sketches(3, seed=1)
    expected = whiten(values, inverse_roots({"a": sample.T @ sample / documents}, damping=damping)["a"])
    for dtype, error in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        root = roots_of({"a": decompose_sample(sample, dtype)}, damping=damping)["a"]
        assert isinstance(root, ThinRoot) == (documents < 10)
        found = whiten(values.to(root.vectors.dtype) if isinstance(root, ThinRoot) else values, root)
        assert ((found - expected).abs() / expected.norm(dim=1, keepdim=True)).max() < error


def test_a_sample_without_any_gradient_leaves_sketches_as_they_are() -> None:
    root = roots_of({"a": decompose_sample(torch.zeros(3, 10), torch.float32)}, damping=0.1)["a"]
    values = torch.randn(2, 10)
    assert whiten(values, root).equal(values)


def test_the_identity_leaves_sketches_as_they_are() -> None:
    eye = {"a": torch.eye(6, dtype=torch.float64), "b": torch.eye(4, dtype=torch.float64)}
    values = sketches(3)
    whitened = prepare_sketches(values, BLOCKS, inverse_roots(eye, damping=0.0), unit=False)
    torch.testing.assert_close(whitened, values)


def test_a_layer_without_any_gradient_stays_without() -> None:
    roots = inverse_roots({"a": torch.zeros(3, 3)}, damping=0.1)
    assert roots["a"].isfinite().all()
    assert roots["a"].dtype == torch.float32


def test_moments_mix_by_share() -> None:
    mixed = mix({"a": torch.full((2, 2), 3.0)}, {"a": torch.full((2, 2), 7.0)}, 0.25)
    assert mixed["a"].tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize(("k", "share"), [(1, 1 / 3), (3, 5 / 9), (5, 2 / 3), (0, 1 / 3), (99, 2 / 3)])
def test_the_papers_share_balances_the_kth_eigenvalues(k: int, share: float) -> None:
    pool, target = torch.tensor([8.0, 10, 5, 1, 3]), torch.tensor([20, 6, 4, 2, 0.5])
    assert mixing_share(pool, target, k) == pytest.approx(share)


def test_two_empty_spectra_share_nothing() -> None:
    assert mixing_share(torch.zeros(3), torch.zeros(3), 2) == 0


def test_the_spectrum_is_that_of_all_layers_together() -> None:
    moments = {"a": torch.diag(torch.tensor([1.0, 9.0])), "b": torch.diag(torch.tensor([4.0]))}
    assert spectrum(moments).sort().values.tolist() == [1, 4, 9]
