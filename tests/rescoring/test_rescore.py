import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.pipeline import rescore
from curate.progress import Silent
from curate.rescoring.parents import parents_of
from curate.rescoring.settings import RescoreSettings
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.selection.select import select
from curate.training.recipe import Recipe
from curate.training.replay import Training
from tests.scoring import lines, make_project, make_rows

RECIPE = Recipe(batch_size=8, learning_rate=1e-3, epsilon=1e-8)


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None: ...


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescoring")
    make_project(folder, 20)
    for method in ("dot", "bm25"):
        asked = ScoreSettings(
            target=(str(folder / "val.jsonl"),),
            pool=(str(folder / "pool"),),
            model=str(folder / "proxy"),
            method=method,
            group_by="task",
            device="cpu",
        )
        curate.score(asked, folder / method, reporter=Heard())
    return folder


def settings(place: Path, *runs: str, **changes: Any) -> RescoreSettings:
    given = {"shortlist": 12, "recipe": RECIPE} | changes
    return RescoreSettings(runs=tuple(str(place / r) for r in runs or ("dot",)), **given)


@pytest.fixture(scope="module")
def rescored(place: Path) -> Run:
    return curate.rescore(settings(place), place / "rescored", reporter=Heard())


def test_a_runs_best_documents_are_rescored_into_a_run_of_their_own(place: Path, rescored: Run) -> None:
    found = rescored.scores().collect()
    best = Run.open(place / "dot").scores().collect().top_k(12, by="score")
    assert set(found.select("shard", "row").iter_rows()) == set(best.select("shard", "row").iter_rows())
    assert found.columns[found.columns.index("score") : found.columns.index("score") + 1] == ["score"]
    assert {"score_a", "score_b", "score_adjoint", "source", "loss", "grad_norm"} <= set(found.columns)
    assert "score_spread" not in found.columns
    mean = (8 * found["score_a"] + 4 * found["score_b"]) / 12  # the target has eight rows of a and four of b
    np.testing.assert_allclose(found["score"], mean, rtol=1e-4, atol=1e-9)
    assert rescored.record.settings["parent_run"] == [str(place / "dot")]
    assert rescored.record.settings["method"] == "magic"
    assert rescored.is_finished


def test_what_was_measured_is_kept_and_how_the_ranking_moved(place: Path, rescored: Run) -> None:
    measured = rescored.record.json["details"]["magic"]
    assert measured["documents"] == 24  # as many from the rest of the pool
    assert measured["steps"] == 3
    assert 0.5 <= measured["smoothness"][0] <= 1
    moved = rescored.record.json["details"]["moved"][str(place / "dot")]
    assert (moved["documents"], moved["top_tenth"]) == (12, 1)
    assert -1 <= moved["spearman"] <= 1
    assert moved["stayed"] in (0, 1)
    assert not (rescored.path / "training").exists()


def test_a_score_is_what_more_weight_does_to_the_target_after_a_whole_training(place: Path, rescored: Run) -> None:
    """In float32, so by central differences with a large step, for the document of the largest score."""
    from curate.training.adjoint import target_loss

    asked = settings(place)
    rescoring = rescore._rescoring(asked, parents_of(asked), Heard())[1]
    training = rescoring.training()
    scores = rescored.scores().collect()
    document = int(scores["score"].abs().arg_max())
    place_of = scores.row(document, named=True)
    rows = [(chunk.span.shard, d.row) for chunk in rescoring.chunks for d in chunk.documents]
    index = rows.index((place_of["shard"], place_of["row"]))
    losses = []
    for sign in (1, -1):
        weights = np.ones(len(training.corpus))
        weights[index] += 0.2 * sign
        import torch

        moved = Training(
            training.model, training.corpus, training.recipe, weights=training.corpus.spread(torch.from_numpy(weights))
        ).run()
        parts = [
            len(d) * target_loss(training.model, moved.parameters, rescoring.corpus(d))[0]
            for d in rescoring.groups.values()
        ]
        losses.append(sum(parts) / 12)
    assert place_of["score"] == pytest.approx(-(losses[0] - losses[1]) / 0.4, rel=0.1)


def test_a_rescored_run_is_selected_from_and_not_computed_again(
    place: Path, rescored: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = select(rescored, top="50%", out=None)
    assert chosen.documents == 6
    monkeypatch.setattr(Training, "gradient", None)
    again = curate.rescore(settings(place), rescored.path, reporter=Heard())
    assert again.scores().collect().equals(rescored.scores().collect())
    with pytest.raises(SettingsError, match="shortlist"):
        curate.rescore(settings(place, shortlist=5), rescored.path, reporter=Heard())


@pytest.mark.slow
def test_a_killed_rescoring_goes_on_to_the_same_bytes(
    place: Path, rescored: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Training.gradient, []

    def gradient(self: Training, state: Any) -> Any:
        calls.append(state.step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, state)

    monkeypatch.setattr(Training, "gradient", gradient)
    with pytest.raises(KeyboardInterrupt):
        curate.rescore(settings(place), tmp_path / "x", reporter=Heard())
    made = curate.rescore(settings(place), tmp_path / "x", reporter=Heard())
    assert calls[:4] == [0, 1, 2, 2]  # steps that were taken are not taken again
    for path in (rescored.path / "scores").iterdir():
        assert path.read_bytes() == (made.path / "scores" / path.name).read_bytes()


@pytest.mark.slow
def test_of_several_learning_rates_one_that_diverges_is_not_taken(place: Path, tmp_path: Path) -> None:
    heard, several = Heard(), settings(place, rates=(1, 1e30), background=12)
    run = curate.rescore(several, tmp_path / "rates", reporter=heard)
    measured = Run.open(run.path).record.of_method
    assert measured["learning_rate"] == RECIPE.learning_rate
    assert [t["held_out_loss"] is None for t in measured["rates"]] == [False, True]
    assert measured["documents"] == 12 + 9  # three of the twelve others tell the rates apart
    assert any(n.startswith("2 learning rates were tried:") and "chosen" in n and "diverged" in n for n in heard.notes)
    one, two = (curate.plan_rescore(settings(place, rates=rates)) for rates in ((), (1, 3)))
    assert (one.rates, two.rates) == (1, 2)


def test_rates_that_no_document_is_left_to_tell_apart_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="3 documents are beside the shortlist"):
        curate.rescore(settings(place, rates=(1, 2), background=3), tmp_path / "few", reporter=Heard())


@pytest.mark.slow
def test_several_runs_give_the_union_and_repeats_their_spread(place: Path, tmp_path: Path) -> None:
    asked = settings(place, "dot", "bm25", shortlist=6, background=5, repeats=2, per_token=True)
    made = curate.rescore(asked, tmp_path / "x", reporter=Heard())
    found = made.scores().collect()
    best = [Run.open(place / r).scores().collect().top_k(6, by="score") for r in ("dot", "bm25")]
    expected = set().union(*(b.select("shard", "row").iter_rows() for b in best))
    assert set(found.select("shard", "row").iter_rows()) == expected
    assert (found["score_spread"] > 0).all()
    assert made.record.json["details"]["magic"]["documents"] == len(expected) + 5
    assert len(made.record.json["details"]["magic"]["smoothness"]) == 2
    assert len(made.record.json["details"]["moved"]) == 2
    sums = found.select(pl.col("token_scores").list.sum())["token_scores"]
    np.testing.assert_allclose(sums, found["score"], rtol=1e-3, atol=1e-7)
    curate.select(made, unit="token", budget=10, decontaminate=False, out=tmp_path / "tokens")
    file = next((tmp_path / "tokens" / "train").glob("*.arrow"))
    labels = pa.ipc.open_stream(file).read_all()["labels"].to_pylist()
    chosen = [t for row in labels for t, label in enumerate(row) if label >= 0]
    parts = [(-part, t) for row in found["token_scores"] for t, part in enumerate(row)]
    assert sorted(chosen) == sorted(t for _, t in sorted(parts)[:10])  # a rescored token has its own label's part


def test_a_dry_run_measures_a_step_and_writes_nothing(place: Path) -> None:
    before = sorted(place.iterdir())
    plan = curate.plan_rescore(settings(place, repeats=2), reporter=Heard())
    assert (plan.shortlist, plan.background, plan.steps, plan.groups, plan.repeats) == (12, 12, 3, 2, 2)
    assert plan.tokens > 24 * 4
    assert plan.seconds > plan.repeats * plan.steps * (plan.step_seconds + plan.step_back_seconds)
    assert plan.disk_bytes > 0
    assert plan.memory_bytes > 0
    assert sorted(place.iterdir()) == before


@pytest.mark.slow
def test_a_rough_training_is_refused_and_can_be_accepted(place: Path, tmp_path: Path) -> None:
    rough = Recipe(batch_size=8, learning_rate=0.3, steps=12, warmup=0, schedule="constant", epsilon=1e-8)
    with pytest.raises(CurateError, match="The training run is rough") as error:
        curate.rescore(settings(place, recipe=rough), tmp_path / "x", reporter=Heard())
    assert "--accept-rough" in str(error.value)
    accepted = settings(place, recipe=rough, accept_rough=True)
    made = curate.rescore(accepted, tmp_path / "x", reporter=Heard())
    assert made.record.json["details"]["magic"]["smoothness"][0] < 0.5


def test_runs_of_different_targets_are_refused(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(lines(make_rows(3, 5)))
    asked = ScoreSettings(target=(str(other),), pool=(str(place / "pool"),), method="bm25", model=str(place / "proxy"))
    curate.score(asked, tmp_path / "other", reporter=Heard())
    with pytest.raises(SettingsError, match="different contents of their target"):
        curate.rescore(settings(place, "dot", str(tmp_path / "other")), tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ekfac"}, "expected one of magic"),
        ({"shortlist": 0}, "shortlist is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"snapshot": 1.0}, "snapshot is 1.0"),
        ({"checkpoints": "few"}, "checkpoints is 'few'"),
    ],
)
def test_wrong_settings_say_what_is_expected(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, **changes)


def test_an_unfinished_run_is_refused(place: Path, tmp_path: Path) -> None:
    record = json.loads((place / "dot" / "run.json").read_text())
    with Run.start(tmp_path / "half", settings=record["settings"], fingerprints=record["fingerprints"]):
        pass
    with pytest.raises(CurateError, match="is not finished"):
        curate.rescore(settings(place, str(tmp_path / "half")), tmp_path / "x")


def test_rows_that_scoring_kept_aside_stay_aside_whatever_the_seed(place: Path, tmp_path: Path) -> None:
    asked = ScoreSettings(
        target=(str(place / "val.jsonl"),),
        pool=(str(place / "pool"),),
        model=str(place / "proxy"),
        method="bm25",
        holdout=0.5,
        seed=3,
        device="cpu",
    )
    parent = curate.score(asked, tmp_path / "parent", reporter=Heard())
    made = curate.rescore(settings(tmp_path, "parent", seed=1), tmp_path / "again", reporter=Heard())
    for what in ("holdout", "target_rows"):
        assert made.record.json["details"][what] == parent.record.json["details"][what]
    assert made.record.json["fingerprints"]["target"] == parent.record.json["fingerprints"]["target"]
    kept = [(run.path / "target" / "heldout.jsonl").read_bytes() for run in (parent, made)]
    assert kept[0] == kept[1]
