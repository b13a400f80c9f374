import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import curate
from curate import methods
from curate.cli import group
from curate.methods.contract import Inputs, Scorer, Sizes, checked
from curate.score_settings import ScoreSettings
from tests.scoring import leave_checkpoint, lines, make_proxy_folder, make_rows, make_target


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    make_proxy_folder(folder / "proxy")
    leave_checkpoint(folder / "proxy")
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


@pytest.mark.parametrize("method", [pytest.param("ekfac", marks=pytest.mark.slow), "trackstar", "bm25", "loss"])
def test_a_plan_counts_the_pool_and_measures_a_part_of_it(place: Path, method: str) -> None:
    plan = curate.plan_score(settings(place, method=method))
    assert plan.documents == pytest.approx(120, rel=0.2)
    assert plan.tokens / plan.documents == pytest.approx(40, rel=0.5)
    assert plan.scoring_seconds == pytest.approx(plan.documents / plan.documents_per_second)
    assert plan.seconds == pytest.approx(plan.prepare_seconds + plan.scoring_seconds)
    assert plan.memory_bytes > 1 << 26
    assert plan.training is None


@pytest.mark.slow
def test_a_larger_background_takes_longer_to_prepare_up_to_the_pools_own_size(tmp_path: Path, place: Path) -> None:
    (tmp_path / "pool.jsonl").write_bytes(lines(make_rows(8_000, 5)))
    little, all_of_it, more = (
        curate.plan_score(settings(place, pool=(str(tmp_path),), method="ekfac", background=n)).prepare_seconds
        for n in (64, 8_000, 64_000)
    )
    assert all_of_it > 20 * little
    assert more < 3 * all_of_it


OWN = {"magic": {"steps": 8, "batch_size": 8, "accept_rough": True}, "embedding": {"centre": True}}
RUNS = [(m, OWN.get(m, {})) for m in methods.names()] + [("ekfac", {"refine": "cg", "refine_documents": 40})]
QUICK = {"bm25", "loss"}


@pytest.fixture(scope="module")
def larger(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("larger")
    for name, seed in (("a", 1), ("b", 2)):
        (folder / f"{name}.jsonl").write_bytes(lines(make_rows(150, seed)))
    return folder


@pytest.mark.parametrize(
    ("method", "own"), [pytest.param(*r, marks=() if r[0] in QUICK else pytest.mark.slow) for r in RUNS]
)
def test_a_plan_is_within_a_factor_of_two_of_the_run(
    place: Path, larger: Path, tmp_path: Path, method: str, own: dict
) -> None:
    """Whatever the stages are called; the machine may be busy with other things, so the best of several counts."""
    asked = settings(place, pool=(str(larger),), method=method, method_settings=own, background=100)
    curate.score(asked, tmp_path / "first" / "run")  # libraries set themselves up on first use
    ratios = []
    for attempt in range(4):
        run = curate.score(asked, tmp_path / str(attempt) / "run")  # apart: nothing is taken from one before
        seconds = json.loads((run.path / "log.jsonl").read_text())["seconds"]
        plan = curate.plan_score(asked)
        ratios.append(plan.seconds / (seconds["prepare"] + seconds["score"]))
        if 0.5 < ratios[-1] < 2:
            return
    pytest.fail(f"{method}: planned over measured seconds {ratios}")


@pytest.mark.slow
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


class Slow:
    """Sleeps, under labels that nobody knows."""

    NEEDS = frozenset({"background"})

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        laps: int = 40

    @staticmethod
    def rehearsal(settings: "Slow.Settings") -> "Slow.Settings":
        return replace(settings, laps=2)

    @staticmethod
    def units(inputs: Inputs, settings: "Slow.Settings", whole: Sizes) -> dict[str, int]:
        return {"laps": settings.laps}

    @staticmethod
    def prepare(inputs: Inputs, settings: "Slow.Settings") -> Scorer:
        background, stage = len(inputs.background()), inputs.reporter.stage
        with stage("warbling", total=background, grows="background"):
            time.sleep(0.002 * background)
        with stage("humming", total=settings.laps, grows="laps"):
            time.sleep(0.01 * settings.laps)
        with stage("background", total=1):
            time.sleep(0.02)
        return methods.get("length").prepare(inputs, methods.get("length").Settings())


def test_a_stage_is_scaled_by_what_it_says_it_grows_with_whatever_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, slow = methods.get, checked("slow", Slow)
    monkeypatch.setattr(methods, "get", lambda name: slow if name == "slow" else real(name))
    plan = curate.plan_score(settings(place, method="slow", background=5_000))
    # Of the pool's 120 documents; the rest is reading the background.
    assert 0.9 * (0.002 * 120 + 0.01 * 40 + 0.02) < plan.prepare_seconds < 2 * (0.002 * 120 + 0.01 * 40 + 0.02)
