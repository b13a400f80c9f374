"""Parts are merged while a run goes on, and all that reads or continues a run works on files of many parts."""

from pathlib import Path

import pytest

import curate
from curate.folders import merging
from curate.scores.progress import progress_of
from curate.scores.run import Run
from curate.scores.session import open_session
from tests.executors.making import Seen, make, settings
from tests.faults.results import contents


@pytest.fixture
def files_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "PARTS", 4)


@pytest.mark.slow
def test_any_executor_and_any_restart_gives_the_same_files(
    place: Path, tmp_path: Path, alone, files_of_four: None
) -> None:
    one = make("length", place, tmp_path / "one")
    whole = contents(one)
    merged = [name for name in whole if "-to-" in name and name.startswith("scores")]
    parts = Run.open(one).all_parts()
    assert len(merged) == len(parts) // 4 == 4
    assert contents(make("length", place, tmp_path / "two", workers=2)) == whole
    for lost in (merged[1], merged[-1]):
        (one / lost).unlink()
    (one / "finished.json").unlink()
    assert progress_of(Run.open(one)).rows < 244
    seen = Seen()
    make("length", place, tmp_path / "one", reporter=seen)
    assert contents(one) == whole
    assert seen.done["scoring"] == 244
    assert progress_of(Run.open(one)).rows == 244


def test_a_run_of_files_of_many_parts_reads_as_one_of_parts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = Run.open(make("length", place, tmp_path / "loose"))
    monkeypatch.setattr(merging, "PARTS", 4)
    run = Run.open(make("length", place, tmp_path / "run"))
    assert len(run.rows_files()) < len(loose.rows_files())
    assert run.scores().collect().equals(loose.scores().collect())
    assert run.skipped().collect().equals(loose.skipped().collect())
    for query in ("FROM scores", "FROM skipped", "FROM shards"):
        with open_session(run) as session, open_session(loose) as other:
            assert sorted(session.query(query).rows(), key=repr) == sorted(other.query(query).rows(), key=repr)
    chosen = {r: curate.select(r, top=20, out=r.path.parent / "chosen").out for r in (run, loose)}
    first, second = ({p.name: p.read_bytes() for p in (out or Path()).rglob("*.arrow")} for out in chosen.values())
    assert first == second != {}
    for origin in (run, loose):  # of either, the scores are taken as they are
        out = tmp_path / f"taken-{origin.path.parent.name}"
        taken = curate.score(settings(place, "length", fit_from=str(origin.path)), out)
        assert taken.scores().collect().equals(run.scores().collect())
        names = {p.name: p.read_bytes() for p in (run.path / "scores").iterdir()}
        assert {p.name: p.read_bytes() for p in (out / "scores").iterdir()} == names
