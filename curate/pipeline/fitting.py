"""Fits by workers: a pass's slices are shared out, and each one's result comes back as a file of the run's folder.

This process adds the results up in the order of the slices; one that comes early waits as its file. A fit that is short
is done here, since workers take some seconds to start: the slices are the same, and so are the bytes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

from curate import threads
from curate.errors import CurateError
from curate.executors.contract import Executor
from curate.folders.folder import Folder
from curate.folders.tensors import TENSORS
from curate.gradients.slices import SLICES, OpenSlices, SliceRunner, SliceWork, Take, Tensors
from curate.jobs import Advance, Foreman
from curate.pipeline.workspace import Workspace, load, make_batching
from curate.progress import Reporter, Task
from curate.proxies.settings import PassSettings

# Seconds that the rest of a pass takes one process, from which on workers are worth their start.
WORTH_SECONDS = 20.0
FOLDER = "slices"


@dataclass(frozen=True, kw_only=True)
class SliceJob:
    """One slice of a pass."""

    name: str
    """Of the file of its result."""
    number: int
    work: SliceWork
    state: str
    """The name of the file of what was worked out before; it tells passes apart."""
    members: Any


@dataclass(frozen=True, kw_only=True)
class FitWork:
    """The slices of fits, as work that other processes can do: it travels without the model."""

    settings: PassSettings
    fingerprint: str
    """Of the model."""
    folder: Folder
    """Where results are put."""

    def open(self) -> Callable[[SliceJob, Advance], None]:
        """Load the model. Raises CurateError where it is another than the one that was fitted on so far."""
        proxy, encoder = load(self.settings)
        if proxy.fingerprint() != self.fingerprint:
            raise CurateError(f"The model at {self.settings.model} has changed during the fit.")
        batching = make_batching(self.settings, proxy, encoder)
        passes: dict[str, OpenSlices] = {}

        def do(job: SliceJob, advance: Advance) -> None:
            if job.state not in passes:
                passes.clear()  # the memory of the pass before
                passes[job.state] = job.work.open(proxy, batching, _read(self.folder, job.state))
            _put(self.folder, job.name, passes[job.state](job.members, advance))

        return do


@dataclass(kw_only=True)
class Fitting:
    """Has slices done: here as long as that is quick, then by workers, who stay for all passes to come."""

    executor: Executor
    workspace: Workspace
    work: FitWork
    reporter: Reporter
    hired: ExitStack
    foreman: Foreman | None = None
    names: Iterator[str] = field(default_factory=lambda: map(f"{uuid4().hex}-{{}}".format, count()))
    """Of passes: no file that a killed fit has left has such a name."""

    def __call__(self, work: SliceWork, slices: Sequence[Any], take: Take, task: Task, state: Tensors) -> None:
        """Do every slice; see `SliceRunner`."""
        if self.foreman is None:
            slices = self._begun(work, slices, take, task, state)
        if slices:
            foreman = self.foreman = self.foreman or self._hire()
            self._share_out(foreman, work, slices, take, task, state)

    def _begun(self, work: SliceWork, slices: Sequence[Any], take: Take, task: Task, state: Tensors) -> Sequence[Any]:
        """Do slices with a worker's threads until the others are worth workers; return the others."""
        with threads.as_one_of_several():
            do = work.open(self.workspace.proxy, self.workspace.batching, state)
            begun = time.perf_counter()
            for done, members in enumerate(slices, start=1):
                take(do(members, task.advance))
                if (time.perf_counter() - begun) / done * (len(slices) - done) > WORTH_SECONDS:
                    return slices[done:]
        return []

    def _hire(self) -> Foreman:
        return self.hired.enter_context(self.executor.hired(self.work, SLICES, self.reporter))

    def _share_out(
        self, foreman: Foreman, work: SliceWork, slices: Sequence[Any], take: Take, task: Task, state: Tensors
    ) -> None:
        folder, name = self.work.folder, next(self.names)
        _put(folder, name, state)
        jobs = [
            SliceJob(name=f"{name}-{number:02d}", number=number, work=work, state=name, members=members)
            for number, members in enumerate(slices)
        ]
        waiting = iter(jobs)
        following, done = next(waiting), set[int]()

        def on_done(job: SliceJob) -> None:
            nonlocal following
            done.add(job.number)
            while following is not None and following.number in done:
                take(_read(folder, following.name))
                folder.remove(_file(following.name))
                following = next(waiting, None)

        foreman(jobs, task, on_done)
        folder.remove(_file(name))


@contextmanager
def fitting(
    executor: Executor, workspace: Workspace, folder: Folder, reporter: Reporter
) -> Iterator[SliceRunner | None]:
    """Yield what has an executor's workers do the slices of fits; None where its work is done in this process.

    Nothing of it stays in the run's folder.
    """
    folder.remove(FOLDER)  # what a killed fit has left
    if executor.is_here:
        yield None
        return
    work = FitWork(
        settings=workspace.settings, fingerprint=workspace.fingerprints["model"], folder=folder.child(FOLDER)
    )
    try:
        with ExitStack() as hired:
            yield Fitting(executor=executor, workspace=workspace, work=work, reporter=reporter, hired=hired)
    finally:
        with suppress(OSError):  # an actor that ends for an error may write still: the next start removes it
            folder.remove(FOLDER)


def _put(folder: Folder, name: str, tensors: Tensors) -> None:
    folder.put(_file(name), partial(TENSORS.write, dict(tensors)))


def _read(folder: Folder, name: str) -> Tensors:
    return TENSORS.read(folder.local(_file(name)))


def _file(name: str) -> str:
    return f"{name}{TENSORS.suffix}"
