import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import curate
from curate.cli import main
from curate.cli._output import _LoggedTask, stdout
from curate.errors import CurateError, SettingsError
from curate.pipeline.lesson import lesson_of
from curate.pipeline.predict import make_prediction
from curate.progress import Silent
from curate.reports.writing import percent
from curate.students.settings import PredictSettings
from tests.scoring import lines, make_project, make_rows


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("predict"), rows_per_shard=40)
    curate.score(
        target=folder / "val.jsonl",
        pool=folder / "pool",
        model=str(folder / "proxy"),
        group_by="task",
        method="bm25",
        out=folder / "teacher",
    )
    return folder


@pytest.fixture(scope="module")
def predicted(project: Path) -> curate.Run:
    return _predict(project, project / "predicted")


def _predict(project: Path, out: Path, **values: object) -> curate.Run:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Within sources")  # three topics, and little else to learn
        return curate.predict(out=out, **({"teacher": project / "teacher"} | values))


def test_a_prediction_is_a_run_of_the_same_columns_and_rows(project: Path, predicted: curate.Run) -> None:
    teacher = curate.Run.open(project / "teacher")
    scores, exact = predicted.scores().collect(), teacher.scores().collect()
    assert scores.schema == exact.schema
    assert scores.select("doc_id", "shard", "row").equals(exact.select("doc_id", "shard", "row"))
    assert scores.select("target_exact", "target_overlap").equals(exact.select("target_exact", "target_overlap"))
    assert predicted.totals is not None
    assert predicted.totals["skipped"]["undecodable line"] == 1
    assert predicted.record.method == "predicted"
    told = predicted.record.of_method
    assert told["student"] == "words"
    assert told["tried"]["words"]["figures"]["score"]["spearman"] > 0.5
    ratio = scores["n_tokens"].sum() / exact["n_tokens"].sum()
    assert 0.9 < ratio < 1.1
    assert scores["loss"].is_null().all()


def test_documents_are_drawn_by_the_seed_from_the_scored_ones_in_order_of_shards_and_rows(project: Path) -> None:
    teacher = curate.Run.open(project / "teacher")
    settings = PredictSettings(teacher=str(project / "teacher"), documents=80, seed=3)
    lesson = lesson_of(teacher, make_prediction(settings, teacher, Silent()), Silent())
    scored = teacher.scores().collect().sort("shard", "row")
    drawn = sorted(np.random.default_rng([3, 4]).permutation(len(scored))[:80].tolist())
    assert_frame_equal(lesson.frame, scored[drawn].select(lesson.frame.columns))
    assert [(d.shard, d.row) for d in lesson.documents] == lesson.frame.select("shard", "row").rows()


def test_jobs_that_share_a_pool_and_another_start_give_the_same_scores(project: Path, predicted: curate.Run) -> None:
    with pytest.warns(UserWarning, match="2 of 4 shards of .* have parts missing"):
        _predict(project, project / "shared", part="1/2")
    _predict(project, project / "shared", part="2/2")
    assert_frame_equal(curate.Run.open(project / "shared").scores().collect(), predicted.scores().collect())
    assert _predict(project, project / "shared", settings=curate.recorded(project / "shared")).is_finished


def test_a_student_that_is_kept_is_told_of_by_a_record_that_lacks_it(project: Path, predicted: curate.Run) -> None:
    """Of a run that was killed between the two, or begun anew for a pool that has changed."""
    folder = project / "told"
    shutil.copytree(predicted.path, folder)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    told = record["details"].pop("predicted")
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "finished.json").unlink()
    assert _predict(project, folder).record.of_method == told
    names = ("run.json", "finished.json")
    assert [(folder / n).read_bytes() for n in names] == [(predicted.path / n).read_bytes() for n in names]


@pytest.mark.slow
def test_processes_give_the_same_scores(project: Path, predicted: curate.Run) -> None:
    run = _predict(project, project / "again", workers=2)
    assert_frame_equal(run.scores().collect(), predicted.scores().collect())


def test_the_best_of_all_students_predicts_another_pool(project: Path) -> None:
    other = project / "other"
    other.mkdir()
    (other / "new.jsonl").write_bytes(lines(make_rows(30, 7)))
    run = _predict(project, project / "best", student="auto", pool=other, by_source=True, columns="score_b", seed=3)
    told = run.record.of_method
    assert set(told["tried"]) == {"words", "embeddings", "hidden"}
    spearmans = {name: fitted["figures"]["score"]["spearman"] for name, fitted in told["tried"].items()}
    assert min(spearmans.values()) > 0.3
    scores = run.scores().collect()
    assert len(scores) == 30
    assert [c for c in scores.columns if c.startswith("score")] == ["score", "score_b"]
    topics = dict(scores.group_by("source").agg(pl.col("score").mean()).iter_rows())
    assert topics["sums"] > topics["law"]  # the target is of sums


def test_a_teacher_that_cannot_teach_is_refused(project: Path, predicted: curate.Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="columns names 'score_c'; the teacher has score, score_a, score_b"):
        _predict(project, tmp_path / "x", columns="score_c")
    with pytest.raises(SettingsError, match="layers is 9; the proxy has 2"):
        _predict(project, tmp_path / "x", student="hidden", layers=9)
    with pytest.raises(CurateError, match="was started with other settings"):
        _predict(project, project / "predicted", seed=5)
    (project / "predicted-half").mkdir()
    (project / "predicted-half" / "run.json").write_bytes((project / "teacher" / "run.json").read_bytes())
    with pytest.raises(CurateError, match="is not finished"):
        _predict(project, tmp_path / "x", teacher=project / "predicted-half")


def test_a_prediction_is_no_teacher(project: Path, predicted: curate.Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is itself predicted") as refused:
        _predict(project, tmp_path / "x", teacher=predicted.path)
    assert str(refused.value).endswith(f"curate predict {project / 'teacher'}")


def test_the_command_prints_the_figures_and_goes_on(
    project: Path, predicted: curate.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdout, "width", 80)
    main(["predict", str(project / "teacher"), "--out", str(predicted.path)])
    main(["predict", "--continue", str(predicted.path)])
    out = capsys.readouterr().out
    assert out.count("cross-validated on 161 documents") == 2
    assert {"student", "column", "documents", "spearman"} <= set(out.split())  # no heading is broken within a word
    share = predicted.record.of_method["tried"]["words"]["figures"]["score"]["recall"][-1]
    assert f" {percent(share)} " in out
    assert "161 documents predicted by 'words'" in out
    main(["select", str(predicted.path), "--budget", "500", "--out", str(project / "selected")])
    main(["status", str(predicted.path)])
    assert "finished, 164 rows of 4 shards" in capsys.readouterr().out


def test_a_plan_counts_the_pool_and_writes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_LoggedTask, "EVERY", 0.0)
    before = sorted(project.rglob("*"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Within sources")
        plan = curate.plan_predict(teacher=str(project / "teacher"), documents=80)
        main(["predict", str(project / "teacher"), "--dry-run", "--workers", "1"])
    assert plan.documents == pytest.approx(164, rel=0.1)
    assert (plan.learned_from, plan.student, plan.workers) == (80, "words", 1)
    assert plan.seconds == pytest.approx(plan.learn_seconds + plan.documents / plan.documents_per_second)
    shown = capsys.readouterr()
    assert "Learning from 161 documents and predicting about" in shown.out
    assert "measuring: 1/1 samples in" in shown.err
    assert sorted(project.rglob("*")) == before
