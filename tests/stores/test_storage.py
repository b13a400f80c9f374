import pytest
import torch

from curate.errors import SettingsError
from curate.gradients.low_rank import truncated
from curate.gradients.sketches import Block
from curate.stores.storage import DTYPES, Products, Storage, paired

BLOCKS = [Block(name="a", start=0, rows=3, columns=4), Block(name="b", start=12, rows=2, columns=10)]


def sketches(documents: int = 300) -> torch.Tensor:
    """Documents of sizes from 1e-6 to 1e6, whose second layer is a thousandth of the first."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(documents, 32, generator=generator)
    values[:, 12:] /= 1000
    return values * 10.0 ** torch.linspace(-6, 6, documents)[:, None]


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 4.9e-4), ("int8", 4e-3)])
def test_numbers_come_back_within_their_type_whatever_their_size(dtype: str, error: float) -> None:
    storage, values = Storage(dtype, BLOCKS), sketches()
    found = storage.decode(storage.encode(values))
    for block in BLOCKS:
        part, back = values[:, block.start : block.stop], found[:, block.start : block.stop]
        assert ((part - back).abs().amax(1) <= error * part.abs().amax(1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_products_are_those_of_the_numbers_that_lie_there(dtype: str, queries: int) -> None:
    storage = Storage(dtype, BLOCKS)
    codes = storage.encode(sketches())
    asked = torch.randn(queries, 32, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-9, 1.0]).repeat(16)
    expected = storage.decode(codes).double() @ asked.double().T
    found = Products(storage, asked)(codes)
    assert found.dtype == torch.float32
    size = storage.decode(codes).norm(dim=1, keepdim=True) * asked.norm(dim=1)
    assert ((found - expected).abs() / size).max() < (5e-4 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_of_zero_stays_zero(dtype: str) -> None:
    storage = Storage(dtype, BLOCKS)
    assert storage.decode(storage.encode(torch.zeros(2, 32))).equal(torch.zeros(2, 32))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4 * 32 + 4), ("float16", 2 * 32 + 4), ("int8", 32 + 2 * 4)])
def test_the_size_said_is_the_size_that_lies_there(dtype: str, size: int) -> None:
    storage = Storage(dtype, BLOCKS)
    codes = storage.encode(sketches(7))
    assert storage.bytes_per_document == size
    assert codes.codes.nbytes + codes.scales.nbytes == 7 * size
    empty = storage.empty(7)
    assert (empty.codes.dtype, empty.scales.shape) == (codes.codes.dtype, codes.scales.shape)


WIDE = [Block(name="a", start=0, rows=8, columns=9), Block(name="b", start=72, rows=2, columns=3)]


def wide(documents: int = 200) -> torch.Tensor:
    """Documents of sizes from 1e-6 to 1e6, of which one layer gains by rank 2 and the other, a thousandth, does not."""
    values = torch.randn(documents, 78, generator=torch.Generator().manual_seed(0))
    values[:, 72:] /= 1000
    return values * 10.0 ** torch.linspace(-6, 6, documents)[:, None]


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-6), ("float16", 1e-3), ("int8", 2e-2)])
def test_factors_come_back_within_their_type_whatever_their_size(dtype: str, error: float) -> None:
    storage, values = Storage(dtype, WIDE, rank=2), wide()
    expected = truncated(values, WIDE, 2)
    codes = storage.encode(values)
    found = storage.decode(codes)
    for place in storage.packing.places:
        columns = slice(place.block.start, place.block.stop)
        size = expected[:, columns].norm(dim=1)
        assert ((found - expected)[:, columns].abs().amax(1) <= error * size).all()
        assert ((storage.layer(codes, place) - found[:, columns]).abs().amax(1) <= 1e-6 * size).all()
    assert storage.decode(storage.encode(torch.zeros(2, 78))).equal(torch.zeros(2, 78))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [1, 2, 40])
def test_products_with_factors_are_those_with_the_sketches_that_they_make(dtype: str, queries: int) -> None:
    storage = Storage(dtype, WIDE, rank=2)
    codes = storage.encode(wide())
    asked = torch.randn(queries, 78, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-9, 1.0]).repeat(39)
    expected = storage.decode(codes).double() @ asked.double().T
    size = storage.decode(codes).norm(dim=1, keepdim=True) * asked.norm(dim=1)
    assert ((Products(storage, asked)(codes) - expected).abs() / size).max() < 1e-6


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_document_meets_its_own_query(dtype: str, rank: int) -> None:
    storage, asked = Storage(dtype, WIDE, rank=rank), torch.randn(3, 78)
    codes, owners = storage.encode(wide(9)), torch.arange(9) % 3
    expected = Products(storage, asked)(codes).gather(1, owners[:, None])[:, 0]
    size = storage.decode(codes).norm(dim=1) * asked.norm(dim=1)[owners]
    assert ((paired(storage, codes, asked, owners) - expected).abs() / size).max() < 1e-6


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4 * 40 + 4), ("float16", 2 * 40 + 4), ("int8", 40 + 3 * 4)])
def test_the_size_said_of_factors_is_the_size_that_lies_there(dtype: str, size: int) -> None:
    storage = Storage(dtype, WIDE, rank=2)
    codes, empty = storage.encode(wide(7)), storage.empty(7)
    assert (storage.bytes_per_document, storage.numbers, storage.width) == (size, 40, 78)
    assert codes.codes.nbytes + codes.scales.nbytes == 7 * size
    assert (empty.codes.dtype, empty.codes.shape) == (codes.codes.dtype, codes.codes.shape)
    assert empty.scales.shape == codes.scales.shape


def test_an_unknown_type_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match=r"storage is 'float8'; expected one of float32, float16, int8"):
        Storage("float8", BLOCKS)
