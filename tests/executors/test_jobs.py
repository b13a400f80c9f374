"""Jobs are done by whoever is free; what a worker that died had in hand is tried again, or given up at last."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from curate import executors
from curate.errors import CurateError
from curate.executors.crew import ATTEMPTS
from tests.executors.making import Seen


@dataclass(frozen=True)
class Named:
    name: str
    deaths: int = 0
    """How many workers it kills."""


@dataclass(frozen=True)
class Writing:
    """Work that writes each job's name into a file, and kills its worker where the job says so."""

    folder: Path

    def open(self) -> Callable[[Named, Callable[[float], None]], None]:
        def write(job: Named, advance: Callable[[float], None]) -> None:
            if job.name == "wrong":
                raise CurateError("There is no such job.")
            tally = self.folder / f"{job.name}.deaths"
            if (tally.stat().st_size if tally.exists() else 0) < job.deaths:
                with tally.open("ab") as file:
                    file.write(b"x")
                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / job.name).write_text(job.name)
            advance(1)
            advance(1)

        return write


def do(folder: Path, jobs: Sequence[Named], seen: Seen, name: str | None = None, workers: int = 2) -> None:
    executor = executors.choose(name, workers=workers, device="cpu").make()
    with (
        seen.stage("writing", total=2 * len(jobs)) as task,
        executor.hired(Writing(folder), len(jobs), seen) as do_all,
    ):
        do_all(iter(jobs), task)


def written(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix != ".deaths"}


def test_this_process_does_all_jobs_in_order(tmp_path: Path) -> None:
    seen = Seen()
    do(tmp_path, [Named("a"), Named("b")], seen, workers=1)
    assert (written(tmp_path), seen.done["writing"]) == ({"a", "b"}, 4)
    with pytest.raises(CurateError, match="no such job"):
        do(tmp_path, [Named("c"), Named("wrong"), Named("d")], seen, workers=1)
    assert written(tmp_path) == {"a", "b", "c"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor",
    ["processes", pytest.param("ray", marks=pytest.mark.filterwarnings("default"))],  # which leaves sockets open
)
def test_a_job_that_kills_every_worker_is_given_up_and_all_others_are_done(tmp_path: Path, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: the extra `ray` brings it")
    seen = Seen()
    jobs = [Named("a"), Named("deadly", ATTEMPTS), Named("b", 1), *(Named(f"c{i}") for i in range(4))]
    with pytest.raises(CurateError, match="3 workers died on deadly; all others are done"):
        do(tmp_path, jobs, seen, executor)
    assert written(tmp_path) == {j.name for j in jobs} - {"deadly"}
    assert seen.done["writing"] == 2 * (len(jobs) - 1)
    assert len(seen.warnings) == ATTEMPTS + 1
    assert all("Another takes its place." in w for w in seen.warnings)


@pytest.mark.slow
def test_an_error_of_a_job_arrives_from_its_process_and_is_not_tried_again(tmp_path: Path) -> None:
    seen = Seen()
    with pytest.raises(CurateError, match="no such job") as caught:
        do(tmp_path, [Named("wrong")], seen)
    assert any("in write" in note for note in caught.value.__notes__)
    assert not seen.warnings
