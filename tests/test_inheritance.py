import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

import curate
from curate.cli import group
from curate.errors import CurateError, SettingsError
from curate.progress import Silent
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from tests.scoring import lines, make_proxy_folder, make_rows, make_target, small_settings

ROWS = 20
"""Of each of the first shards; those that are added have half as many."""


class Heard(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, name: str, **options: Any):
        self.stages.append(name)
        return super().stage(name, **options)

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_proxy_folder(tmp_path / "proxy")
    (tmp_path / "pool").mkdir()
    for name, seed in (("b", 1), ("d", 2)):
        (tmp_path / "pool" / f"{name}.jsonl").write_bytes(lines(make_rows(ROWS, seed)))
    make_target(tmp_path / "val.jsonl")
    return tmp_path


def settings(place: Path, **changes) -> ScoreSettings:
    return small_settings(place, **({"method": "ekfac"} | changes))


def add_shards(place: Path) -> None:
    """One shard that sorts before the others, one between them."""
    for name, seed in (("a", 3), ("c", 4)):
        (place / "pool" / f"{name}.jsonl").write_bytes(lines(make_rows(ROWS // 2, seed)))


SMALL_RECIPE = {"steps": 2, "batch_size": 4, "runs": 1, "accept_rough": True}


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("ekfac", {}),
        pytest.param(
            "ekfac",
            {"refine": "cg", "rounds": 1, "refine_documents": 8, "evaluation_documents": 8},
            marks=pytest.mark.slow,
        ),
        ("trackstar", {"dim": 4}),
        pytest.param("magic", SMALL_RECIPE, marks=pytest.mark.slow),
        ("bm25", {}),
    ],
)
def test_new_shards_are_scored_by_the_fits_of_the_old(place: Path, method: str, own: dict) -> None:
    old = curate.score(settings(place, method=method, method_settings=own), place / "runs" / "old")
    add_shards(place)
    heard = Heard()
    asked = settings(place, method=method, method_settings=own, fit_from=str(old.path))
    grown = curate.score(asked, place / "elsewhere" / "grown", reporter=heard)
    assert set(heard.stages) <= {"scoring"}  # nothing fitted, no target taken again
    assert any("2 of 4 shards" in n for n in heard.notes)
    before, after = old.scores().collect(), grown.scores().collect()
    assert after["shard"].unique(maintain_order=True).to_list() == ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"]
    assert after.filter(pl.col("shard").is_in(["b.jsonl", "d.jsonl"])).equals(before)
    assert grown.totals is not None
    assert grown.totals["documents"] == 3 * ROWS


def test_scores_that_are_taken_over_are_those_that_would_be_computed(place: Path) -> None:
    old = curate.score(settings(place), place / "runs" / "old")
    add_shards(place)
    taken = curate.score(settings(place, fit_from=str(old.path)), place / "runs" / "taken")
    (old.path / "shards.json").unlink()
    computed = curate.score(settings(place, fit_from=str(old.path)), place / "runs" / "computed")
    for name in sorted(p.name for p in (taken.path / "scores").iterdir()):
        assert (taken.path / "scores" / name).read_bytes() == (computed.path / "scores" / name).read_bytes()


def test_a_shard_that_changed_is_scored_again(place: Path) -> None:
    old = curate.score(settings(place), place / "runs" / "old")
    (place / "pool" / "b.jsonl").write_bytes(lines(make_rows(ROWS, 9)))
    grown = curate.score(settings(place, fit_from=str(old.path)), place / "runs" / "new")
    before, after = (r.scores().filter(pl.col("shard") == "b.jsonl").collect() for r in (old, grown))
    assert not set(before["doc_id"]) & set(after["doc_id"])


@pytest.mark.slow
def test_fits_pass_on_through_a_chain_of_runs(place: Path) -> None:
    curate.score(settings(place), place / "runs" / "first")
    add_shards(place)
    second = curate.score(settings(place, fit_from=str(place / "runs" / "first")), place / "runs" / "second")
    shutil.rmtree(place / "runs" / "first")
    (place / "pool" / "e.jsonl").write_bytes(lines(make_rows(10, 5)))
    third = curate.score(settings(place, fit_from=str(second.path)), place / "runs" / "third")
    assert third.scores().filter(pl.col("shard") != "e.jsonl").collect().equals(second.scores().collect())


def test_another_target_uses_the_kept_curvature_and_takes_no_scores(place: Path) -> None:
    old = curate.score(settings(place), place / "runs" / "old")
    (place / "other.jsonl").write_bytes(lines(make_rows(8, 7)))
    heard = Heard()
    asked = settings(place, fit_from=str(old.path), target=(str(place / "other.jsonl"),))
    other = curate.score(asked, place / "elsewhere" / "other", reporter=heard)
    assert not {"factors", "eigenvalues"} & set(heard.stages)
    assert any("every shard is scored" in n for n in heard.notes)
    assert not other.scores().select("score").collect().equals(old.scores().select("score").collect())


def test_another_target_has_groups_of_its_own(place: Path) -> None:
    old = curate.score(settings(place, group_by="task"), place / "runs" / "old")
    (place / "other.jsonl").write_bytes(
        lines([{"text": r["text"], "kind": "xy"[i % 2]} for i, r in enumerate(make_rows(8, 7))])
    )

    def groups(*more: str) -> list[str]:
        out = place / "runs" / f"{len(more)}{more[-1:]}"
        command = ["score", "--fit-from", str(old.path), "--out", str(out), *more]
        made = CliRunner().invoke(group, command, catch_exceptions=False)
        assert made.exit_code == 0, made.output
        return [c for c in Run.open(out).scores().collect_schema().names() if c.startswith("score_")]

    same = groups("--target", str(place / "val.jsonl"))
    assert same == groups()
    assert len(same) == 2
    assert not groups("--target", str(place / "other.jsonl"))
    assert groups("--target", str(place / "other.jsonl"), "--group-by", "kind") == ["score_x", "score_y"]


def test_settings_of_refinement_of_an_older_version_do_not_matter_where_nothing_was_refined(place: Path) -> None:
    old = curate.score(settings(place), place / "runs" / "old")
    record = json.loads((old.path / "run.json").read_bytes())
    record["settings"]["method_settings"]["rounds"] = 6
    (old.path / "run.json").write_text(json.dumps(record))
    add_shards(place)
    assert (
        len(curate.score(settings(place, fit_from=str(old.path)), place / "runs" / "new").scores().collect())
        == 3 * ROWS
    )
    with pytest.raises(SettingsError, match="rounds is a setting of refinement"):
        curate.score(settings(place, method_settings={"rounds": 6}), place / "runs" / "asked")


def test_settings_that_decide_the_fit_must_be_the_same(place: Path) -> None:
    old = curate.score(settings(place), place / "runs" / "old")
    with pytest.raises(SettingsError, match="background: the run has 32, you asked for 16"):
        curate.score(settings(place, fit_from=str(old.path), background=16), place / "runs" / "new")
    make_proxy_folder(place / "proxy2", seed=1)
    with pytest.raises(SettingsError, match="another model"):
        curate.score(settings(place, fit_from=str(old.path), model=str(place / "proxy2")), place / "runs" / "new")


def test_what_the_run_does_not_keep_is_an_error_and_not_a_fit(place: Path) -> None:
    old = curate.score(settings(place), place / "runs" / "old")
    asked = settings(place, fit_from=str(old.path), method_settings={"fisher": "empirical"})
    with pytest.raises(CurateError, match="does not keep all"):
        curate.score(asked, place / "elsewhere" / "new")


def test_a_grown_pool_in_the_old_folder_is_refused_with_the_way_out(place: Path) -> None:
    old = curate.score(settings(place), place / "runs" / "old")
    add_shards(place)
    with pytest.raises(SettingsError) as caught:
        curate.score(settings(place), old.path)
    assert f"--fit-from {old.path}" in str(caught.value)


def test_the_command_takes_every_setting_from_the_run(place: Path) -> None:
    old = curate.score(settings(place, method_settings={"damping": 0.3}), place / "runs" / "old")
    add_shards(place)
    out = place / "runs" / "grown"
    command = ["score", "--fit-from", str(old.path), "--pool", str(place / "pool"), "--out", str(out), "--json"]
    made = CliRunner().invoke(group, command, catch_exceptions=False)
    assert made.exit_code == 0
    grown = Run.open(out)
    assert grown.record.settings["method_settings"] == old.record.settings["method_settings"]
    assert grown.record.settings["background"] == 32
    assert grown.scores().filter(pl.col("shard") == "d.jsonl").collect().height == ROWS
