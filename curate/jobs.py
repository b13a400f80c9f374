"""Work in jobs, and what has them done: in this process, or by an executor's workers."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from curate.progress import Task

Advance = Callable[[float], None]
"""Is told how far a job is, by what has been done since it was told last."""
Doer = Callable[[Any, Advance], object]
"""Does a job and keeps its result in a file."""


class JobWork(Protocol):
    """Work on jobs, as a value: it pickles, and loads nothing before it is opened.

    One that needs no torch says so by `computes = False`: its workers start seconds earlier.
    """

    def open(self) -> Doer:
        """Load the model and all else that the jobs share; once per process."""
        ...


class Foreman(Protocol):
    """Has jobs done by workers that are there."""

    def __call__(self, jobs: Iterable[Any], task: "Task", on_done: Callable[[Any], object] = ..., /) -> None:
        """Do every job, and call `on_done` with each that is done, in any order. Raises CurateError for what cannot be.

        A job is taken when a worker is free for it, so that what it needs can be made just before.
        """
        ...


def in_order(do: Doer) -> Foreman:
    """Return what does jobs one after the other in this process."""

    def do_all(jobs: Iterable[Any], task: "Task", on_done: Callable[[Any], object] = lambda _: None) -> None:
        for job in jobs:
            do(job, task.advance)
            on_done(job)

    return do_all
