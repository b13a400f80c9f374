"""A run that is killed and started again ends with the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scoring import make_pool, make_proxy_folder, make_target

KILLS = 5


def command(place: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "curate", "score", "--out", str(out)),
        *("--target", str(place / "val.jsonl"), "--pool", str(place / "pool"), "--model", str(place / "proxy")),
        *("--dim", "4", "--background", "100", "--part-documents", "20", "--batch-tokens", "128", "--device", "cpu"),
    ]


def contents(run: Path) -> dict[str, bytes]:
    """Every file but the log of sessions and the lock."""
    files = (p for p in sorted(run.rglob("*")) if p.is_file())
    return {str(p.relative_to(run)): p.read_bytes() for p in files if p.name != "log.jsonl" and "lock" not in p.name}


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    make_proxy_folder(tmp_path / "proxy")
    make_pool(tmp_path / "pool", 400)
    make_target(tmp_path / "val.jsonl")
    undisturbed, killed = tmp_path / "one" / "x", tmp_path / "two" / "x"
    started = time.monotonic()
    subprocess.run(command(tmp_path, undisturbed), check=True, capture_output=True)
    whole = time.monotonic() - started
    rng, kills, with_parts = random.Random(0), 0, 0
    while kills < KILLS:
        process = subprocess.Popen(
            command(tmp_path, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(0.4, 1.0) * whole)
        if process.poll() is not None:
            break  # it was faster than the moment chosen; what is left is to compare
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        with_parts += any((killed / "scores").glob("*.parquet"))
    subprocess.run(command(tmp_path, killed), check=True, capture_output=True)
    assert kills >= 1
    assert with_parts >= 1, "no kill fell into the scoring"
    assert contents(killed) == contents(undisturbed)
