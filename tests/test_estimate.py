import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import curate
from curate.cli import group
from curate.score_settings import ScoreSettings
from tests.scoring import lines, make_proxy_folder, make_rows, make_target


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    make_proxy_folder(folder / "proxy")
    (folder / "pool").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        (folder / "pool" / f"{name}.jsonl").write_bytes(lines(make_rows(60, seed)))
    make_target(folder / "val.jsonl")
    return folder


def settings(place: Path, **changes) -> ScoreSettings:
    given = {
        "target": (str(place / "val.jsonl"),),
        "pool": (str(place / "pool"),),
        "model": str(place / "proxy"),
        "device": "cpu",
    }
    return ScoreSettings(**(given | changes))


@pytest.mark.parametrize("method", ["ekfac", "trackstar", "bm25", "loss"])
def test_a_plan_counts_the_pool_and_measures_a_part_of_it(place: Path, method: str) -> None:
    plan = curate.plan_score(settings(place, method=method))
    assert plan.documents == pytest.approx(120, rel=0.2)
    assert plan.tokens / plan.documents == pytest.approx(40, rel=0.5)
    assert plan.scoring_seconds == pytest.approx(plan.documents / plan.documents_per_second)
    assert plan.seconds == pytest.approx(plan.prepare_seconds + plan.scoring_seconds)
    assert plan.memory_bytes > 1 << 26
    assert plan.training is None


def test_a_larger_background_takes_longer_to_prepare(place: Path) -> None:
    little, much = (
        curate.plan_score(settings(place, method="ekfac", background=n)).prepare_seconds for n in (64, 64_000)
    )
    assert much > 20 * little


def test_training_runs_are_planned_by_a_step_that_is_measured(place: Path) -> None:
    own = {"steps": 10, "batch_size": 8, "snapshots": (0.3, 0.5), "runs": 3}
    training = curate.plan_score(settings(place, method="magic", method_settings=own)).training
    assert training is not None
    assert (training.runs, training.steps, training.step_back) == (3, 10, 7)
    assert training.step_seconds > 0
    assert training.step_back_seconds > 0
    assert training.disk_bytes > 0


def test_shards_whose_scores_are_taken_over_are_not_counted(place: Path, tmp_path: Path) -> None:
    old = curate.score(settings(place, method="ekfac", background=16), tmp_path / "old")
    (place / "pool" / "c.jsonl").write_bytes(lines(make_rows(30, 3)))
    try:
        plan = curate.plan_score(settings(place, method="ekfac", background=16, fit_from=str(old.path)))
    finally:
        (place / "pool" / "c.jsonl").unlink()
    assert plan.documents == pytest.approx(30, rel=0.2)


def test_the_command_prints_the_plan_and_writes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    asked = ["score", "--target", "val.jsonl", "--pool", "pool", "--model", "proxy", "--method", "bm25", "--dry-run"]
    assert "documents to score" in CliRunner().invoke(group, asked, catch_exceptions=False).stdout
    found = json.loads(CliRunner().invoke(group, [*asked, "--json"], catch_exceptions=False).stdout)
    assert found["training"] is None
    assert found["seconds"] > 0
    assert sorted(place.rglob("*")) == before
