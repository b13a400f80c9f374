"""The slices of a fit are done by whoever is there, in any order; the bytes are those of one process."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import curate
from curate import executors
from curate.errors import CurateError
from curate.executors.contract import PartWork, UnfinishedShard, Work
from curate.executors.local import Local
from curate.folders.local import open_folder
from curate.folders.part_folder import PartFolder
from curate.jobs import Foreman, JobWork
from curate.methods.shared import sketched
from curate.pipeline import fitting
from curate.progress import Reporter, Task
from curate.scores.run import Run
from tests.executors.making import Seen, settings
from tests.faults.results import contents
from tests.scoring import make_project

OWN: dict[str, dict[str, Any]] = {
    "trackstar": {"dim": 4, "rank": 1},
    "whole trackstar": {"dim": 4, "rank": 0},
    "unkept trackstar": {"dim": 4, "rank": 1},
    "unkept whole trackstar": {"dim": 4, "rank": 0},
    "ekfac": {},
    "all parameters' ekfac": {"all_parameters": True},
    "shampoo": {},
    "diagonal": {},
}


@dataclass(frozen=True)
class Backwards:
    """An executor of one worker, which does the last job first."""

    is_here: bool = False
    done: list[str] = field(default_factory=list)
    """Jobs by the stage of their progress."""

    def described(self) -> Mapping[str, int | str]:
        return {}

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        return Local().run(work, shards, folder, reporter)

    @contextmanager
    def hired(self, work: JobWork, count: int, reporter: Reporter) -> Iterator[Foreman]:
        do = work.open()

        def do_all(jobs: Iterable[Any], task: Task, on_done: Callable[[Any], object] = lambda _: None) -> None:
            for job in reversed(list(jobs)):
                do(job, task.advance)
                self.done.append(type(job.work).__name__)
                on_done(job)

        yield do_all


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("fitting"), 20)


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Backwards:
    executor = Backwards()
    monkeypatch.setattr(executors.Choice, "make", lambda *_, **__: executor)
    monkeypatch.setattr(fitting, "WORTH_SECONDS", 0)
    return executor


def score(place: Path, out: Path, what: str, **options: Any) -> Run:
    own = OWN[what]
    return curate.score(settings(place, what.split()[-1], method_settings=own), out / "x", **options)


QUICK = {"ekfac"}


@pytest.mark.parametrize("what", [pytest.param(w, marks=pytest.mark.slow) if w not in QUICK else w for w in OWN])
def test_slices_that_arrive_in_another_order_give_the_bytes_of_one_process(
    place: Path, tmp_path: Path, backwards: Backwards, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if "unkept" in what:
        monkeypatch.setattr(sketched, "LEAST_SHARE", 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(executors.Choice, "make", lambda *_, **__: Local())
        alone = score(place, tmp_path / "alone", what)
    seen = Seen()
    shared = score(place, tmp_path / "shared", what, reporter=seen)
    assert contents(shared.path) == contents(alone.path)
    background = {"background", "factors", "eigenvalues"} & set(seen.totals)
    assert {seen.done[stage] for stage in background} == {seen.totals[stage] for stage in background} == {32}
    # The first slice of all is done here.
    done = {"trackstar": 3 * ["SketchWork"], "diagonal": 3 * ["PassWork"]}.get(what.split()[-1], 7 * ["PassWork"])
    decomposed = 14 * ["DecompositionWork"] if OWN[what].get("rank") else []
    assert backwards.done == done + decomposed


def test_a_short_fit_is_done_without_workers(
    place: Path, tmp_path: Path, backwards: Backwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "WORTH_SECONDS", 600)
    score(place, tmp_path, "ekfac")
    assert not backwards.done


def test_what_a_killed_fit_has_left_is_removed_and_never_read(
    place: Path, tmp_path: Path, backwards: Backwards
) -> None:
    run = score(place, tmp_path, "diagonal")
    before = contents(run.path)
    for name in (
        "finished.json",
        *(f"{kind}/{p.name}" for kind in ("curvature", "target") for p in (run.path / kind).iterdir()),
    ):
        (run.path / name).unlink()
    (run.path / fitting.FOLDER).mkdir()
    (run.path / fitting.FOLDER / "left-00.safetensors").write_bytes(b"half")
    assert contents(score(place, tmp_path, "diagonal").path) == before
    assert not (run.path / fitting.FOLDER).exists()


def test_a_worker_refuses_another_model(place: Path, tmp_path: Path) -> None:
    work = fitting.FitWork(settings=settings(place), fingerprint="other", folder=open_folder(tmp_path))
    with pytest.raises(CurateError, match="has changed during the fit"):
        work.open()


class Killing(Seen):
    """Kills a worker when the first slice of all workers is done."""

    has_killed = False

    def stage(self, name: str, **options: Any) -> AbstractContextManager[Task]:
        counting = super().stage(name, **options)
        advance = counting.advance  # type: ignore[attr-defined]

        def kill_first(amount: float) -> None:
            advance(amount)
            if not self.has_killed and (workers := multiprocessing.active_children()):
                self.has_killed = True
                workers[0].kill()

        counting.advance = kill_first  # type: ignore[attr-defined]
        return counting


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_of_a_fit_costs_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = score(place, tmp_path / "alone", "ekfac")
    monkeypatch.setattr(fitting, "WORTH_SECONDS", 0)
    seen = Killing()
    shared = score(place, tmp_path / "two", "ekfac", workers=2, reporter=seen)
    assert sum("Another takes its place" in warning for warning in seen.warnings) == 1
    assert contents(shared.path) == contents(alone.path)
