"""The measurement of a pool of very many shards runs, and a run of it has fewer files than shards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "measured" / "large_pool.py"


@pytest.mark.slow
def test_a_pool_of_many_shards_is_measured(tmp_path: Path) -> None:
    size = ["--documents", "900", "--shards", "300"]
    command = [sys.executable, str(SCRIPT), *size, "--folder", str(tmp_path), "--kill-at", "0.3"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    report = json.loads(printed)
    assert report["killed"]["documents_before"] == 0
    assert report["files"] < 300
    scores = list((tmp_path / "run" / "scores").iterdir())
    assert len(scores) == 1 + 300 - 256
    assert all(report[f"seconds_{what}"] > 0 for what in ("sql", "select", "status"))
