from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.folders.codecs import ARRAY, JSON, Codec
from curate.folders.kept import Kept, kept_folder, workplace
from curate.folders.local import open_folder
from curate.folders.tensors import TENSORS


def tensors(run: Path, *neighbours: Path) -> Kept[dict[str, Tensor]]:
    return Kept(open_folder(run), TENSORS, [open_folder(path) for path in neighbours])


def made(value: float) -> dict[str, Tensor]:
    return {"b": torch.full((2, 3), value).T, "a": torch.tensor([value], dtype=torch.float64)}


def unneeded() -> dict[str, Tensor]:
    raise AssertionError("was kept, and is made again")


def test_what_was_made_is_made_once(tmp_path: Path) -> None:
    kept = tensors(tmp_path)
    first = kept.get("target/sketches", {"seed": 1, "dim": 2}, lambda: made(3.0))
    for again in (kept, tensors(tmp_path)):
        found = again.get("target/sketches", {"dim": 2, "seed": 1}, unneeded)
        assert all(found[n].equal(first[n]) and found[n].dtype == first[n].dtype for n in ("a", "b"))


@pytest.mark.parametrize("changed", [{"seed": 2}, {"seed": 1, "more": None}, {}])
def test_what_depends_on_something_else_is_another(tmp_path: Path, changed: dict[str, object]) -> None:
    kept = tensors(tmp_path)
    kept.get("target/sketches", {"seed": 1}, lambda: made(3.0))
    assert kept.get("target/sketches", changed, lambda: made(4.0))["a"].item() == 4
    assert kept.get("curvature/moment", {"seed": 1}, lambda: made(5.0))["a"].item() == 5
    assert kept.get("target/sketches", {"seed": 1}, unneeded)["a"].item() == 3


def test_a_neighbours_is_taken_and_kept_here_with_the_same_bytes(tmp_path: Path) -> None:
    tensors(tmp_path / "one").get("target/sketches", {"seed": 1}, lambda: made(3.0))
    found = tensors(tmp_path / "two", tmp_path / "none", tmp_path / "one").get("target/sketches", {"seed": 1}, unneeded)
    assert found["a"].item() == 3
    here, there = (list((tmp_path / run / "target").iterdir()) for run in ("two", "one"))
    assert [f.name for f in here] == [f.name for f in there]
    assert here[0].read_bytes() == there[0].read_bytes()


def test_nothing_is_left_behind_when_making_fails(tmp_path: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise MemoryError

    with pytest.raises(MemoryError):
        tensors(tmp_path).get("target/sketches", {}, fail)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (ARRAY, np.arange(6.0).reshape(2, 3).T),
        (JSON, {"a": "é", "b": [1, None]}),
        (TENSORS, {"a": torch.tensor([0.1])}),
    ],
)
def test_every_kind_is_found_again_and_a_damaged_file_is_made_again(
    tmp_path: Path, codec: Codec[Any], value: Any
) -> None:
    kept, times = Kept(open_folder(tmp_path), codec), []

    def make() -> Any:
        times.append(1)
        return value

    assert not kept.has("deep/x")
    assert kept.find("deep/x") is None
    for _ in range(2):
        assert repr(kept.at("deep/x", make)) == repr(value)
    assert len(times) == 1
    file = tmp_path / f"deep/x{codec.suffix}"
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        assert kept.find("deep/x") is None
        assert repr(kept.at("deep/x", make)) == repr(value)
        assert file.read_bytes() == whole
    assert len(times) == 3


def test_a_folder_is_filled_once_and_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half.txt").write_text("half")
        raise MemoryError

    with pytest.raises(MemoryError):
        kept_folder(open_folder(tmp_path), "trees/x", fail)
    assert not list(tmp_path.rglob("*.*"))
    kept_folder(open_folder(tmp_path), "trees/x", lambda path: (path / "whole.txt").write_text("whole"))
    found = kept_folder(open_folder(tmp_path), "trees/x", fail)
    assert (found / "whole.txt").read_text() == "whole"


def test_a_workplace_outlives_an_error_and_goes_when_all_is_done(tmp_path: Path) -> None:
    def work() -> None:
        with workplace(open_folder(tmp_path), "training") as place:
            place.mkdir()
            (place / "half").write_text("half")
            raise MemoryError

    with pytest.raises(MemoryError):
        work()
    with workplace(open_folder(tmp_path), "training") as place:
        assert (place / "half").read_text() == "half"
    assert not place.exists()
