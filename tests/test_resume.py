"""A run, or a store, that is killed and started again ends with the bytes of one that was left alone."""

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


METHODS = {
    "trackstar": ("--dim", "4"),
    "ekfac": ("--method", "ekfac", "--refine", "cg", "--set", "rounds=2", "--group-by", "task", "--per-token"),
}


def command(place: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "curate", "score", "--out", str(out)),
        *("--target", str(place / "val.jsonl"), "--pool", str(place / "pool"), "--model", str(place / "proxy")),
        *METHODS[out.parent.parent.name],
        *("--background", "100", "--part-documents", "20", "--batch-tokens", "128", "--device", "cpu"),
    ]


def index_command(place: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "curate", "index", "--out", str(out), "--pool", str(place / "pool")),
        *("--model", str(place / "proxy"), "--dim", "4", "--background", "100", "--part-documents", "20"),
        *("--batch-tokens", "128", "--device", "cpu"),
    ]


def contents(run: Path) -> dict[str, bytes]:
    """Every file but the log of sessions and the lock."""
    files = (p for p in sorted(run.rglob("*")) if p.is_file())
    return {str(p.relative_to(run)): p.read_bytes() for p in files if p.name != "log.jsonl" and "lock" not in p.name}


def parts(folder: Path) -> int:
    return len([*folder.glob("scores/*.parquet"), *folder.glob("rows/*.parquet")])


def kill_once(asked: list[str], folder: Path, *, after_parts: int, delay: float) -> None:
    """Start the command, and kill it `delay` seconds after it has written so many parts (0: a record)."""
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not ([*folder.glob("*.json")] and parts(folder) >= after_parts):
        time.sleep(0.002)
    time.sleep(delay)
    assert process.poll() is None, "the command ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rows"), [("trackstar", 400), ("ekfac", 200)])
def test_killed_runs_end_with_the_same_bytes(tmp_path: Path, method: str, rows: int) -> None:
    make_proxy_folder(tmp_path / "proxy")
    make_pool(tmp_path / "pool", rows)
    make_target(tmp_path / "val.jsonl")
    undisturbed, killed = tmp_path / method / "one" / "x", tmp_path / method / "two" / "x"
    subprocess.run(command(tmp_path, undisturbed), check=True, capture_output=True)
    assert parts(undisturbed) >= rows // 5
    kill_and_finish(command(tmp_path, killed), killed)
    assert contents(killed) == contents(undisturbed)


def kill_and_finish(asked: list[str], folder: Path) -> None:
    rng = random.Random(0)
    kill_once(asked, folder, after_parts=0, delay=rng.uniform(0, 0.2))
    for _ in range(KILLS - 1):
        before = parts(folder)
        kill_once(asked, folder, after_parts=before + rng.randint(1, 12), delay=rng.uniform(0, 0.05))
        assert parts(folder) > before
    subprocess.run(asked, check=True, capture_output=True)


@pytest.mark.slow
def test_a_killed_index_ends_with_the_same_bytes(tmp_path: Path) -> None:
    make_proxy_folder(tmp_path / "proxy")
    make_pool(tmp_path / "pool", 400)
    undisturbed, killed = tmp_path / "one", tmp_path / "two"
    subprocess.run(index_command(tmp_path, undisturbed), check=True, capture_output=True)
    assert parts(undisturbed) >= 80
    kill_and_finish(index_command(tmp_path, killed), killed)
    assert contents(killed) == contents(undisturbed)
