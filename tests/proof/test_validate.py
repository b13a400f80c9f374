import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.folders.local import open_folder
from curate.pipeline import validate
from curate.progress import Silent
from curate.proof.bank import Job, Laboratory
from curate.proof.settings import ValidateSettings
from curate.proof.validate import IN_RUN, Validating, Validation
from curate.rescoring.settings import RescoreSettings
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.training.optimisers import State
from curate.training.recipe import Recipe
from curate.training.replay import Training
from tests.scoring import lines, make_project, make_rows, make_target

RECIPE = Recipe(batch_size=8, learning_rate=3e-3, epsilon=1e-8)
SMALL: dict[str, Any] = {"documents": 32, "queries": 3, "subsets": 8, "drop": 0.1, "removals": 2, "resamples": 200}


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None: ...


def score(place: Path, method: str, **changes: Any) -> Run:
    asked = ScoreSettings(
        target=(str(place / "val.jsonl"),),
        pool=(str(place / "pool"),),
        model=str(place / "proxy"),
        method=method,
        group_by="task",
        device="cpu",
        **({"background": 40} | changes),
    )
    return curate.score(asked, place / "runs" / method, reporter=Heard())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validating")
    make_project(folder, 20)
    for method in ("ekfac", "bm25", "random"):
        score(folder, method)
    return folder


def settings(place: Path, *runs: str, **changes: Any) -> ValidateSettings:
    given = SMALL | {"recipe": RECIPE} | changes
    return ValidateSettings(runs=tuple(str(place / "runs" / r) for r in runs or ("ekfac", "bm25", "random")), **given)


@pytest.fixture(scope="module")
def found(place: Path) -> Validation:
    return curate.validate(settings(place, magic=True), reporter=Heard())


@pytest.mark.slow
def test_every_method_is_judged_on_one_bank(place: Path, found: Validation) -> None:
    assert [j.method for j in found.judged] == ["ekfac", "bm25", "random", "magic"]
    assert (found.documents, found.queries, found.subsets, found.dropped) == (32, 3, 8, 3)
    by_name = {j.run: j for j in found.judged}
    assert by_name[IN_RUN].lds.mean > max(0.7, *(j.lds.mean for j in found.judged[:-1]))
    for judged in found.judged:
        assert judged.qld is not None
        assert judged.lds.low <= judged.lds.mean <= judged.lds.high
        assert len(judged.lds.queries) == 3
        assert len(judged.qld.queries) == 2
    assert by_name[IN_RUN].qld.mean > by_name[IN_RUN].qld.control
    retrained = len(list((Path(found.bank) / "losses").glob("*.npy")))
    assert 1 + 8 < retrained <= 1 + 8 + 4 * 2


def test_a_methods_predictions_are_its_scores_for_a_run_of_the_single_query(place: Path, tmp_path: Path) -> None:
    row = json.loads((place / "val.jsonl").read_text().splitlines()[0])
    laboratory = validate._validating(settings(place, "ekfac", queries=12), Heard())
    query = next(i for i, d in enumerate(laboratory.queries) if d.text == row["text"])
    (tmp_path / "val.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "runs").mkdir()
    for name in ("pool", "proxy"):
        (tmp_path / name).symlink_to(place / name)
    scored = score(tmp_path, "ekfac").scores().select("shard", "row", "score").collect()
    predictions = laboratory._predictions(laboratory.subjects[0])[:, query]
    by_place = {(s, r): v for s, r, v in scored.iter_rows()}
    expected = [by_place[d.shard, d.row] for d in laboratory.documents]
    np.testing.assert_allclose(predictions, expected, rtol=1e-3, atol=1e-6 * np.abs(expected).max())


def test_curvature_is_found_in_the_run_and_not_fitted_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.methods.shared.directional.Passes", None)
    laboratory = validate._validating(settings(place, "ekfac", seed=5), Heard())
    assert laboratory._predictions(laboratory.subjects[0]).shape == (32, 3)


def test_a_run_that_chose_its_learning_rate_is_judged_with_that_rate(place: Path, tmp_path: Path) -> None:
    own = {"recipe": {"steps": 2, "learning_rate": 1e-4}, "rates": [1, 3], "check": 3}
    record = Run.open(place / "runs" / "ekfac").record.json
    chosen = Run.start(
        tmp_path / "chosen",
        settings=record["settings"] | {"method": "magic", "method_settings": own},
        fingerprints=record["fingerprints"],
        details={"magic": {"learning_rate": 3e-4}},
    )
    judged = validate._validating(settings(place, "ekfac"), Heard()).subjects[0]
    method_settings = replace(judged, run=chosen).settings()
    assert (method_settings.recipe.learning_rate, method_settings.rates, method_settings.check) == (3e-4, (), 0)


@pytest.mark.slow
def test_the_measured_changes_are_the_banks(place: Path, found: Validation) -> None:
    laboratory = validate._validating(settings(place), Heard())
    whole, first = (laboratory.laboratory.losses(j) for j in laboratory.repeated([(), laboratory.subset(0)]))
    np.testing.assert_allclose(found.measured[0], first - whole, atol=1e-9)


@pytest.mark.slow
def test_the_same_command_retrains_nothing_and_says_the_same(
    place: Path, found: Validation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Laboratory, "losses", None)
    again = curate.validate(settings(place, magic=True), tmp_path / "again", reporter=Heard())
    assert again.record() == found.record()
    default = place / "runs" / "ekfac-validation"
    for name in ("validation.json", "predicted.png"):
        assert (tmp_path / "again" / name).read_bytes() == (default / name).read_bytes()


def test_a_retraining_that_diverges_is_an_error_that_says_so(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Laboratory, "job_seconds", lambda _: 1.0)  # would diverge as well
    wild = Recipe(batch_size=8, learning_rate=1e12, warmup=0, epsilon=1e-17)
    asked = settings(place, "bm25", removals=0, banks=str(tmp_path), subsets=3, recipe=wild)
    with pytest.raises(CurateError, match="A retraining diverged"):
        curate.validate(asked, tmp_path / "out", reporter=Heard())


@pytest.mark.slow
def test_repeats_average_the_changes(place: Path, tmp_path: Path) -> None:
    asked = settings(place, "bm25", repeats=2, removals=0, banks=str(tmp_path), subsets=3)
    twice = curate.validate(asked, tmp_path / "out", reporter=Heard())
    once = curate.validate(replace(asked, repeats=1), tmp_path / "out", reporter=Heard())
    assert twice.bank == once.bank
    assert twice.judged[0].qld is None
    assert len(list((Path(twice.bank) / "losses").glob("01-*.npy"))) == 4
    assert not np.allclose(twice.measured, once.measured)


@pytest.mark.slow
def test_a_rescored_runs_adjoint_is_judged_and_said_to_be(place: Path, tmp_path: Path) -> None:
    recipe = Recipe(batch_size=8, learning_rate=1e-3, epsilon=1e-8)
    rescore = RescoreSettings(runs=(str(place / "runs" / "ekfac"),), shortlist=30, background=20, recipe=recipe)
    made = curate.rescore(rescore, place / "runs" / "rescored", reporter=Heard())
    heard = Heard()
    asked = settings(place, "rescored", documents=24, subsets=3, removals=0, banks=str(tmp_path))
    judged = curate.validate(replace(asked, drop=0.1), tmp_path / "out", reporter=heard).judged
    assert judged[0].method == "magic"
    assert any("judged is the adjoint of its recipe" in note for note in heard.notes)
    shortlist = set(made.scores().select("shard", "row").collect().iter_rows())
    documents = validate._validating(asked, Heard()).documents
    assert {(d.shard, d.row) for d in documents} <= shortlist


@pytest.mark.slow
def test_a_plan_says_what_is_missing_and_retrains_nothing(place: Path, found: Validation, tmp_path: Path) -> None:
    plan = curate.plan_validate(settings(place, "bm25", removals=0, subsets=20), reporter=Heard())
    assert (plan.retrainings, plan.there, plan.steps) == (21, 9, 4)
    assert plan.seconds == plan.elapsed_seconds == pytest.approx(12 * plan.seconds_each)
    done = curate.plan_validate(settings(place, magic=True), reporter=Heard())
    assert done.retrainings == done.there == 9 + 4 * 2
    fresh = curate.plan_validate(settings(place, "bm25", banks=str(tmp_path)), reporter=Heard())
    assert (fresh.retrainings, fresh.there) == (11, 0)


def test_a_plan_counts_on_no_more_workers_than_there_are_cores(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.executors.helpful._cores", lambda _: 3)
    asked = settings(place, "bm25", removals=0, subsets=20, seed=7)
    plan = curate.plan_validate(asked, workers=8, reporter=Heard())
    assert (plan.retrainings, plan.there, plan.workers) == (21, 0, 8)
    assert plan.seconds == pytest.approx(21 * plan.seconds_each)
    assert plan.elapsed_seconds == pytest.approx(7 * plan.seconds_each)
    assert "8 workers, 3 at once" in plan.sentence


def test_a_first_step_that_is_slow_does_not_count(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = validate._validating(settings(place, "bm25"), Heard()).laboratory
    steps = Training.gradient
    slow = iter([0.5])

    def gradient(training: Training, state: State) -> Any:
        time.sleep(next(slow, 0))
        return steps(training, state)

    monkeypatch.setattr(Training, "gradient", gradient)
    assert laboratory.job_seconds() < 0.5 * laboratory.training(Job(0)).steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subsets": 2}, "subsets is 2"),
        ({"drop": 1.0}, "drop is 1"),
        ({"drop": 0.001}, "leaves out some, not all"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_wrong_settings_say_what_is_expected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, **changes)


def test_a_target_that_has_changed_is_refused(place: Path, tmp_path: Path) -> None:
    for name in ("pool", "proxy"):
        (tmp_path / name).symlink_to(place / name)
    make_target(tmp_path / "val.jsonl")
    score(tmp_path, "bm25")
    make_target(tmp_path / "val.jsonl", 8)
    with pytest.raises(CurateError, match="target's content has changed"):
        curate.validate(settings(tmp_path, "bm25"), reporter=Heard())


def command(place: Path, out: Path, workers: int = 1) -> list[str]:
    runs = [str(place / "runs" / r) for r in ("ekfac", "bm25")]
    sizes = ["--documents", "32", "--queries", "3", "--subsets", "30", "--drop", "10%", "--removals", "2"]
    where = ["--banks", str(out / "banks"), "--out", str(out / "figures"), "--set", "batch_size=4"]
    return [
        sys.executable,
        "-m",
        "curate",
        "validate",
        *runs,
        *sizes,
        *where,
        "--set",
        "epochs=2",
        "--workers",
        f"{workers}",
    ]


@pytest.mark.slow
def test_killed_retrainings_go_on_and_end_with_the_same_bytes(place: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(command(place, one), check=True, capture_output=True)

    def losses(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.glob("banks/*/losses/*.npy")}

    for wanted, workers in ((1, 2), (6, 1), (20, 2)):
        process = subprocess.Popen(
            command(place, two, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and len(losses(two)) < wanted:
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kept = losses(two)
        assert wanted <= len(kept) < 31
    subprocess.run(command(place, two), check=True, capture_output=True)
    assert losses(two) == losses(one)
    for name in ("validation.json", "predicted.png"):
        made = (two / "figures" / name).read_bytes()
        assert made == (one / "figures" / name).read_bytes().replace(str(one).encode(), str(two).encode())


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("bm25", {}),
        pytest.param("embedding", {"centre": True}, marks=pytest.mark.slow),
        pytest.param("rds", {}, marks=pytest.mark.slow),
        pytest.param("trackstar", {"dim": 4}, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_the_fits_of_another_is_judged_by_those_fits(
    place: Path, tmp_path: Path, method: str, own: dict[str, Any]
) -> None:
    for name in ("proxy", "val.jsonl"):
        (tmp_path / name).symlink_to(place / name)
    shutil.copytree(place / "pool", tmp_path / "pool")
    fitted = score(tmp_path, method, method_settings=own)
    again = curate.score(out=tmp_path / "again" / "run", fit_from=str(fitted.path))

    def opened(run: Run) -> Validating:
        return validate._validating(ValidateSettings(runs=(str(run.path),), **SMALL, recipe=RECIPE), Heard())

    judged = opened(fitted)
    expected = judged._predictions(judged.subjects[0])
    judged_again = opened(again)
    np.testing.assert_array_equal(judged_again._predictions(judged_again.subjects[0]), expected)

    (tmp_path / "pool" / "aa.jsonl").write_bytes(lines(make_rows(20, 9)))
    grown = curate.score(out=tmp_path / "grown" / "run", fit_from=str(again.path))
    (subject,) = opened(grown).subjects
    kept = open_folder(tmp_path / "predictions")
    np.testing.assert_array_equal(subject.predictions(judged.documents, judged.queries, kept), expected)


def test_a_run_whose_background_has_changed_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    for name in ("proxy", "val.jsonl"):
        (tmp_path / name).symlink_to(place / name)
    shutil.copytree(place / "pool", tmp_path / "pool")
    fitted = score(tmp_path, "bm25")
    (tmp_path / "pool" / "a.jsonl").write_bytes(lines(make_rows(20, 9)))
    changed = curate.score(out=tmp_path / "changed" / "run", fit_from=str(fitted.path))
    validating = validate._validating(ValidateSettings(runs=(str(changed.path),), **SMALL, recipe=RECIPE), Heard())
    with pytest.raises(CurateError, match=f"pool has changed since {fitted.path} was fitted"):
        validating._predictions(validating.subjects[0])


def test_scores_of_common_documents_alone_are_compared(place: Path, tmp_path: Path) -> None:
    whole = Run.open(place / "runs" / "bm25")
    part = Run.start(tmp_path / "part", **{k: whole.record.json[k] for k in ("settings", "fingerprints")})
    first = whole.all_parts()[0]
    table = pl.read_parquet(first.path).head(12).to_arrow()
    empty = pl.DataFrame(schema={"shard": pl.String, "row": pl.Int64}).to_arrow()
    part.write_part(replace(first.span, shard_index=0, end=12, last=True), table, empty)
    part.finish({"documents": 12, "tokens": 1, "skipped": {}})
    asked = replace(settings(place, "bm25"), runs=(str(place / "runs" / "bm25"), str(tmp_path / "part")), documents=500)
    documents = validate._validating(asked, Heard()).documents
    assert {d.shard for d in documents} == {first.shard}
    assert len(documents) <= 12


@pytest.fixture(scope="module")
def by_token(place: Path) -> Validation:
    return curate.validate(settings(place, "ekfac", magic=True, unit="token"), reporter=Heard())


@pytest.mark.slow
def test_tokens_are_left_out_beside_documents(place: Path, found: Validation, by_token: Validation) -> None:
    assert by_token.bank == found.bank
    assert by_token.unit == "token"
    assert by_token.dropped == round(0.1 * by_token.units) > found.dropped
    of_documents = {j.run: j.qld for j in found.judged}
    for judged in by_token.judged:
        assert judged.qld is not None
        assert judged.qld.mean > judged.best_documents > judged.qld.control  # type: ignore[operator]
        assert judged.best_documents == pytest.approx(of_documents[judged.run].mean, rel=1e-9)  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_validation_of_tokens_goes_on_with_what_is_there(place: Path, by_token: Validation) -> None:
    plan = validate.plan(settings(place, "ekfac", magic=True, unit="token"), reporter=Heard())
    assert plan.there == plan.retrainings == 1 + SMALL["subsets"] + 2 * 2 * SMALL["removals"]
    for before, after in zip(
        by_token.judged,
        curate.validate(settings(place, "ekfac", magic=True, unit="token"), reporter=Heard()).judged,
        strict=True,
    ):
        assert before == after


def test_tokens_are_validated_for_methods_that_score_them(place: Path) -> None:
    with pytest.raises(SettingsError, match="'bm25' scores whole documents, not their tokens"):
        curate.validate(settings(place, "ekfac", "bm25", unit="token"), reporter=Heard())


def test_tokens_are_left_out_as_the_retrained_proxy_reads_them(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "proxy"
    shutil.copytree(place / "proxy", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-50]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(SettingsError, match="scores other tokens than the proxy that is retrained"):
        curate.validate(settings(place, "ekfac", unit="token", model=str(other)), reporter=Heard())
