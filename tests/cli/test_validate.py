import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from curate.cli import group
from curate.errors import SettingsError
from tests.scoring import make_project


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validate")
    make_project(folder, 12, 6)
    where = ["--target", str(folder / "val.jsonl"), "--pool", str(folder / "pool"), "--model", str(folder / "proxy")]
    for method in ("bm25", "random"):
        called("score", *where, "--method", method, "--device", "cpu", "--out", str(folder / "runs" / method))
    return folder


def called(*args: str) -> str:
    made = CliRunner().invoke(group, list(args))
    if made.exception:
        raise made.exception
    return made.stdout


def asked(place: Path, *more: str) -> list[str]:
    runs = [str(place / "runs" / r) for r in ("bm25", "random")]
    sizes = ["--documents", "24", "--queries", "2", "--subsets", "4", "--drop", "10%", "--removals", "1"]
    return ["validate", *runs, *sizes, "--set", "batch_size=8", "--resamples", "100", *more]


def test_a_table_and_a_picture_of_all_methods(place: Path, tmp_path: Path) -> None:
    printed = called(*asked(place, "--out", str(tmp_path / "out"), "--plot", str(tmp_path / "seen.png")))
    assert "bm25" in printed
    assert "random" in printed
    assert "4 retrainings without 2 of 24 documents, 2 queries" in printed
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(called(*asked(place, "--out", str(tmp_path / "out"), "--json")))
    assert found == json.loads((tmp_path / "out" / "validation.json").read_text())
    assert [m["method"] for m in found["methods"]] == ["bm25", "random"]
    assert len(found["methods"][0]["lds"]["queries"]) == 2


def test_a_dry_run_says_what_it_will_take(place: Path) -> None:
    assert "Validating takes" in called(*asked(place, "--dry-run"))
    assert json.loads(called(*asked(place, "--dry-run", "--json")))["retrainings"] == 5 + 2


def test_what_is_no_share_is_refused(place: Path) -> None:
    with pytest.raises(SettingsError, match="drop is 'some'; expected a share"):
        called("validate", str(place / "runs" / "bm25"), "--drop", "some")
    with pytest.raises(SettingsError, match="Did you mean 'learning_rate'"):
        called("validate", str(place / "runs" / "bm25"), "--set", "learningrate=1")
