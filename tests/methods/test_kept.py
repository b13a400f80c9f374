from pathlib import Path

import pytest
import torch
from torch import Tensor

from curate.folders.kept import Kept


def made(value: float) -> dict[str, Tensor]:
    return {"b": torch.full((2, 3), value).T, "a": torch.tensor([value], dtype=torch.float64)}


def unneeded() -> dict[str, Tensor]:
    raise AssertionError("was kept, and is made again")


def test_what_was_made_is_made_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    first = kept.get("target/sketches", {"seed": 1, "dim": 2}, lambda: made(3.0))
    for again in (kept, Kept(tmp_path)):
        found = again.get("target/sketches", {"dim": 2, "seed": 1}, unneeded)
        assert all(found[n].equal(first[n]) and found[n].dtype == first[n].dtype for n in ("a", "b"))


@pytest.mark.parametrize("changed", [{"seed": 2}, {"seed": 1, "more": None}, {}])
def test_what_depends_on_something_else_is_another(tmp_path: Path, changed: dict[str, object]) -> None:
    kept = Kept(tmp_path)
    kept.get("target/sketches", {"seed": 1}, lambda: made(3.0))
    assert kept.get("target/sketches", changed, lambda: made(4.0))["a"].item() == 4
    assert kept.get("curvature/moment", {"seed": 1}, lambda: made(5.0))["a"].item() == 5
    assert kept.get("target/sketches", {"seed": 1}, unneeded)["a"].item() == 3


def test_a_neighbours_is_taken_and_kept_here_with_the_same_bytes(tmp_path: Path) -> None:
    Kept(tmp_path / "one").get("target/sketches", {"seed": 1}, lambda: made(3.0))
    found = Kept(tmp_path / "two", [tmp_path / "none", tmp_path / "one"]).get("target/sketches", {"seed": 1}, unneeded)
    assert found["a"].item() == 3
    here, there = (list((tmp_path / run / "target").iterdir()) for run in ("two", "one"))
    assert [f.name for f in here] == [f.name for f in there]
    assert here[0].read_bytes() == there[0].read_bytes()


def test_nothing_is_left_behind_when_making_fails(tmp_path: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise MemoryError

    with pytest.raises(MemoryError):
        Kept(tmp_path).get("target/sketches", {}, fail)
    assert not list(tmp_path.rglob("*.*"))
