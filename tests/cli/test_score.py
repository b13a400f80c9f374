import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import curate
from curate import methods
from curate.cli import group
from curate.errors import CurateError, SettingsError
from tests.scoring import make_project


@pytest.mark.parametrize("method", methods.names())
def test_every_method_takes_the_options_that_all_have(method: str) -> None:
    """The pool is looked for once the method's settings were built, whether or not it has a seed."""
    made = CliRunner().invoke(group, ["score", "--target", "nowhere", "--pool", "nowhere/", "--method", method])
    assert isinstance(made.exception, CurateError)
    assert "nowhere" in str(made.exception)


def test_a_rank_of_zero_is_a_rank_that_was_asked_for() -> None:
    asked = ["score", "--target", "nowhere", "--pool", "nowhere/", "--method", "bm25", "--rank", "0"]
    with pytest.raises(SettingsError, match="Method 'bm25' has no option --rank"):
        CliRunner().invoke(group, asked, catch_exceptions=False)


def test_a_trust_report_ends_a_run_and_stands_inside_its_json(tmp_path: Path) -> None:
    make_project(tmp_path, 20)
    asked = ["score", "--target", str(tmp_path / "val.jsonl"), "--pool", str(tmp_path / "pool"), "--holdout", "25%"]
    asked += ["--model", str(tmp_path / "proxy"), "--method", "bm25", "--device", "cpu", "--out", str(tmp_path / "x")]
    shown = CliRunner().invoke(group, asked, catch_exceptions=False).stdout
    assert "contamination" in shown
    assert "mass of the top 1 %" in shown
    found = json.loads(CliRunner().invoke(group, [*asked, "--json"], catch_exceptions=False).stdout)
    assert found["trust"]["contamination"]["level"] == "fine"
    assert found["finished"] is True
    one_of_two = [*asked[:-1], str(tmp_path / "y"), "--part", "1/2", "--json"]
    assert json.loads(CliRunner().invoke(group, one_of_two, catch_exceptions=False).stdout)["finished"] is False
    assert {"duplicates", "source", "length"} <= found["trust"].keys()
    assert len((tmp_path / "x" / "target" / "heldout.jsonl").read_text().splitlines()) == 3


def test_a_folder_whose_name_is_a_pattern_has_its_trust_report_and_is_quoted(tmp_path: Path) -> None:
    make_project(tmp_path, 5)
    asked = ["score", "--target", str(tmp_path / "val.jsonl"), "--pool", str(tmp_path / "pool"), "--method", "length"]
    asked += ["--model", str(tmp_path / "proxy"), "--device", "cpu", "--out", str(tmp_path / "x[1]")]
    made = CliRunner().invoke(group, asked, catch_exceptions=False)
    assert made.exit_code == 0
    assert "No trust report" not in made.stderr
    assert "contamination" in made.stdout
    assert "x[1]' --top 5%" in made.stderr
    assert "documents, " in made.stdout


def test_a_target_is_read_as_far_as_it_can_be_and_a_damaged_one_is_an_error_when_strict(tmp_path: Path) -> None:
    make_project(tmp_path, 5)
    rows = [*(tmp_path / "val.jsonl").read_text().splitlines(), '{"text": 7, "task": "a"}']
    whole = gzip.compress("\n".join([*rows, *(f'{{"text": "{r * r}", "task": "a"}}' for r in range(999))]).encode())
    (tmp_path / "val.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    asked = ["score", "--target", str(tmp_path / "val.jsonl.gz"), "--pool", str(tmp_path / "pool"), "--method", "bm25"]
    asked += ["--model", str(tmp_path / "proxy"), "--device", "cpu", "--holdout", "25%"]
    told = CliRunner().invoke(group, [*asked, "--out", str(tmp_path / "x")], catch_exceptions=False)
    assert told.exit_code == 0
    assert "The target file val.jsonl.gz is damaged, what could be read of it is kept" in told.stderr
    assert "1 target row set aside: not a string (the first is row 12 of val.jsonl.gz: column 'text'" in told.stderr
    with pytest.raises(CurateError, match=r"target cannot be read to its end.*rows could be read before"):
        CliRunner().invoke(group, [*asked, "--strict", "--out", str(tmp_path / "y")], catch_exceptions=False)
    assert not (tmp_path / "y").exists()


def test_columns_of_a_very_wide_pool_that_scores_leave_out_are_told(tmp_path: Path) -> None:
    make_project(tmp_path, 5)
    wide = [{"text": f"row {r} of many", "kind": "x", **{f"id_{r}_{i}": i for i in range(20)}} for r in range(30)]
    (tmp_path / "wide.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wide))
    asked = ["score", "--target", str(tmp_path / "val.jsonl"), "--pool", str(tmp_path / "wide.jsonl")]
    asked += ["--method", "length", "--model", str(tmp_path / "proxy"), "--device", "cpu"]
    made = CliRunner().invoke(group, [*asked, "--out", str(tmp_path / "x")], catch_exceptions=False)
    assert "have 601 columns: scores leave out 600 that fewer than a tenth of the documents have" in made.stderr
    assert "id_0_0" in made.stderr
    columns = curate.Run.open(tmp_path / "x").scores().collect_schema().names()
    assert "kind" in columns
    assert not [c for c in columns if c.startswith("id_")]
    narrow = [{"text": "row", **dict.fromkeys(list(row)[1:12])} for row in wide[:20]]
    (tmp_path / "wide.jsonl").write_text("".join(json.dumps(row) + "\n" for row in narrow))
    made = CliRunner().invoke(group, [*asked, "--out", str(tmp_path / "y")], catch_exceptions=False)
    assert "leave out" not in made.stderr
