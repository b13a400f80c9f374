"""Actors give the bytes of one process; one that is killed costs nothing, and no cluster is ended that was there."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import curate
from curate.executors.crew import ATTEMPTS
from curate.pipeline import fitting
from curate.scores.run import Run
from tests.executors.making import ROWS, Seen, make, settings
from tests.executors.test_crew import Deadly, work_on
from tests.faults.results import contents

ray = pytest.importorskip("ray", reason="Ray is not installed: the extra `ray` brings it")
# Ray starts processes and leaves sockets to be closed by their end, and warns of what it will change.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster that was there before."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    assert ray.is_initialized()
    ray.shutdown()


@pytest.mark.parametrize("what", ["trackstar", "ekfac", "magic", "index"])
def test_two_actors_fit_and_write_the_bytes_of_one_process(
    place: Path, tmp_path: Path, alone, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    expected, seen = alone(what), Seen()
    monkeypatch.setattr(fitting, "WORTH_SECONDS", 0)
    folder = make(what, place, tmp_path, executor="ray", workers=2, reporter=seen)
    assert contents(folder) == expected
    assert seen.done["indexing" if what == "index" else "scoring"] == 4 * ROWS + 4
    assert ray.is_initialized()


def test_the_log_tells_of_the_actors(place: Path, tmp_path: Path) -> None:
    run = curate.score(settings(place, "length"), tmp_path / "x", executor="ray", workers=2)
    line = run.log.lines()[-1]
    assert (line["executor"], line["workers"]) == ("ray", 2)
    assert [kind.split(", ")[1] for kind in line["kinds"]] == ["1 thread"]


def test_an_actor_that_dies_is_replaced_and_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    seen = Seen()
    deadly = Deadly(15, ATTEMPTS - 1, tmp_path / "deaths")
    run, work = work_on(tmp_path, deadly, seen, executor="ray")
    assert run.scores().collect().height == work.documents == 80
    assert work.parts == len(run.all_parts()) == 8
    assert len(seen.warnings) == ATTEMPTS - 1
    assert all("An actor of Ray died" in w for w in seen.warnings)


def test_rows_that_kill_every_actor_are_given_up_and_all_others_done(tmp_path: Path) -> None:
    with pytest.raises(curate.CurateError, match="3 workers died on rows 10 to 19"):
        work_on(tmp_path, Deadly(15, 99, tmp_path / "deaths"), Seen(), executor="ray")
    assert (tmp_path / "deaths").stat().st_size == ATTEMPTS
    assert Run.open(tmp_path / "x").holds("b.jsonl")


def test_an_error_of_the_work_arrives_and_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="10 rows read, 9 written") as caught:
        work_on(tmp_path, Deadly(15, 0, tmp_path / "deaths", loses_rows=True), Seen(), executor="ray")
    assert any("in write_part" in note for note in caught.value.__notes__)


def actors_in(folder: Path) -> list[int]:
    """The processes of actors whose working folder this is."""
    actors = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"ray::_Actor" in (process / "cmdline").read_bytes() and (process / "cwd").resolve() == folder:
                actors.append(int(process.name))
    return actors


def test_an_actor_that_is_killed_in_the_middle_costs_nothing(place: Path, tmp_path: Path, alone, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def kill() -> None:
        while not [*(tmp_path / "x" / "scores").glob("*.parquet")]:
            time.sleep(0.01)
        os.kill(actors_in(tmp_path.resolve())[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    seen = Seen()
    make("trackstar", place, tmp_path, executor="ray", workers=2, reporter=seen)
    killer.join()
    assert any("An actor of Ray died" in w for w in seen.warnings)
    assert contents(tmp_path / "x") == alone("trackstar")


def test_a_command_that_is_terminated_ends_with_143_and_one_that_has_ended_leaves_no_handler() -> None:
    script = """
import os, signal
from curate.executors.ray import _connected
with _connected():
    pass
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
with _connected():
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
"""
    for _ in range(3):
        code = subprocess.run([sys.executable, "-c", script], check=False).returncode
        if code != -signal.SIGABRT:  # Ray aborts where a starved machine keeps its own processes from answering in time
            break
    assert code == 128 + signal.SIGTERM
