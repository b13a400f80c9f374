"""Rows and tokens of a selection, written in jobs: the same bytes whoever does them, in whatever order."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate.documents import open_pool
from curate.errors import CurateError
from curate.scores.run import Run
from curate.selection import left, row_files
from curate.selection.select import select
from curate.selection.spool import get_value, put_value
from curate.selection.tokenised import TokenView
from tests.selection.conftest import make_pool, make_run


@contextmanager
def backwards(work: Any) -> Iterator[Any]:
    """Do all jobs in reverse order, each with what another process would get of it; the first of them twice."""

    def do_all(jobs, task, on_done=lambda _: None) -> None:
        listed = list(jobs)
        for job in [*reversed(listed), listed[0]]:
            pickle.loads(pickle.dumps(work)).open()(pickle.loads(pickle.dumps(job)), task.advance)
        for job in listed:
            on_done(job)

    yield do_all


@dataclass
class Letters:
    """An encoder of letters, of which every other carries loss."""

    ids: np.ndarray
    refused: str = ""

    @property
    def scored(self) -> np.ndarray:
        return np.arange(len(self.ids)) % 2 == 1


def letters(documents) -> list[Letters]:
    return [Letters(np.frombuffer(d.plain_text.encode(), np.uint8)) for d in documents]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("row_files")
    make_pool(folder / "pool")
    return make_run(folder / "run", folder / "pool")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def told(folder: Path) -> tuple[dict[str, bytes], Any]:
    """Everything of a selection but what its manifest says of time, and its hand-over of its place."""
    files = files_of(folder)
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["seconds"], files["HANDOVER.md"]
    return files, manifest


@pytest.mark.parametrize("format", ["arrow", "parquet", "jsonl.zst"])
@pytest.mark.parametrize("file_bytes", [1, 1 << 20])
def test_jobs_in_any_order_give_the_bytes_of_this_process(run, tmp_path, monkeypatch, format, file_bytes) -> None:
    monkeypatch.setattr(left, "_BLOCK_ROWS", 1)  # every shard is a job
    monkeypatch.setattr(row_files, "FILE_BYTES", file_bytes)
    for name, hire in (("here", None), ("jobs", lambda tokens: backwards)):
        select(run, top="90%", out=tmp_path / name, format=format, hire=hire)
    assert told(tmp_path / "here") == told(tmp_path / "jobs")
    written = [name for name in files_of(tmp_path / "jobs") if name.startswith("train/0")]
    assert len(written) == (3 if file_bytes == 1 else 1)  # a file, or one for each of the three spools
    assert not list(tmp_path.rglob("spools"))


@pytest.mark.parametrize("pack", [None, 3])
def test_documents_become_the_same_tokens(run, tmp_path, monkeypatch, pack) -> None:
    monkeypatch.setattr(left, "_BLOCK_ROWS", 1)
    view = TokenView(tokenizer="letters", fingerprint="f", encode=letters, vocabulary=128, end=0, pack=pack)
    for name, hire in (("here", None), ("jobs", lambda tokens: backwards)):
        select(run, top="90%", out=tmp_path / name, view=view, hire=hire)
    assert told(tmp_path / "here") == told(tmp_path / "jobs")
    assert not list(tmp_path.rglob("spools"))


def test_a_shard_that_lacks_rows_is_named_by_whoever_reads_it(tmp_path) -> None:
    make_pool(tmp_path / "pool")
    run = make_run(tmp_path / "run", tmp_path / "pool")
    shard = tmp_path / "pool" / "c.jsonl"
    shard.write_text(shard.read_text().splitlines()[0] + "\n")
    record = json.loads((run.path / "run.json").read_text())
    record["fingerprints"]["pool"] = open_pool([str(tmp_path / "pool")]).fingerprint()
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(CurateError, match=r"c\.jsonl lacks 1 of its 2 selected rows"):
        select(Run.open(run.path), top="100%", out=tmp_path / "out", hire=lambda tokens: backwards)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("levels", [40, 120, 400])
def test_lists_many_levels_deep_are_told_to_other_processes(tmp_path, levels):
    kind = pa.int64()
    for _ in range(levels):
        kind = pa.list_(kind)
    put_value(tmp_path / "columns", pa.schema([("deep", kind)]))
    assert get_value(tmp_path / "columns") == pa.schema([("deep", kind)])
