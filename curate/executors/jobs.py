"""Jobs: work by name whose results are files, each kept whole or not at all; workers take them as they get free.

What a worker that died had in hand is tried again elsewhere; a job that kills ATTEMPTS workers is given up, and the
others are done before the error is raised. An error that a job raises ends all: it would be raised again.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

from curate.errors import CurateError
from curate.executors.crew import ATTEMPTS, Died, Ready, Starts, Team
from curate.executors.kinds import kind_here
from curate.jobs import Doer, JobWork
from curate.progress import Reporter, Task

W = TypeVar("W", bound=Hashable)


class Job(Protocol):
    """One piece of work; it pickles."""

    @property
    def name(self) -> str:
        """Tells it from others."""
        ...


@dataclass(frozen=True)
class JobDone:
    """A job's result is kept."""

    progress: float


def _unheard(_: Any) -> None: ...


@dataclass(frozen=True, kw_only=True)
class JobCrew(Generic[W]):
    """Workers, each with one job in hand or none."""

    team: Team[W, Job]
    reporter: Reporter
    in_hand: dict[W, Job | None] = field(default_factory=dict)
    """By worker, once it is ready."""
    attempts: Counter[str] = field(default_factory=Counter)
    """Deaths of workers, by the name of the job that they had in hand."""
    again: deque[Job] = field(default_factory=deque)
    given_up: list[CurateError] = field(default_factory=list)
    starts: Starts = field(default_factory=Starts)

    def do_all(self, jobs: Iterable[Job], task: Task, on_done: Callable[[Any], object] = _unheard) -> None:
        """Have every job done; see `Foreman`. Raises CurateError at the end where some were given up."""
        for job in jobs:
            self._give(job, task, on_done)
        while self.again or any(self.in_hand.values()):
            if self.again:
                self._give(self.again.popleft(), task, on_done)
            else:
                self._listen(task, on_done)
        if self.given_up:
            raise self.given_up[0]

    def _give(self, job: Job, task: Task, on_done: Callable[[Any], object]) -> None:
        while not (free := [worker for worker, has in self.in_hand.items() if has is None]):
            self._listen(task, on_done)
        self.in_hand[free[0]] = job
        self.team.send(free[0], job)

    def _listen(self, task: Task, on_done: Callable[[Any], object]) -> None:
        for worker, message in self.team.hear():
            match message:
                case Ready():
                    self.in_hand[worker] = None
                    self.starts.succeed()
                case JobDone(progress=progress):
                    job, self.in_hand[worker] = self.in_hand[worker], None
                    task.advance(progress)
                    on_done(job)
                case Died(error=error):
                    self._replace(worker, error)

    def _replace(self, worker: W, error: CurateError) -> None:
        if worker not in self.in_hand:
            self.starts.fail(error)
        job = self.in_hand.pop(worker, None)
        self.reporter.warn(f"{error.message} Another takes its place.")
        if job is not None:
            self.attempts[job.name] += 1
            if self.attempts[job.name] < ATTEMPTS:
                self.again.append(job)
            else:
                message = f"{ATTEMPTS} workers died on {job.name}; all others are done. {error.message}"
                self.given_up.append(CurateError(message, hint=error.hint))
        self.team.replace(worker)


def done(do: Doer, job: Job) -> JobDone:
    """Do a job in a worker and return the message that says so."""
    amounts: list[float] = []
    do(job, amounts.append)
    return JobDone(sum(amounts))


def work_on_jobs(work: JobWork, pipe: Connection) -> None:
    """Run in each process: open the work, then do every job that arrives."""
    do = work.open()
    pipe.send(Ready(kind_here()))
    while True:
        pipe.send(done(do, pipe.recv()))
