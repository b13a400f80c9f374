"""Truncation against singular value decompositions."""

import pytest
import torch
from torch import Tensor

from curate.gradients.documents import document_sketches
from curate.gradients.low_rank import Packing, factors, truncated
from curate.gradients.sketches import Block, SketchEngine
from tests.small_models import batching, random_documents, tiny_proxy

BLOCKS = [
    Block(name="a", start=0, rows=8, columns=9),
    Block(name="b", start=72, rows=2, columns=3),
    Block(name="c", start=78, rows=8, columns=9),
]


def matrices(n: int, rows: int, columns: int, decay: float) -> Tensor:
    """Random singular vectors, singular values k^-decay."""
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(
        torch.randn(n, rows, columns, generator=generator, dtype=torch.float64), full_matrices=False
    )
    return (left * torch.arange(1.0, min(rows, columns) + 1) ** -decay) @ right


def product(matrices: Tensor, rank: int) -> Tensor:
    left, right = factors(matrices, rank)
    return left.transpose(1, 2) @ right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (64, 20), (7, 33)])
@pytest.mark.parametrize("decay", [0.5, 1.5])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_hundredth_of_the_energy_at_most_is_lost_to_the_optimum(
    dtype: torch.dtype, rows: int, columns: int, decay: float, rank: int
) -> None:
    values = matrices(50, rows, columns, decay).to(dtype)
    best = torch.linalg.svdvals(values)[:, :rank].square().sum(1)
    found = product(values, rank)
    assert found.dtype == dtype
    kept = found.square().sum((1, 2))
    assert (kept / best).min() > 0.99
    assert (kept / best).max() < 1 + 1e-5
    lost = (values - found).square().sum((1, 2))
    torch.testing.assert_close(lost + kept, values.square().sum((1, 2)), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_what_has_this_rank_already_comes_back_at_any_size(size: float) -> None:
    left, right = torch.randn(20, 64, 2), torch.randn(20, 2, 64)
    right[:, 1] *= 1e-3
    right[0] = 0
    values = left @ right * size
    for rank in (2, 5):
        found = product(values, rank)
        assert ((found - values).abs().amax((1, 2)) <= 2e-6 * values.abs().amax((1, 2))).all()


def test_factors_share_singular_values_evenly_and_come_largest_first() -> None:
    left, right = factors(matrices(10, 30, 40, 1.0), 3)
    torch.testing.assert_close(left.norm(dim=2), right.norm(dim=2))
    strengths = left.norm(dim=2).square()
    torch.testing.assert_close(strengths, torch.tensor([1.0, 1 / 2, 1 / 3]).double().expand(10, 3), rtol=1e-3, atol=0.0)
    angles = left @ left.transpose(1, 2) - torch.diag_embed(strengths)
    assert angles.abs().max() < 1e-9


def test_a_matrix_alone_is_as_among_others() -> None:
    values = matrices(40, 64, 64, 0.3).float()
    together = product(values, 2)
    alone = torch.cat([product(v, 2) for v in values.split(1)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def test_a_layer_that_would_not_shrink_stays_whole() -> None:
    packing = Packing(BLOCKS, 2)
    assert [p.rank for p in packing.places] == [2, 0, 2]
    assert packing.width == 2 * 17 + 6 + 2 * 17
    assert [p.rank for p in Packing(BLOCKS, 1).places] == [1, 1, 1]  # 2 + 3 < 2 · 3
    for rank in (0, 5):
        assert Packing(BLOCKS, rank).is_whole


def test_packed_sketches_come_back_truncated_layer_by_layer() -> None:
    values = torch.randn(9, 150, dtype=torch.float64)
    packing = Packing(BLOCKS, 2)
    packed = packing.pack(values)
    assert packed.shape == (9, packing.width)
    found = packing.unpack(packed)
    assert found[:, 72:78].equal(values[:, 72:78])
    for block in (BLOCKS[0], BLOCKS[2]):
        own = values[:, block.start : block.stop].view(9, 8, 9)
        left, strengths, right = torch.linalg.svd(own, full_matrices=False)
        expected = (left[:, :, :2] * strengths[:, None, :2]) @ right[:, :2]
        torch.testing.assert_close(found[:, block.start : block.stop].view(9, 8, 9), expected)
    assert truncated(values, BLOCKS, 2).equal(found)
    assert truncated(values, BLOCKS, 0) is values


def test_no_documents_pack_into_none() -> None:
    packing = Packing(BLOCKS, 1)
    assert packing.pack(torch.zeros(0, 150)).shape == (0, packing.width)
    assert truncated(torch.zeros(0, 150), BLOCKS, 1).shape == (0, 150)


def test_a_document_that_is_not_finite_stays_so_and_spoils_no_other() -> None:
    values = torch.randn(3, 150)
    expected = truncated(values, BLOCKS, 1)
    values[1, 100] = torch.nan
    found = truncated(values, BLOCKS, 1)
    assert found[1, 100].isnan()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


def test_nothing_is_lost_of_a_document_of_two_tokens() -> None:
    engine = SketchEngine(tiny_proxy(), dim=8, seed=0)  # one position has a gradient: every layer's part is of rank 1
    (found,) = document_sketches(engine, random_documents([2]), batching())
    assert not Packing(engine.blocks, 1).is_whole
    torch.testing.assert_close(truncated(found.values, engine.blocks, 1), found.values, rtol=1e-9, atol=1e-12)
