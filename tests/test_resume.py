"""A run, or a store, that is killed and started again ends with the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.results import contents
from tests.scoring import make_pool, make_project, make_proxy_folder, make_target

KILLS = 5


METHODS = {
    "trackstar": ("--method", "trackstar", "--dim", "4"),
    "ekfac": ("--method", "ekfac", "--refine", "cg", "--set", "rounds=2", "--group-by", "task", "--per-token"),
}


def command(place: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "curate", "score", "--out", str(out)),
        *("--target", str(place / "val.jsonl"), "--pool", str(place / "pool"), "--model", str(place / "proxy")),
        *METHODS[out.parent.parent.name],
        *("--background", "100", "--part-documents", "20", "--batch-tokens", "128", "--device", "cpu"),
        *more,
    ]


def index_command(place: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "curate", "index", "--out", str(out), "--pool", str(place / "pool")),
        *("--model", str(place / "proxy"), "--dim", "4", "--background", "100", "--part-documents", "20"),
        *("--batch-tokens", "128", "--device", "cpu"),
    ]


def parts(folder: Path) -> int:
    return len([*folder.glob("scores/*.parquet"), *folder.glob("rows/*.parquet")])


def begin(asked: list[str], folder: Path, *, after_parts: int) -> subprocess.Popen[str]:
    """Start the command, and return once it has written so many parts (0: a record)."""
    process = subprocess.Popen(
        asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not ([*folder.glob("*.json")] and parts(folder) >= after_parts):
        time.sleep(0.002)
    assert process.poll() is None, "the command ended before it could be killed"
    return process


def kill_once(asked: list[str], folder: Path, *, after_parts: int, delay: float) -> None:
    """Start the command, and kill it `delay` seconds after it has written so many parts; its processes end with it."""
    process = begin(asked, folder, after_parts=after_parts)
    time.sleep(delay)
    assert process.poll() is None, "the command ended before it could be killed"
    process.kill()
    process.communicate()
    await_end_of_group(process)


def await_end_of_group(process: subprocess.Popen[str]) -> None:
    """Wait until none of the processes that a command has started is left."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("processes outlived the one that started them")


def children(process: subprocess.Popen[str]) -> list[int]:
    """The workers of a command: the processes that it has started, but for Python's resource tracker."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(c) for c in found if b"resource_tracker" not in Path(f"/proc/{c}/cmdline").read_bytes()]


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


def kill_and_finish(asked: list[str], folder: Path, kills: int = KILLS) -> None:
    rng = random.Random(0)
    kill_once(asked, folder, after_parts=0, delay=rng.uniform(0, 0.2))
    for _ in range(kills - 1):
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


@pytest.mark.slow
@pytest.mark.parametrize("what", ["trackstar", "index"])
def test_workers_end_with_a_killed_driver_and_holes_are_filled(tmp_path: Path, what: str) -> None:
    make_project(tmp_path, 400)
    alone, killed = (tmp_path / "trackstar" / name / "x" for name in ("one", "two"))
    asked = (index_command if what == "index" else command)(tmp_path, killed)
    subprocess.run((index_command if what == "index" else command)(tmp_path, alone), check=True, capture_output=True)
    kill_and_finish([*asked, "--workers", "2"], killed, kills=3)
    assert contents(killed) == contents(alone)


@pytest.mark.slow
def test_a_killed_worker_is_told_and_costs_nothing(tmp_path: Path) -> None:
    make_project(tmp_path, 400)
    alone, shared = (tmp_path / "trackstar" / name / "x" for name in ("one", "two"))
    subprocess.run(command(tmp_path, alone), check=True, capture_output=True)
    asked = command(tmp_path, shared, "--workers", "2")
    process = begin(asked, shared, after_parts=5)
    os.kill(children(process)[1], signal.SIGKILL)
    told = process.communicate()[1]
    assert process.returncode == 0
    assert "killed by SIGKILL" in told
    assert "Traceback" not in told
    assert contents(shared) == contents(alone)
    await_end_of_group(process)


@pytest.mark.slow
@pytest.mark.parametrize("after_parts", [0, 5])
def test_an_interrupt_ends_all_processes_quietly(tmp_path: Path, after_parts: int) -> None:
    make_project(tmp_path, 1000)
    folder = tmp_path / "trackstar" / "one" / "x"
    process = begin(command(tmp_path, folder, "--workers", "2"), folder, after_parts=after_parts)
    while not children(process):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    told = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in told
    await_end_of_group(process)
