import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import curate
from curate.cli import main
from curate.errors import CurateError, SettingsError
from curate.pipeline.cascade import Cascade
from curate.proxies.loading import load_tokenizer
from curate.score_settings import ScoreSettings
from curate.settings import changed
from tests.scoring import make_project

KEYS = ["shard", "row"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("cascade") / "project", 80)


@pytest.fixture(scope="module")
def how(project: Path) -> dict[str, Any]:
    place = {"target": str(project / "val.jsonl"), "pool": str(project / "pool"), "model": str(project / "proxy")}
    return {**place, "method": "bm25", "group_by": "task", "sample": "50%", "device": "cpu"}


def _run(out: Path, **values: Any) -> Cascade:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Within sources")  # three topics, and little else to learn
        warnings.filterwarnings("ignore", message=".*of the pool are to be scored")
        return curate.cascade(out=out, **values)


@pytest.fixture(scope="module")
def cascade(project: Path, how: dict[str, Any]) -> Cascade:
    return _run(project / "runs" / "x", select_into=project / "selected", **how)


def test_the_exact_stage_has_the_scores_of_the_whole_pool_of_the_predicted_best(
    project: Path, how: dict[str, Any], cascade: Cascade
) -> None:
    full = curate.score(out=project / "full", **{k: v for k, v in how.items() if k != "sample"}).scores().collect()
    exact = cascade.exact.scores().collect()
    assert_frame_equal(exact, full.join(exact.select(KEYS), on=KEYS, how="semi").sort(KEYS))
    predicted = cascade.predicted.scores().collect()
    assert len(predicted) == len(full)
    best = pl.concat(predicted.top_k(round(0.2 * len(full)), by=c).select(KEYS) for c in ("score_a", "score_b"))
    assert set(exact.select(KEYS).iter_rows()) == set(best.iter_rows())
    told = cascade.expected
    assert told.documents == pytest.approx(len(exact), rel=0.3)
    assert set(told.kept) == {"score", "score_a", "score_b"}
    assert all(0 < k.at_least < k.recall <= 1 for k in told.kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ekfac", "magic"])
def test_the_exact_stage_fits_nothing_and_takes_the_scores_of_the_sample(
    project: Path, how: dict[str, Any], method: str
) -> None:
    asked = {**how, "method": method, "background": 32, "keep": "30%", "per_token": True}
    cascade = _run(project / "runs" / method, **asked)
    exact, teacher = cascade.exact, cascade.teacher
    kept = [path for path in exact.path.rglob("*.safetensors") if path.parent.parent == exact.path]
    assert kept
    assert all(path.samefile(teacher.path / path.relative_to(exact.path)) for path in kept)
    taken = exact.scores().join(teacher.scores().select(KEYS), on=KEYS, how="semi").sort(KEYS).collect()
    assert 0 < len(taken) < (exact.totals or {})["documents"]
    of_sample = teacher.scores().join(exact.scores().select(KEYS), on=KEYS, how="semi").sort(KEYS).collect()
    assert_frame_equal(taken, of_sample, check_exact=True)
    settings = ScoreSettings.from_record(exact.record.settings)
    full = curate.score(changed(settings, only=None, top=None, group=()), project / "full" / method)
    of_full = full.scores().join(exact.scores().select(KEYS), on=KEYS, how="semi").sort(KEYS).collect()
    assert_frame_equal(exact.scores().collect(), of_full, rel_tol=1e-3, abs_tol=1e-6)
    (exact.path / "finished.json").unlink()
    shutil.rmtree(teacher.path)
    with pytest.raises(CurateError, match=r"whose scores .* takes is gone"):
        curate.score(settings, exact.path)


def test_a_selection_is_a_share_of_the_pool(project: Path, cascade: Cascade) -> None:
    assert cascade.selection is not None
    assert cascade.selection.documents == round(0.05 * cascade.expected.of)
    again = curate.select(cascade.exact, top="5%", out=project / "again")
    assert again.documents == cascade.selection.documents


def test_a_stopped_cascade_goes_on_and_other_settings_are_refused(
    project: Path, how: dict[str, Any], cascade: Cascade, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project / "runs" / "stopped"
    for name in ("teacher", "predicted"):
        shutil.copytree(project / "runs" / "x" / name, out / name)
    shutil.copy(project / "runs" / "x" / "cascade.json", out)
    with pytest.raises(SettingsError, match=r"keep: the cascade has null, you asked for 0\.3"):
        _run(out, keep="30%", **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(["cascade", "--continue", str(out)])
        main(["cascade", "--continue", str(out), "--json"])
    printed = capsys.readouterr().out
    assert "expected by cross-validation" in printed
    assert '"selection": null' in printed  # the first cascade has written it
    assert '"at_least"' in printed
    assert_frame_equal(curate.Run.open(out).scores().collect(), cascade.exact.scores().collect())
    assert _run(out, settings=curate.recorded(out)).exact.is_finished


def test_a_wanted_recall_chooses_the_size(project: Path, how: dict[str, Any], cascade: Cascade) -> None:
    from curate.pipeline.cascade import expect

    settings = [curate.CascadeSettings.of({**how, "recall": r, "group": "a"}) for r in (0.5, 0.8, 1.0)]
    low, middle, high = (expect(s, cascade.teacher, cascade.predicted) for s in settings)
    assert round(0.05 * low.of) <= low.documents <= middle.documents <= high.documents
    assert low.columns == ("score_a",)
    assert middle.kept["score_a"].recall >= 0.8
    assert high.kept["score_a"].recall == 1


def test_settings_that_contradict_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="keep and recall"):
        curate.CascadeSettings.of({**how, "keep": "20%", "recall": 0.9})
    with pytest.raises(SettingsError, match="keep is 20%, and top 30%"):
        curate.CascadeSettings.of({**how, "top": "30%"})
    with pytest.raises(SettingsError, match="A cascade takes no store"):
        curate.CascadeSettings.of({**how, "store": "stores/x"})


def test_a_folder_that_cannot_take_the_selection_is_refused_before_anything_is_scored(
    how: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "selected").mkdir()
    (tmp_path / "selected" / "notes").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="is not a selection of curate"):
        curate.cascade(out=tmp_path / "x", select_into=tmp_path / "selected", **how)
    assert not (tmp_path / "x").exists()


def test_a_tokenizer_that_cannot_end_documents_is_refused_before_anything_is_scored(
    project: Path, how: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(shutil.copytree(project / "proxy", tmp_path / "proxy")))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "proxy")
    endless: dict[str, Any] = {**how, "model": str(tmp_path / "proxy"), "format": "megatron"}
    with pytest.raises(CurateError, match="neither an eos nor a sep token"):
        curate.cascade(out=tmp_path / "x", select_into=tmp_path / "selected", **endless)
    assert not (tmp_path / "x").exists()


def test_a_dry_run_tells_the_stages_and_writes_nothing(
    project: Path, how: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    asked = [word for name, value in how.items() for word in (f"--{name.replace('_', '-')}", value)]
    main(["cascade", *asked, "--recall", "90%", "--dry-run"])
    out = capsys.readouterr().out
    assert "whose size is learned" in out
    assert "time to score every document" in out
    assert not (project / "runs" / "val-bm25-cascade").exists()


def test_a_stopped_cascade_that_goes_on_writes_the_selection_it_was_begun_to(
    project: Path, cascade: Cascade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, before = project / "runs" / "unselected", project / "selected" / "manifest.json"
    shutil.copytree(project / "runs" / "x", out)
    kept = json.loads(before.read_text())["after"]
    shutil.rmtree(project / "selected")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(["cascade", "--continue", str(out)])
    assert json.loads(before.read_text())["after"] == kept
