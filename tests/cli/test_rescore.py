import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from curate.cli import group
from curate.errors import SettingsError
from curate.scores.run import Run
from tests.scoring import make_project

RECIPES = Path(__file__).parents[2] / "examples" / "magic"
TINY = ["--set", "batch_size=8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescore")
    make_project(folder, 12, 6)
    called(*score(folder, "bm25"), "--out", str(folder / "bm25"))
    return folder


def score(place: Path, method: str) -> list[str]:
    where = ["--target", str(place / "val.jsonl"), "--pool", str(place / "pool"), "--model", str(place / "proxy")]
    return ["score", *where, "--method", method, "--device", "cpu"]


def called(*args: str) -> str:
    made = CliRunner().invoke(group, list(args))
    if made.exception:
        raise made.exception
    return made.stdout


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(p.name, marks=() if p.stem == "muon" else pytest.mark.slow)  # the next test takes another
        for p in sorted(RECIPES.glob("*.yaml"))
    ],
)
def test_every_shipped_recipe_rescores(recipe: str, place: Path, tmp_path: Path) -> None:
    asked = ["rescore", str(place / "bm25"), "--shortlist", "8", "--config", str(RECIPES / recipe)]
    printed = called(*asked, *TINY, "--out", str(tmp_path / "x"))
    assert "smoothness of the training" in printed
    assert "of its top tenth (1) stayed there" in printed
    assert "8 documents rescored" in printed
    run = Run.open(tmp_path / "x")
    assert run.record.settings["method_settings"]["recipe"]["optimiser"] == (
        "muon" if recipe == "muon.yaml" else "adamw"
    )
    assert run.record.settings["method_settings"]["recipe"]["batch_size"] == 8  # the flag wins over the file


def test_a_shipped_recipe_scores_a_whole_pool(place: Path, tmp_path: Path) -> None:
    asked = [*score(place, "magic"), "--background", "20", "--config", str(RECIPES / "finetune.yaml")]
    found = json.loads(called(*asked, "--set", "batch_size=4", "--out", str(tmp_path / "x"), "--json"))
    assert found["documents"] == 49
    settings = Run.open(tmp_path / "x").record.settings["method_settings"]
    assert settings["recipe"]["batch_size"] == 4
    assert settings["recipe"]["epochs"] == 1


def test_a_dry_run_prints_what_it_will_take(place: Path) -> None:
    asked = ["rescore", str(place / "bm25"), "--shortlist", "8", *TINY, "--dry-run"]
    assert "disk at most" in called(*asked)
    found = json.loads(called(*asked, "--json"))
    assert (found["shortlist"], found["steps"]) == (8, 2)


def test_an_unknown_setting_of_a_recipe_names_the_nearest(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean 'learning_rate'"):
        called("rescore", str(place / "bm25"), "--set", "learningrate=1")
    file = tmp_path / "r.yaml"
    file.write_text("learningrate: 1\n")
    with pytest.raises(SettingsError, match="Did you mean 'learning_rate'"):
        called("rescore", str(place / "bm25"), "--config", str(file))
