"""Runs of slices of a pool, made one: what it holds, and what is refused."""

import json
import shutil
import uuid
from pathlib import Path

import polars as pl
import pytest

import curate
from curate.cli import main
from curate.errors import SettingsError
from curate.folders import merging
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from tests.scoring import lines, make_proxy_folder, make_rows, make_target, small_settings


def settings(place: Path, *slices: str, **changes) -> ScoreSettings:
    pool = tuple(str(place / "pool" / name) for name in slices)
    return small_settings(place, **({"pool": pool, "method": "bm25"} | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool in three folders, of which two have a shard of the same name; a run of each with the fits of the first."""
    folder = tmp_path_factory.mktemp("merge")
    make_proxy_folder(folder / "proxy", layers=1)
    make_target(folder / "val.jsonl")
    shards = {"0/b.jsonl": 1, "0/d.jsonl": 2, "1/a.jsonl": 3, "1/d.jsonl": 4, "2/c.jsonl": 5}
    for name, seed in shards.items():
        (folder / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pool" / name).write_bytes(lines([*make_rows(20, seed), {"id": "empty", "text": " "}]))
    base = curate.score(settings(folder, "0"), folder / "runs" / "0")
    for name in ("1", "2"):
        curate.score(settings(folder, name, fit_from=str(base.path)), folder / "runs" / name)
    return folder


@pytest.fixture(scope="module")
def merged(place: Path) -> Run:
    return curate.merge([place / "runs" / n for n in "012"], place / "runs" / "all")


def files_of(run: Run, *folders: str) -> dict[str, bytes]:
    return {f.name: run.folder.read(f.name) for f in run.folder.files() if f.name.startswith(folders)}


def test_a_merged_run_has_the_bytes_of_a_run_of_the_whole_pool_and_gives_its_selection(place, merged, tmp_path) -> None:
    whole = curate.score(settings(place, "0", "1", "2", fit_from=str(place / "runs" / "0")), tmp_path / "whole")
    kinds = ("scores/", "skipped/", "target/", "finished.json", "shards.json")
    assert files_of(merged, *kinds) == files_of(whole, *kinds)
    assert merged.record.fingerprints == whole.record.fingerprints
    assert merged.record.settings["pool"] == whole.record.settings["pool"]
    assert merged.record.details.frequency_loss is not None
    for name, run in (("x", merged), ("y", whole)):
        curate.select(run, top="30%", out=tmp_path / name, format="parquet")
    data = [{p.name: p.read_bytes() for p in (tmp_path / n / "train").iterdir()} for n in "xy"]
    assert data[0] == data[1]


def test_ranks_are_over_all_slices_and_rows_of_equally_named_shards_stay_apart(place, merged) -> None:
    shards = merged.scores().select(pl.col("shard").unique(maintain_order=True)).collect()["shard"].to_list()
    assert shards == ["0/d.jsonl", "1/d.jsonl", "a.jsonl", "b.jsonl", "c.jsonl"]
    apart = pl.concat(Run.open(place / "runs" / n).scores().collect() for n in "012")
    together = merged.scores().collect()
    assert together.sort("doc_id")["score"].to_list() == apart.sort("doc_id")["score"].to_list()
    assert curate.select(merged, top=10).documents == 10


def test_the_base_need_not_be_first(place, tmp_path) -> None:
    merged = curate.merge([place / "runs" / n for n in "201"], tmp_path / "all")
    assert merged.record.fingerprints.fit == Run.open(place / "runs" / "1").record.fingerprints.fit
    assert merged.located_settings["fit_from"] == str(place / "runs" / "0")


@pytest.mark.parametrize("parts_of_a_file", [256, 2])
def test_a_merge_that_was_stopped_goes_on(place, tmp_path, monkeypatch, parts_of_a_file: int) -> None:
    monkeypatch.setattr(merging, "PARTS", parts_of_a_file)
    torn = curate.merge([place / "runs" / n for n in "012"], tmp_path / "torn").path
    before = files_of(Run.open(torn), "scores/", "skipped/", "finished.json")
    (torn / "finished.json").unlink()
    for file in sorted((torn / "scores").iterdir())[1:]:
        file.unlink()
    again = curate.merge([place / "runs" / n for n in "012"], torn)
    assert files_of(again, "scores/", "skipped/", "finished.json") == before


def test_a_slice_with_fits_of_its_own_is_refused_unless_its_method_has_none(place, tmp_path) -> None:
    other = curate.score(settings(place, "1"), tmp_path / "1")
    with pytest.raises(SettingsError, match="each was fitted on a sample of its own pool"):
        curate.plan_merge([place / "runs" / "0", other])
    lengths = [curate.score(settings(place, n, method="length"), tmp_path / f"length{n}") for n in "01"]
    assert curate.plan_merge(lengths).totals["documents"] == 80


def test_runs_that_score_otherwise_are_refused_with_what_differs(place, tmp_path) -> None:
    other = curate.score(settings(place, "2", method="length", seed=3), tmp_path / "length")
    with pytest.raises(SettingsError) as refusal:
        curate.plan_merge([place / "runs" / "0", other])
    assert "method: " in str(refusal.value)
    assert '"length"' in str(refusal.value)
    assert "seed: " in str(refusal.value)


@pytest.mark.parametrize("as_copy", [False, True])
def test_a_shard_in_two_runs_is_named(place, tmp_path, as_copy) -> None:
    folder = place / "pool" / "2"
    if as_copy:
        shutil.copytree(folder, tmp_path / "copy")
        folder = tmp_path / "copy"
    asked = settings(place, "1", pool=(str(folder),), fit_from=str(place / "runs" / "0"))
    other = curate.score(asked, tmp_path / "again")
    with pytest.raises(SettingsError, match=r"runs/2 and .*again have the shard c\.jsonl in common"):
        curate.plan_merge([place / "runs" / "2", other])


@pytest.mark.parametrize(
    ("runs", "said"),
    [(["0"], "1 run is given; expected at least two"), (["0", "0"], "have the shard b.jsonl in common")],
)
def test_too_few_runs_are_refused(place, runs, said, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["merge", *(str(place / "runs" / n) for n in runs), "--out", str(place / "none")])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not (place / "none").exists()


def test_a_dry_run_says_what_a_merged_run_will_hold_and_writes_nothing(place, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    main(["merge", "runs/0", "runs/1", "--dry-run", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "runs": ["runs/0", "runs/1"], "shards": 4, "documents": 80, "tokens": told["tokens"],
        "skipped": {"empty text": 4},
    }  # fmt: skip
    assert {p.name for p in (place / "runs").iterdir()} <= {"0", "1", "2", "all"}


def test_select_says_how_several_runs_become_one(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["select", "runs/0", "runs/1", "--top", "5%"])
    assert "curate merge runs/0 runs/1 --out runs/all" in capsys.readouterr().err


def test_a_merged_run_may_lie_in_an_object_store(place, merged, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    away = curate.merge([place / "runs" / n for n in "012"], f"memory://{uuid.uuid4().hex}/all")
    assert files_of(away, "scores/", "target/", "finished.json") == files_of(
        merged, "scores/", "target/", "finished.json"
    )
