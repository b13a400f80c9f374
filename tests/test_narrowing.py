"""Runs of a sample of a pool, and of another run's best documents."""

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import curate
from curate.errors import CurateError, SettingsError
from curate.pipeline import score
from curate.progress import Silent
from curate.scores.narrowing import narrowed_note
from curate.scores.run import Run
from curate.selection.select import select
from tests.scoring import make_project
from tests.test_resume import contents

ROWS = 60
KEYS = ["shard", "row"]


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(message)


class Stopped(Exception):
    pass


class Stopping(Silent):
    """Ends a run, as a kill would, once it has scored some parts."""

    @contextmanager
    def stage(self, name: str, **_: Any):
        yield _StopsAt(3) if name == "scoring" else _StopsAt(None)


class _StopsAt:
    def __init__(self, parts: int | None) -> None:
        self.left = parts

    def advance(self, amount: float) -> None:
        if self.left is not None and amount:
            self.left -= 1
            if not self.left:
                raise Stopped

    def set_total(self, total: float | None) -> None: ...


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("narrowing") / "project", ROWS)


@pytest.fixture(scope="module")
def how(place) -> dict[str, Any]:
    return {
        "target": str(place / "val.jsonl"),
        "pool": str(place / "pool"),
        "model": str(place / "proxy"),
        "method": "bm25",
        "group_by": "task",
        "device": "cpu",
        "part_documents": 10,
    }


@pytest.fixture(scope="module")
def full(place, how) -> Run:
    return curate.score(out=place / "runs" / "full", **how)


@pytest.fixture(scope="module")
def sample(place, how) -> Run:
    return curate.score(out=place / "runs" / "sample", sample="30%", **how)


def assert_same_scores(narrow: Run, whole: Run) -> None:
    rows, others = narrow.scores().collect(), whole.scores().collect()
    assert_frame_equal(rows, others.join(rows.select(KEYS), on=KEYS, how="semi").sort(KEYS))


def test_a_sample_is_spread_over_the_shards_and_has_the_scores_of_the_whole(full, sample):
    assert_same_scores(sample, full)
    by_shard = sample.scores().group_by("shard").len().collect()["len"]
    assert len(by_shard) == 4
    assert by_shard.min() > 0.1 * ROWS
    assert by_shard.max() < 0.5 * ROWS
    totals, whole = sample.totals or {}, full.totals or {}
    counted = totals["documents"] + sum(totals["skipped"].values()) + totals["passed_over"]
    assert totals["documents"] == sample.scores().collect().height
    assert (
        0 <= whole["documents"] + sum(whole["skipped"].values()) - counted < 40
    )  # rows behind a shard's last drawn one
    assert "seeded sample of the pool" in (narrowed_note(sample.record) or "")
    assert narrowed_note(full.record) is None


def test_jobs_of_an_array_draw_the_same_sample(place, how, sample):
    out = place / "runs" / "array"
    for part in ("1/2", "2/2"):
        run = curate.score(out=out, sample="30%", part=part, workers=1, reporter=Notes(), **how)
    assert run.is_finished
    assert_frame_equal(run.scores().collect(), sample.scores().collect())


@pytest.mark.slow
def test_processes_draw_the_same_sample(place, how, sample):
    out = place / "runs" / "processes"
    curate.score(out=out, sample="30%", workers=2, **how)
    assert contents(out) == contents(sample.path)


def test_a_stopped_sample_goes_on_with_the_same_documents(place, how, sample):
    out = place / "runs" / "stopped"
    with pytest.raises(Stopped):
        curate.score(out=out, sample="30%", reporter=Stopping(), **how)
    assert Run.open(out).all_parts()
    with pytest.raises(SettingsError, match=r"sample: the run has 0\.3, you asked for 0\.4"):
        curate.score(out=out, sample=0.4, **how)
    curate.score(curate.recorded(out), out)
    assert contents(out) == contents(sample.path)


def test_a_number_of_documents_is_met_about(place, how):
    plan = score.plan(sample=80, **how)
    assert plan.documents == 80
    run = curate.score(out=place / "runs" / "eighty", sample=80, **how)
    assert abs((run.totals or {})["documents"] - 80) < 40  # five standard deviations


def best(run: Run, column: str, count: int) -> pl.DataFrame:
    order = [column, "doc_id", *KEYS]
    return run.scores().sort(order, descending=[True, False, False, False]).head(count).select(KEYS).collect()


def places_of(run: Run) -> set[tuple[str, int]]:
    return set(run.scores().select(KEYS).collect().iter_rows())


def test_only_the_best_of_another_run_are_scored(place, how, full):
    out = place / "runs" / "only"
    asked = {**how, "method": "length", "group_by": None}
    plan = score.plan(only=str(full.path), top="20%", group="score", **asked)
    run = curate.score(out=out, only=str(full.path), top="20%", group="score", **asked)
    count = round(0.2 * (full.totals or {})["documents"])
    assert plan.documents == count
    assert places_of(run) == set(best(full, "score", count).iter_rows())
    whole = curate.score(out=place / "runs" / "length", **asked)
    assert_same_scores(run, whole)
    with pytest.raises(SettingsError, match=r"top: the run has 0\.2"):
        curate.score(out=out, only=str(full.path), top="10%", group="score", **asked)


@pytest.fixture(scope="module")
def union(place, how, full) -> Run:
    return curate.score(out=place / "runs" / "union", only=str(full.path), top=40, **how)


def test_without_a_group_the_best_of_every_group_are_scored(place, how, full, union):
    of_groups = [set(best(full, column, 40).iter_rows()) for column in ("score_a", "score_b")]
    assert places_of(union) == of_groups[0] | of_groups[1]
    assert_same_scores(union, full)
    one = curate.score(out=place / "runs" / "one", only=str(full.path), top=40, group="b", **how)
    assert places_of(one) == of_groups[1]
    with pytest.raises(CurateError, match="no group 'c'"):
        curate.score(out=place / "runs" / "none", only=str(full.path), top=40, group="c", **how)


def test_a_share_of_a_narrowed_run_is_one_of_the_pool(full, union):
    documents = (full.totals or {})["documents"]
    notes = Notes()
    selection = select(union, top="5%", decontaminate=False, reporter=notes)
    assert selection.documents == round(0.05 * documents)
    assert any(f"of the pool's {documents} documents" in said for said in notes.said)
    notes = Notes()
    assert select(union, top="50%", decontaminate=False, reporter=notes).documents == selection.documents_before
    assert any("keeps all that is left" in said for said in notes.said)


def test_a_selection_from_a_sample_says_so(sample):
    notes = Notes()
    selection = select(sample, top="50%", decontaminate=False, reporter=notes)
    assert selection.documents == np.floor(0.5 * selection.documents_before + 0.5)
    assert any("seeded sample" in said for said in notes.said)
    assert "seeded sample" in selection.record()["narrowed"]


def test_the_documents_of_a_sample_can_be_scored_again(place, how, full, sample):
    run = curate.score(out=place / "runs" / "again", only=str(sample.path), **how)
    assert_frame_equal(run.scores().collect(), sample.scores().collect())
    shutil.rmtree(place / "runs" / "again")


def test_a_pool_that_has_changed_since_is_refused(place, how, full, tmp_path):
    shutil.copytree(place / "pool", tmp_path / "pool")
    with (tmp_path / "pool" / "a.jsonl").open("a") as file:
        file.write('{"id": "new", "text": "one more"}\n')
    with pytest.raises(CurateError, match="is not the pool that"):
        curate.score(out=tmp_path / "run", only=str(full.path), **how | {"pool": str(tmp_path / "pool")})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sample": 10, "only": "runs/x"}, "both say which documents"),
        ({"top": "5%"}, "which documents of another run"),
        ({"only": "runs/x", "group": "a"}, "without top"),
        ({"sample": "0%"}, "expected more than 0"),
        ({"sample": "many"}, "expected a share"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, problem):
    with pytest.raises(SettingsError, match=problem):
        curate.score(target="val.jsonl", pool="pool", **settings)


def test_fits_of_a_sample_do_not_narrow_the_run_that_takes_them(place, how, full, sample):
    run = curate.score(out=place / "runs" / "grown", fit_from=str(sample.path))
    assert_frame_equal(run.scores().collect(), full.scores().collect())
