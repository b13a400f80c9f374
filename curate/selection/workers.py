"""Who writes a selection: this process, or workers that share the jobs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from curate.jobs import Doer, Foreman, JobWork, in_order

Workers = Callable[[JobWork], AbstractContextManager[Foreman]]
"""Yields what has jobs of a work done, for the length of a block."""
Hire = Callable[[int], Workers | None]
"""Returns the workers for a selection of so many tokens; None: this process alone."""


@contextmanager
def in_this_process(work: JobWork) -> Iterator[Foreman]:
    """Yield what does jobs one after the other, here."""
    yield in_order(work.open())


class Doing:
    """Work whose jobs hold all that they need."""

    computes = False  # without torch, as all of this room

    def open(self) -> Doer:
        return lambda job, advance: job.do(advance)
