import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from curate.cli import group, main
from tests.scoring import make_project


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    return make_project(folder, 20)


def index(place: Path, out: Path, *more: str) -> list[str]:
    asked = ["index", "--pool", str(place / "pool"), "--model", str(place / "proxy"), "--out", str(out)]
    return [*asked, "--dim", "4", "--background", "32", "--device", "cpu", *more]


@pytest.fixture(scope="module")
def store(place: Path) -> Path:
    CliRunner().invoke(group, index(place, place / "store"), catch_exceptions=False)
    return place / "store"


def test_a_store_says_its_size_and_what_comes_next(place: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(group, index(place, tmp_path / "s"), catch_exceptions=False)
    assert made.exit_code == 0
    assert "81 documents" in made.stdout
    assert "1 row set aside: empty text" in made.stdout
    assert "curate score --target FILE --store" in made.stderr
    found = json.loads(CliRunner().invoke(group, index(place, tmp_path / "s", "--json"), catch_exceptions=False).stdout)
    assert (found["documents"], found["search"]) == (81, None)
    assert found["sketch_bytes"] > 81 * 2 * 224


def test_a_dry_run_writes_nothing(place: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(group, index(place, tmp_path / "s", "--dry-run"), catch_exceptions=False).stdout
    assert "sketches on disk" in shown
    found = json.loads(
        CliRunner().invoke(group, index(place, tmp_path / "s", "--dry-run", "--json"), catch_exceptions=False).stdout
    )
    assert found["numbers_per_document"] == 224
    assert not (tmp_path / "s").exists()


def test_recall_is_printed_when_an_approximate_index_is_made(place: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(group, index(place, tmp_path / "s", "--search", "Flat"), catch_exceptions=False).stdout
    assert "approximate index Flat: " in shown
    assert "recall@10 against the exact search" in shown
    with pytest.raises(SystemExit) as stopped:
        main(index(place, tmp_path / "s", "--search", "IVFx"))
    assert stopped.value.code == 2


def test_a_store_is_scored_selected_from_and_asked(
    place: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["score", "--target", str(place / "val.jsonl"), "--store", str(store), "--out", "runs/x", "--json"]
    found = json.loads(CliRunner().invoke(group, asked, catch_exceptions=False).stdout)
    assert found["documents"] == 81
    chosen = ["select", "--top", "20%", "--filter", "dedup", "-p", "near=0.97", "--filter", "diverse", "--dry-run"]
    made = json.loads(CliRunner().invoke(group, [*chosen, "--json"], catch_exceptions=False).stdout)
    assert [f["name"] for f in made["filters"]] == ["decontaminate", "dedup", "diverse", "top"]
    assert made["after"]["documents"] == 16
    assert pl.read_parquet(store / "neighbours" / "pairs.parquet").height > 0
    shown = (
        CliRunner().invoke(group, ["sql", "SELECT count(*) FROM neighbours", "--csv"], catch_exceptions=False).stdout
    )
    assert int(shown.split()[-1]) > 0


def test_likeness_of_a_run_without_a_store_wants_one(
    place: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = ["--pool", str(place / "pool"), "--model", str(place / "proxy"), "--device", "cpu"]
    main(["score", "--target", str(place / "val.jsonl"), *pool, "--method", "length"])
    with pytest.raises(SystemExit):
        main(["select", "--top", "20%", "--filter", "diverse", "--dry-run"])
    assert "--store STORE" in " ".join(capsys.readouterr().err.split())
    main(["select", "--top", "20%", "--filter", "diverse", "--store", str(store), "--dry-run"])
    assert "16 documents" in capsys.readouterr().out


def test_settings_that_cannot_work_come_before_the_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--target", str(place / "val.jsonl")]
    for asked, seen in (
        (["score", *target], "a target, and a pool or a store"),
        (["score", *target, "--store", "nowhere"], "nowhere: no such folder"),
        (["index", "--pool", str(place / "pool"), "--storage", "int4", "--model", "nowhere"], "storage is 'int4'"),
    ):
        with pytest.raises(SystemExit):
            main(asked)
        assert seen in capsys.readouterr().err
