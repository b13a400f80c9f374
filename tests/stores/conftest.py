from dataclasses import replace
from pathlib import Path

import pytest

import curate
from curate.stores.settings import IndexSettings
from curate.stores.store import Store
from tests.scoring import make_project

ROWS = 28
DOCUMENTS = 4 * ROWS + 1
"""Of the pool's shards; in one are three rows that are none."""


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proxy, a pool of four shards with odd rows, a target of two groups."""
    folder = tmp_path_factory.mktemp("stores")
    return make_project(folder, ROWS)


def asked(place: Path, **changes) -> IndexSettings:
    given = IndexSettings(
        pool=(str(place / "pool"),),
        model=str(place / "proxy"),
        device="cpu",
        background=64,
        part_documents=16,
        dim=4,
        storage="float32",
    )
    return replace(given, **changes)


@pytest.fixture(scope="package")
def store(place: Path) -> Store:
    return curate.index(asked(place), place / "stores" / "exact")


@pytest.fixture(scope="package")
def low_rank(place: Path) -> Store:
    """A store of factors whose layers have more entries than there are documents in the background."""
    return curate.index(asked(place, dim=12, rank=2), place / "stores" / "low-rank")


@pytest.fixture(scope="package", params=[pytest.param("float16", marks=pytest.mark.slow), "int8"])
def low_rank_compressed(request: pytest.FixtureRequest, place: Path) -> Store:
    return curate.index(
        asked(place, dim=12, rank=2, storage=request.param), place / "stores" / f"low-rank-{request.param}"
    )


@pytest.fixture(scope="package", params=[pytest.param("float16", marks=pytest.mark.slow), "int8"])
def compressed(request: pytest.FixtureRequest, place: Path) -> Store:
    return curate.index(asked(place, storage=request.param), place / "stores" / request.param)
