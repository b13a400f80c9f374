import os
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.errors import CurateError
from curate.scores.run import Run, latest_run, list_runs
from tests.small_runs import rows, write

Start = Callable[..., Run]


def test_latest_run_is_the_newest_record(start: Start, tmp_path: Path) -> None:
    with pytest.raises(CurateError, match="no run under"):
        latest_run(tmp_path)
    old, new = start("old"), start("new")
    os.utime(old.path / "run.json", (1, 1))
    os.utime(new.path / "run.json", (2, 2))
    assert latest_run(tmp_path).path == new.path
    assert [r.name for r in list_runs(tmp_path)] == ["new", "old"]


def test_latest_run_passes_over_one_without_scores(start: Start, tmp_path: Path) -> None:
    old, new = start("old"), start("new")
    write(old, "a", 0, rows("a", 0, [1.0]))
    os.utime(old.path / "run.json", (1, 1))
    os.utime(new.path / "run.json", (2, 2))
    assert latest_run(tmp_path).path == old.path
