import json
from pathlib import Path

import numpy as np
import pytest

from curate.cli import main
from curate.scores.run import Run
from tests.small_runs import FINGERPRINTS, SETTINGS, rows, write


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("x", "y"):
        run = Run.start(f"runs/{name}", settings=SETTINGS, fingerprints=FINGERPRINTS)
        scores = np.arange(1000) + rng.normal(size=1000)  # rows' lengths rise, too
        write(run, "a", 0, rows("a", 0, scores.tolist(), source=["s", "t"] * 500))
        run.finish({"documents": 1000, "tokens": 0, "skipped": {}})


def test_a_page_is_written_and_its_verdicts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", "runs/x", "runs/y", "--out", "r.html"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Scores nearly follow length (ρ = 1.00): long documents come first." in out
    assert "The two choose largely the same documents." in out
    assert "written to r.html" in out
    assert "runs/y" in Path("r.html").read_text()


def test_json_holds_every_figure_and_a_page_is_written_only_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", "runs/x", "--json", "--by", "shard"])
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["figures"]["by"] == "shard"
    assert {f["about"]: f["level"] for f in found["runs"][0]["findings"]}["length"] == "warning"
    assert found["out"] is None
    assert not Path("report.html").exists()
    main(["report", "--json", "--out", "r.html"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["out"] == "r.html"
    assert "run: runs/" in captured.err  # the latest, saying which
    assert Path("r.html").exists()


def test_an_unknown_column_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["report", "runs/x", "--by", "sauce"])
    assert caught.value.code == 2
    assert "'source'" in capsys.readouterr().err
