"""Who writes a selection: this process, or workers that share the jobs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from curate.progress import Task

Advance = Callable[[float], None]


class Work(Protocol):
    """What jobs have in common, as a value: it pickles."""

    def open(self) -> Callable[[Any, Advance], object]:
        """Return what does a job; once per process."""
        ...


class Foreman(Protocol):
    """Has jobs done by workers that are there, and calls `on_done` with each that is done, in any order."""

    def __call__(self, jobs: Iterable[Any], task: Task, on_done: Callable[[Any], object] = ..., /) -> None: ...


Workers = Callable[[Work], AbstractContextManager[Foreman]]
"""Yields what has jobs of a work done, for the length of a block."""
Hire = Callable[[int], Workers | None]
"""Returns the workers for a selection of so many tokens; None: this process alone."""


@contextmanager
def in_this_process(work: Work) -> Iterator[Foreman]:
    """Yield what does jobs one after the other, here."""
    do = work.open()

    def do_all(jobs: Iterable[Any], task: Task, on_done: Callable[[Any], object] = lambda _: None) -> None:
        for job in jobs:
            do(job, task.advance)
            on_done(job)

    yield do_all


class Doing:
    """Work whose jobs hold all that they need."""

    computes = False  # without torch, as all of this room

    def open(self) -> Callable[[Any, Advance], object]:
        return lambda job, advance: job.do(advance)
