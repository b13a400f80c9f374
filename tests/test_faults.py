"""A handful of the faults of `python -m tests.faults`, which runs hundreds."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_faults_lose_no_rows_and_change_no_bytes(tmp_path: Path) -> None:
    asked = ["--seed", "0", "--faults", "10", "--commands", "score,index", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *asked],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "10 faults, 0 failures" in done.stdout
