import os
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.errors import CurateError
from curate.scores.run import Run, latest_run, list_runs
from curate.scores.session import pool_of
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


def test_addresses_are_found_from_elsewhere_and_where_run_and_pool_have_moved(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "pool.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.chdir(tmp_path / "work")
    with start("work/runs/x", pool=["pool.jsonl"], model="org/name") as run:
        run.log.end({})
    assert run.located("pool.jsonl") == "pool.jsonl"
    monkeypatch.chdir(tmp_path)
    assert run.located("pool.jsonl") == str(tmp_path / "work" / "pool.jsonl")
    (tmp_path / "work").rename(tmp_path / "moved")
    moved = Run.open("moved/runs/x")
    assert moved.located_settings["pool"] == [str(tmp_path / "moved" / "pool.jsonl")]
    assert moved.located_settings["model"] == "org/name"
    (tmp_path / "moved" / "runs" / "x").rename(tmp_path / "alone")
    (tmp_path / "moved").rename(tmp_path / "work")
    assert Run.open("alone").located("pool.jsonl") == str(tmp_path / "work" / "pool.jsonl")


def test_a_pool_that_is_gone_names_the_folder_of_its_address_and_the_option(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with start("x", pool=["gone.jsonl"]) as run:
        with pytest.raises(
            CurateError, match=r"gone.jsonl: no such file .*its log does not name it(.|\n)*--pool ADDRESS"
        ):
            pool_of(run)
        run.log.end({})
    with pytest.raises(CurateError, match=rf"Its address was given in {tmp_path}(.|\n)*--pool ADDRESS"):
        pool_of(run)
