from collections.abc import Callable
from pathlib import Path

import pytest

from tests.executors.making import ROWS, make
from tests.faults.results import contents
from tests.scoring import make_project


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    return make_project(folder, ROWS)


@pytest.fixture(scope="module")
def alone(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """What one process writes, by method."""
    made: dict[str, dict[str, bytes]] = {}

    def of(what: str) -> dict[str, bytes]:
        if what not in made:
            made[what] = contents(make(what, place, tmp_path_factory.mktemp("alone")))
        return made[what]

    return of
