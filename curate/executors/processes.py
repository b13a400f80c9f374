"""Work on spans in several processes of this machine: they read rows, encode, work and write parts.

A span's bytes do not depend on its process, and all processes share a large shard. Parts are finished out of order, so
a kill leaves holes; the next start fills them.
"""

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from curate.executors.ahead import ahead
from curate.executors.children import Child, ChildEnded, cuda_devices, ready, replace_child, started
from curate.executors.contract import (
    Chunk,
    Executor,
    OpenWork,
    PartWork,
    Resources,
    UnfinishedShard,
    Work,
)
from curate.executors.crew import IN_FLIGHT, Crew, Died, Done, Merging, Message, Ready, encoded, finished, merged, read
from curate.executors.helpful import helpful_workers
from curate.executors.jobs import JobCrew, work_on_jobs
from curate.executors.kinds import kind_here
from curate.executors.ledger import keeping
from curate.executors.reading import Reader
from curate.folders.folder import Folder
from curate.folders.part_folder import PartFolder
from curate.jobs import Foreman, JobWork
from curate.progress import Reporter


def make(resources: Resources) -> Executor:
    """Return the executor; with several CUDA devices the processes take them in turn."""
    return Processes(workers=resources.workers or helpful_workers(resources), device=resources.device)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The executor that works in several processes."""

    workers: int
    device: str = "auto"
    is_here: bool = False

    def described(self) -> Mapping[str, int | str]:
        return {"executor": "processes", "workers": self.workers}

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the missing parts in any order; see `Executor.run` and `Crew`."""
        with keeping(work, shards, folder, reporter) as ledger:
            if shards:
                _give_memory_back()
                order = _Order(work, type(folder), folder.folder)
                devices = cuda_devices(self.device, self.workers)
                with started(_work, [order] * self.workers, devices=devices) as children:
                    team = _Family(work=_work, order=order, children=children)
                    Crew(team=team, ledger=ledger).do_all(shards)
                folder.refresh()
        return ledger.work

    @contextmanager
    def hired(self, work: JobWork, count: int, reporter: Reporter) -> Iterator[Foreman]:
        """Yield what has jobs done in any order; see `Executor.hired` and `JobCrew`."""
        _give_memory_back()
        count = min(self.workers, count)
        devices = cuda_devices(self.device, count)
        computes = getattr(work, "computes", True)
        with started(work_on_jobs, [work] * count, devices=devices, computes=computes) as children:
            team = _Family(work=work_on_jobs, order=work, children=children)
            yield JobCrew(team=team, reporter=reporter).do_all


@dataclass(frozen=True)
class _Order:
    work: PartWork
    kind: type[PartFolder]
    folder: Folder


@dataclass(frozen=True, kw_only=True)
class _Family:
    """Processes, as workers of a crew."""

    work: Callable[..., None]
    order: Any
    children: list[Child]

    def replace(self, worker: Child) -> None:
        replace_child(self.children, worker, self.work, self.order)

    def send(self, worker: Child, task: Any) -> None:
        with suppress(OSError):  # it has ended, which its next message says
            worker.pipe.send(task)

    def hear(self) -> list[tuple[Child, Message]]:
        return [(child, self._message(child)) for child in ready(self.children)]

    def _message(self, child: Child) -> Message:
        try:
            return child.receive()
        except ChildEnded as error:
            return Died(error)


def _give_memory_back() -> None:
    """Release device memory that torch caches, for the processes."""
    gc.collect()
    if "torch" not in sys.modules:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _work(order: _Order, pipe: Connection) -> None:
    """Run in each process: open the work, then write the part of every span whose start arrives, and merge files."""
    opened, folder = order.work.open(), order.kind.within(order.folder)
    pipe.send(Ready(kind_here()))
    sending = threading.Lock()

    def tell(message: Message) -> None:
        with sending:
            pipe.send(message)

    # Held in a variable, so that an error is sent before closing, which waits for a thread that waits for a start.
    chunks = ahead(_received(pipe, folder, opened, tell), depth=IN_FLIGHT - 1)
    for chunk in chunks:
        tell(finished(folder, opened, chunk))


def _received(
    pipe: Connection, folder: PartFolder, opened: OpenWork, tell: Callable[[Message], None]
) -> Iterator[Chunk | Done]:
    reader = Reader()
    while True:
        task = pipe.recv()
        if isinstance(task, Merging):
            tell(merged(folder, task))
            continue
        span_rows, message = read(reader, task)
        tell(message)  # before encoding: another process may read on
        if span_rows is not None:
            yield encoded(opened, span_rows)
