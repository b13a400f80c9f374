import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.fidelity import Check
from curate.pipeline import checking
from curate.pipeline.request import resolve
from curate.progress import Silent
from curate.proof.bank import Job, Laboratory
from curate.reports.figures import Figures
from curate.reports.measure import measure
from curate.reports.ranking_verdicts import retrainings
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from tests.scoring import lines, make_project, make_rows


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None: ...


def settings(place: Path, method: str, **changes: Any) -> ScoreSettings:
    given = {"target": (str(place / "val.jsonl"),), "pool": (str(place / "pool"),), "model": str(place / "proxy")}
    given |= {"method": method, "device": "cpu", "group_by": "task", "background": 20, "check": 3}
    return ScoreSettings(**(given | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("checking"), 20)


@pytest.fixture(scope="module")
def scored(place: Path) -> tuple[Run, list[str]]:
    heard = Heard()
    return curate.score(settings(place, "ekfac"), place / "runs" / "ekfac", reporter=heard), heard.notes


def check_of(run: Run) -> Check:
    check = Run.open(run.path).record.check
    assert check is not None
    return check


def test_scores_of_what_was_left_out_stand_beside_real_retrainings(
    place: Path, scored: tuple[Run, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, notes = scored
    check = check_of(run)
    assert (check.groups, check.left_out, check.in_nats) == (("a", "b"), 4, False)
    assert check.sentence in " ".join(notes)
    seen: list[checking.Checking] = []
    of = checking.Checking.of
    monkeypatch.setattr(checking.Checking, "of", lambda *arguments: seen.append(of(*arguments)) or seen[0])
    curate.score(settings(place, "ekfac"), run.path, reporter=Heard())
    (made,) = seen
    without, whole = (made.laboratory.losses(job) for job in (Job(0, made.left[1]), Job(0)))
    groups = [[i for i, g in enumerate(made.target.groups) if g == name] for name in ("a", "b")]
    np.testing.assert_allclose(check.measured[1], [(without - whole)[rows].mean() for rows in groups], atol=1e-12)
    hashes = [made.laboratory.documents[i].content_hash for i in made.left[1]]
    columns = run.scores().filter(pl.col("content_hash").is_in(hashes)).unique("content_hash").collect()
    expected = columns.select("score_a", "score_b").sum().row(0)
    np.testing.assert_allclose(check.predicted[1], expected, rtol=1e-3, atol=1e-4 * np.abs(check.predicted).max())


def test_the_check_is_a_line_of_the_trust_report(scored: tuple[Run, list[str]]) -> None:
    figures: Figures = measure(scored[0])
    (finding,) = retrainings(figures)
    assert finding.about == "check by retraining"
    assert finding.figure == check_of(scored[0]).figure
    assert "By group: a " in finding.says


@pytest.mark.parametrize("method", ["trackstar", "bm25"])
def test_runs_side_by_side_are_checked_by_the_same_retrainings(
    place: Path, scored: tuple[Run, list[str]], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Laboratory, "losses", None)
    run = curate.score(settings(place, method), place / "runs" / method, reporter=Heard())
    np.testing.assert_array_equal(check_of(run).measured, check_of(scored[0]).measured)
    assert not np.array_equal(check_of(run).predicted, check_of(scored[0]).predicted)


def test_a_run_that_is_there_is_checked_afterwards_and_its_scores_stay(
    place: Path, scored: tuple[Run, list[str]]
) -> None:
    bare = curate.score(settings(place, "dot", check=None), place / "runs" / "dot", reporter=Heard())
    assert bare.record.check is None
    assert json.loads((bare.path / "run.json").read_text())["settings"]["check"] == 0
    before = {p.name: p.read_bytes() for p in (bare.path / "scores").iterdir()}
    curate.score(settings(place, "dot"), bare.path, reporter=Heard())
    assert check_of(bare).measured.shape == (3, 2)
    assert {p.name: p.read_bytes() for p in (bare.path / "scores").iterdir()} == before


@pytest.mark.slow
def test_workers_share_the_retrainings_and_find_the_same(
    place: Path, scored: tuple[Run, list[str]], tmp_path: Path
) -> None:
    shared = curate.score(settings(place, "ekfac"), tmp_path / "shared", workers=2, reporter=Heard())
    assert check_of(shared).details() == check_of(scored[0]).details()
    assert not [p for p in shared.path.rglob("*") if "scratch" in p.name]


def test_a_dry_run_counts_the_check(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Laboratory, "job_seconds", lambda _: 25.0)
    plan = curate.plan_score(settings(place, "bm25"))
    assert plan.check_seconds == 4 * 25
    assert plan.seconds == pytest.approx(plan.prepare_seconds + plan.scoring_seconds + 100)
    assert curate.plan_score(settings(place, "bm25", check=0)).check_seconds == 0


def test_a_method_that_checks_itself_takes_the_number() -> None:
    given = ScoreSettings(target=("t",), pool=("p",), method="magic", check=5)
    assert resolve(given).method_settings["check"] == 5
    assert resolve(given).check is None
    assert resolve(resolve(given)) == resolve(given)
    assert resolve(ScoreSettings(target=("t",), pool=("p",), method="magic")).method_settings["check"] == 3


def test_what_cannot_be_checked_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="check retrains on documents of the pool"):
        ScoreSettings(target=("t",), store="s", check=3)
    with pytest.raises(SettingsError, match="check is -1"):
        ScoreSettings(target=("t",), pool=("p",), check=-1)
    (tmp_path / "pool.jsonl").write_bytes(lines(make_rows(8, 1)))
    with pytest.raises(CurateError, match="8 usable documents; a check retrains on at least 20"):
        curate.score(settings(place, "bm25", pool=(str(tmp_path / "pool.jsonl"),)), tmp_path / "run", reporter=Heard())
