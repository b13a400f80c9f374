import gzip
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.pipeline import request, workspace
from curate.progress import Silent, Task
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.scores.session import open_session
from tests.scoring import lines, make_pool, make_project, make_rows, make_target, small_settings


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.stages: list[str] = []
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def stage(self, name: str, **options: Any) -> AbstractContextManager[Task]:
        self.stages.append(name)
        return super().stage(name, **options)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road")
    return make_project(folder, 40)


def settings(place: Path, **changes) -> ScoreSettings:
    return small_settings(place, **({"background": 64, "method": "trackstar", "method_settings": {"dim": 4}} | changes))


def of_one_shard(place: Path, **changes) -> ScoreSettings:
    return settings(place, pool=(str(place / "pool" / "d.parquet"),), **changes)


@pytest.fixture(scope="module")
def run(place: Path):
    return curate.score(settings(place), place / "runs" / "x", reporter=Heard())


def test_every_row_is_scored_or_set_aside_with_its_reason(run) -> None:
    assert run.totals["documents"] == 161
    assert run.totals["skipped"] == {"empty text": 1, "not a string": 1, "undecodable line": 1}
    found = run.scores().collect()
    assert found["doc_id"].n_unique() == 161
    assert set(found["source"].unique()) == {"sums", "law", "sea", None}  # one row says nothing
    torn = run.skipped().filter(pl.col("reason") == "undecodable line").collect().row(0, named=True)
    assert "line 41" in torn["detail"]


def test_documents_like_the_target_score_highest(run) -> None:
    means = run.scores().group_by("source").agg(pl.col("score").mean()).collect()
    by_source = dict(zip(means["source"], means["score"], strict=True))
    assert by_source["sums"] > by_source["law"]
    assert by_source["sums"] > by_source["sea"]


def test_a_long_document_says_that_it_was_cut(run) -> None:
    found = run.scores().collect()
    assert found.filter(pl.col("truncated"))["n_tokens"].unique().to_list() == [63]
    assert found.filter(~pl.col("truncated")).height > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dot", "cosine", "trackstar", "ekfac"])
def test_scores_do_not_depend_on_parts_batches_or_order(place: Path, tmp_path: Path, method: str) -> None:
    projected = {"dim": 4} if method in ("cosine", "trackstar") else {}

    def scored(name: str, **changes) -> pl.DataFrame:
        asked = settings(place, method=method, method_settings=projected, **changes)
        made = curate.score(asked, tmp_path / name / method, reporter=Heard())
        return made.scores().sort("doc_id", "shard", "row").collect()

    one = scored("one", part_documents=7, batch_tokens=64)
    other = scored("other", part_documents=1000, batch_tokens=4096)
    scale = one["score"].abs().max()
    least = 2e-5 if method != "ekfac" else 1e-3  # small eigenvalues magnify rounding
    assert np.abs(one["score"].to_numpy() - other["score"].to_numpy()).max() < least * scale
    np.testing.assert_allclose(one["loss"].to_numpy(), other["loss"].to_numpy(), rtol=1e-5)


@pytest.mark.parametrize("method", ["bm25", "embedding", "length", "loss", "random"])
def test_baselines_go_the_same_road(place: Path, tmp_path: Path, run, method: str) -> None:
    asked = {"method": method, "method_settings": {}, "group_by": "task"}
    found, other = (
        curate.score(settings(place, **asked, part_documents=n), tmp_path / f"{n}" / "x", reporter=Heard())
        .scores()
        .sort("shard", "row")
        .collect()
        for n in (7, 1000)
    )
    for column in ("score", "score_a", "score_b"):
        np.testing.assert_allclose(found[column], other[column], rtol=2e-5, atol=2e-6)
    assert found["n_tokens"].to_list() == run.scores().sort("shard", "row").collect()["n_tokens"].to_list()
    assert found["grad_norm"].null_count() == found.height
    assert found["loss"].null_count() == (0 if method == "loss" else found.height)
    if method in ("bm25", "embedding"):
        means = dict(found.group_by("source").agg(pl.col("score").mean()).iter_rows())
        assert means["sums"] > max(means["law"], means["sea"])


@pytest.mark.slow
def test_windows_read_all_of_a_long_document(place: Path, tmp_path: Path, run) -> None:
    whole = curate.score(settings(place, long="windows"), tmp_path / "w" / "x", reporter=Heard()).scores().collect()
    cut = run.scores().collect()
    assert not whole["truncated"].any()
    assert whole["n_tokens"].sum() > cut["n_tokens"].sum()
    both = whole.join(cut, on=["shard", "row"]).filter(~pl.col("truncated_right"))
    np.testing.assert_allclose(both["loss"], both["loss_right"], rtol=1e-5)


def test_groups_get_a_column_each(place: Path, tmp_path: Path) -> None:
    made = curate.score(of_one_shard(place, group_by="task"), tmp_path / "g" / "x", reporter=Heard())
    found = made.scores().collect()
    assert made.record.json["details"]["columns"] == ["score", "score_a", "score_b"]
    mean = (8 * found["score_a"] + 4 * found["score_b"]) / 12  # the target has eight rows of a and four of b
    np.testing.assert_allclose(found["score"], mean, atol=1e-5)


def test_group_columns_keep_every_script_and_are_told_apart_without_case() -> None:
    assert request.score_columns(["日本語", "über uns"]) == ["score", "score_日本語", "score_über_uns"]
    assert request.score_columns(["C", "C#", "C++"]) == ["score", "score_C", "score_Csharp", "score_Cplusplus"]
    with pytest.raises(SettingsError, match=r"'A b' and 'a_b'"):
        request.score_columns(["A b", "a_b"])


def test_a_start_that_fails_does_not_stand_in_the_way_of_the_next(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="context is 9999"):
        curate.score(of_one_shard(place, context=9999), tmp_path / "x", reporter=Heard())
    assert curate.score(of_one_shard(place), tmp_path / "x", reporter=Heard()).is_finished


def test_other_settings_are_refused_by_name_before_the_model_loads(place: Path, run, monkeypatch) -> None:
    monkeypatch.setattr(workspace, "load_proxy", lambda _: pytest.fail("loaded the model"))
    with pytest.raises(SettingsError, match=r"method_settings\.dim: the run has 4, you asked for 8"):
        curate.score(settings(place, method_settings={"dim": 8}), run.path)


def test_a_changed_pool_is_refused(place: Path, tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 5)
    asked = settings(place, pool=(str(pool),))
    made = curate.score(asked, tmp_path / "x", reporter=Heard())
    (pool / "e.jsonl").write_bytes(lines(make_rows(3, 7)))
    with pytest.raises(SettingsError, match=r"pool.*content has changed"):
        curate.score(asked, made.path, reporter=Heard())


def test_a_finished_run_is_not_computed_again(place: Path, run, monkeypatch) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in (run.path / "scores").iterdir()}
    curate.score(settings(place), run.path, reporter=Heard())
    assert {p.name: p.stat().st_mtime_ns for p in (run.path / "scores").iterdir()} == before


def test_a_second_run_takes_the_target_sketches_from_the_first(place: Path, tmp_path: Path) -> None:
    first = curate.score(of_one_shard(place, method="trackstar"), tmp_path / "trackstar", reporter=Heard())
    second = curate.score(of_one_shard(place, method="cosine"), tmp_path / "cosine", reporter=Heard())
    kept = [p.name for p in (first.path / "target").iterdir()]
    assert kept
    assert kept == [p.name for p in (second.path / "target").iterdir()]


def test_curvature_is_fitted_once_for_every_target(place: Path, tmp_path: Path) -> None:
    asked = {"method": "ekfac", "method_settings": {}}
    first = curate.score(of_one_shard(place, **asked), tmp_path / "one", reporter=Heard())
    other = make_target(tmp_path / "other.jsonl", count=5)
    heard = Heard()
    second = curate.score(of_one_shard(place, **asked, target=(str(other),)), tmp_path / "two", reporter=heard)
    (one,), (two,) = (list((run.path / "curvature").iterdir()) for run in (first, second))
    assert one.name == two.name
    assert one.stat().st_ino == two.stat().st_ino  # gigabytes for a larger model: one copy serves both
    assert "factors" not in heard.stages
    assert first.scores().collect()["score"].to_list() != second.scores().collect()["score"].to_list()


def test_a_torn_shard_does_not_stop_the_others(place: Path, tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 20)
    whole = gzip.compress(lines(make_rows(400, 5)))
    (pool / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    heard = Heard()
    with pytest.raises(CurateError, match=r"1 shard\(s\) could not be read"):
        curate.score(
            settings(place, pool=(str(pool),), method="length", method_settings={}),
            tmp_path / "x",
            strict=True,
            reporter=heard,
        )
    shards = pl.scan_parquet(tmp_path / "x" / "scores" / "*.parquet").select("shard").collect()["shard"].unique()
    assert set(shards) == {"a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"}
    assert any("b.jsonl.gz" in w for w in heard.warnings)


def test_a_document_without_finite_gradient_is_set_aside_alone(place: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(place / "proxy")
    tokenizer = AutoTokenizer.from_pretrained(place / "proxy")
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer(" gulls")["input_ids"][-1]] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    pool = tmp_path / "pool.jsonl"
    pool.write_bytes(lines([{"text": "the court shall hold"}, {"text": "the gulls cried"}, {"text": "the ship rode"}]))
    asked = settings(place, pool=(str(pool),), model=str(tmp_path / "broken"), background=3)
    made = curate.score(asked, tmp_path / "x", reporter=Heard())
    assert made.scores().select("row").collect()["row"].to_list() == [0, 2]
    assert made.totals["skipped"] == {"non-finite loss": 1}


def test_target_rows_in_the_pool_are_seen(place: Path, tmp_path: Path) -> None:
    held = json.loads((place / "val.jsonl").read_text().splitlines()[0])["text"]
    pool = tmp_path / "pool.jsonl"
    pool.write_bytes(lines([{"text": f"the ship rode. {held} gulls"}, {"text": "the court shall hold notice"}]))
    made = curate.score(settings(place, pool=(str(pool),)), tmp_path / "x", reporter=Heard())
    found = made.scores().sort("row").collect()
    assert found["target_exact"].to_list() == [True, False]
    assert found["target_overlap"].to_list() == [1.0, 0.0]


def test_rows_kept_aside_take_no_part_but_are_looked_for(place: Path, tmp_path: Path) -> None:
    target = make_target(tmp_path / "val.jsonl")
    asked = of_one_shard(place, target=(str(target),), group_by="task", holdout=0.3, method="dot", method_settings={})
    made = curate.score(asked, tmp_path / "one" / "x", reporter=Heard())
    (aside,) = made.record.json["details"]["holdout"]["rows"].values()
    assert made.record.json["details"]["holdout"]["rows"].keys() == {"val.jsonl"}
    assert (made.record.json["details"]["holdout"]["share"], made.record.json["details"]["holdout"]["seed"]) == (0.3, 0)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    kept = [json.loads(line) for line in (made.path / "target" / "heldout.jsonl").read_text().splitlines()]
    assert kept == [rows[i] for i in aside]
    assert len(made.record.json["details"]["target_rows"]) == len(rows) - len(aside)

    found = pl.scan_parquet(place / "pool" / "d.parquet").collect()["text"][0]
    for i in aside:
        rows[i]["text"] = f"{found} number {i}"
    target.write_bytes(lines(rows))
    other = curate.score(asked, tmp_path / "two" / "x", reporter=Heard())
    scores = [r.scores().sort("shard", "row").collect() for r in (made, other)]
    for column in ("score", "score_a", "score_b"):
        assert scores[0][column].to_list() == scores[1][column].to_list()
    assert scores[1]["target_overlap"].max() > scores[0]["target_overlap"].max()
    assert made.record.json["fingerprints"]["target"] == other.record.json["fingerprints"]["target"]
    with pytest.raises(SettingsError, match=r"heldout.*content has changed"):
        curate.score(asked, made.path, reporter=Heard())
    with pytest.raises(SettingsError, match=r"holdout: the run has 0\.3, you asked for 0\.0"):
        curate.score(
            of_one_shard(place, target=(str(target),), group_by="task", method="dot", method_settings={}), made.path
        )


def test_every_run_says_which_target_rows_it_used(run) -> None:
    assert len(run.record.json["details"]["target_rows"]) == 12
    assert "holdout" not in run.record.json["details"]
    assert not (run.path / "target" / "heldout.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "trackstr"}, "no method 'trackstr'"),
        ({"method_settings": {"dims": 4}}, "no setting 'dims'"),
        ({"method_settings": {"dim": "four"}}, "whole number"),
        ({"method": "trackstar", "method_settings": {"damping": "little"}}, "damping is 'little'; expected a number"),
        ({"long": "window"}, "long"),
        ({"dtype": "float8"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"target": ("nowhere.jsonl",)}, "nowhere"),
        ({"group_by": "subject"}, "subject"),
        ({"group_by": "text", "holdout": 0.3}, "has one row"),
    ],
)
def test_wrong_settings_are_errors_before_the_model_loads(place, tmp_path, monkeypatch, changes, message) -> None:
    monkeypatch.setattr(workspace, "load_proxy", lambda _: pytest.fail("loaded the model"))
    with pytest.raises(CurateError, match=message):
        curate.score(settings(place, **changes), tmp_path / "x")


def test_pool_columns_that_sql_would_confuse_with_ours_are_renamed(place: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    text = "the court shall hold notice"
    pool.write_bytes(lines([{"text": text, "Score": 3, "run": "r", "row": 9, "lang": "en", "Lang": "EN"}]))
    made = curate.score(settings(place, pool=(str(pool),)), tmp_path / "x", reporter=Heard())
    (found,) = made.scores().collect().to_dicts()
    assert (found["pool_Score"], found["pool_run"], found["pool_row"]) == (3, "r", 9)
    assert (found["Lang"], found["pool_lang"]) == ("EN", "en")
    folded = [name.casefold() for name in found]
    assert len(set(folded)) == len(folded)


def test_a_damaged_shard_is_a_row_set_aside_in_a_finished_run(place: Path, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.parquet").write_bytes(b"PAR1 and no more")
    whole = gzip.compress(lines(make_rows(400, 5)))
    (tmp_path / "pool" / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pool" / "c.jsonl").write_bytes(lines(make_rows(20, 6)))
    (tmp_path / "pool" / "d.jsonl.gz").write_bytes(b"")
    heard = Heard()
    made = curate.score(
        settings(place, pool=(str(tmp_path / "pool"),), method="length", method_settings={}),
        tmp_path / "x",
        reporter=heard,
    )
    aside = made.skipped().filter(pl.col("reason") == "damaged shard").collect().rows(named=True)
    read = made.scores().filter(pl.col("shard") == "b.jsonl.gz").select(pl.len()).collect().item()
    assert [(r["shard"], r["row"]) for r in aside] == [("a.parquet", 0), ("b.jsonl.gz", read)]
    assert made.is_finished
    assert read > 20
    assert [w.split(":")[0] for w in heard.warnings] == ["a.parquet", "b.jsonl.gz"]
    with open_session(made) as session:
        (((documents,),),) = (session.query("SELECT count(*) FROM documents JOIN scores USING (shard, row)").rows(),)
    assert documents == read + 20
    chosen = curate.select(made, top="100%", decontaminate=False, out=tmp_path / "selected")
    assert chosen.documents == read + 20


def test_a_pool_without_a_usable_row_is_an_error_that_shows_the_first(place: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_bytes(lines([{"text": 7}, {"text": " "}, {"text": 8}]))
    asked = settings(place, pool=(str(pool),), method="length", method_settings={})
    told = (
        r"Not one of the pool's 3 rows can be used: 1 empty text, 2 not a string\. The first is pool.jsonl, row 0: .*7"
    )
    with pytest.raises(CurateError, match=told):
        curate.score(asked, tmp_path / "x", reporter=Heard())
    assert not Run.open(tmp_path / "x").is_finished


def test_a_target_that_is_in_the_pool_is_said_before_the_work(place: Path, tmp_path: Path) -> None:
    target = (str(place / "val.jsonl"),)
    shared = lines(make_rows(3, 1)) + (place / "val.jsonl").read_bytes()[:400].rsplit(b"\n", 1)[0]
    (tmp_path / "mixed.jsonl").write_bytes(shared)
    for pool, told in [
        (target, "The target is the pool"),
        ((*target, str(place / "pool")), "val.jsonl is in pool and target"),
        ((str(tmp_path / "mixed.jsonl"),), "of the first 4 documents of the pool are rows of the target"),
    ]:
        heard = Heard()
        request.make_request(settings(place, pool=pool), heard)
        assert any(told in w for w in heard.warnings), pool


def test_what_is_read_of_a_folder_is_said(place: Path, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(lines(make_rows(3, 1)))
    (tmp_path / "train.jsonl").write_bytes(lines(make_rows(3, 2)))
    (tmp_path / "README.md").write_text("a card")
    heard = Heard()
    request.make_request(settings(place, pool=(str(tmp_path),)), heard)
    assert "pool: 1 shard; not read: README.md; of other splits, which FOLDER:SPLIT reads: test.jsonl." in heard.notes


def test_a_background_without_a_usable_row_shows_the_first(place: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_bytes(lines([{"text": 7}, {"text": " "}]))
    told = r"holds no row that can be used\. The first is pool.jsonl, row 0: column 'text' holds int: 7"
    with pytest.raises(CurateError, match=told):
        curate.score(settings(place, pool=(str(pool),)), tmp_path / "x", reporter=Heard())
