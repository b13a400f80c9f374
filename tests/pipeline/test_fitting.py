"""The slices of a fit are done by whoever is there; its bytes, and the run's, are those of one process."""

from pathlib import Path

import pytest

import curate
from curate.pipeline import fitting
from tests.executors.making import Seen, make, settings
from tests.faults.results import contents
from tests.scoring import make_project

OWN = {"trackstar": {"dim": 4, "rank": 1}, "ekfac": {}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("fitting"), 60)


@pytest.mark.parametrize("method", ["trackstar", "ekfac"])
def test_a_fit_by_two_processes_has_the_bytes_of_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    given = settings(place, method, method_settings=OWN[method])
    alone = curate.score(given, tmp_path / "alone" / "x")
    monkeypatch.setattr(fitting, "WORTH_SECONDS", 0)
    seen = Seen()
    run = curate.score(given, tmp_path / "two" / "x", workers=2, reporter=seen)
    assert contents(run.path) == contents(alone.path)
    print(seen.totals, seen.done, list(run.path.iterdir()), list((run.path / "curvature").iterdir()))
