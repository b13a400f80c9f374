"""Spans in several processes of this machine: this one reads and hands out rows, they encode, work and write parts.

Which process gets a span decides nothing about it, and a large shard is shared by all. Parts are finished out of order,
so a kill leaves holes; the next start fills those.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from curate.errors import CurateError
from curate.executors.children import Child, cuda_devices, heard, started
from curate.executors.contract import (
    Chunk,
    Executor,
    OpenWork,
    PartWork,
    Span,
    SpanRows,
    UnfinishedShard,
    Unreadable,
    Work,
)
from curate.executors.ledger import Ledger, keeping
from curate.executors.reading import ahead, read_all
from curate.folders.part_folder import PartFolder
from curate.progress import Reporter

# One that is worked on, and one that is encoded meanwhile: nobody waits for this process, and memory stays bounded.
IN_FLIGHT = 2


def make(workers: int, device: str) -> Executor:
    """Return the executor; with several CUDA devices the processes take them in turn."""
    return Processes(workers=workers, device=device)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Works in so many processes."""

    workers: int
    device: str = "auto"

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the missing parts in whatever order; see `Executor.run`. The first error of a process ends all."""
        with keeping(work, shards, folder, reporter) as ledger:
            if shards:
                _give_memory_back()
                orders = [_Order(work, type(folder), folder.path)] * self.workers
                with started(_work, orders, devices=cuda_devices(self.device, self.workers)) as children:
                    crew = _Crew(children=children, ledger=ledger)
                    for rows in ahead(read_all(shards, lambda rows: rows)):
                        ledger.give_up(rows) if isinstance(rows, Unreadable) else crew.give(rows)
                    crew.finish()
                folder.refresh()
        return ledger.work


@dataclass(frozen=True)
class _Order:
    work: PartWork
    kind: type[PartFolder]
    path: Path


@dataclass(frozen=True)
class _Done:
    span: Span
    work: Work


@dataclass(frozen=True, kw_only=True)
class _Crew:
    """The processes, and how many spans each has that it has not finished."""

    children: Sequence[Child]
    ledger: Ledger
    busy: dict[Child, int] = field(default_factory=dict)
    """Of those that are ready."""

    def give(self, rows: SpanRows) -> None:
        """Hand a span to the process that has least to do, once one can take it."""
        self.listen(timeout=0)
        while not self.busy or min(self.busy.values()) >= IN_FLIGHT:
            self.listen()
        if rows.span.shard not in self.ledger.unreadable:
            child = min(self.busy, key=lambda child: self.busy[child])
            child.send(rows)
            self.busy[child] += 1

    def finish(self) -> None:
        """Wait until all is done."""
        while any(self.busy.values()):
            self.listen()

    def listen(self, timeout: float | None = None) -> None:
        """Take in what processes say, waiting for the first word. Raises the error of one that failed."""
        for child, message in heard(self.children, timeout):
            self.busy[child] = self.busy.get(child, 1) - 1  # the first word is that it is ready
            if isinstance(message, Unreadable):
                self.ledger.give_up(message)
            elif isinstance(message, _Done):
                self.ledger.finish(message.span, message.work)


def _give_memory_back() -> None:
    """Let the processes have what torch keeps of a device for tensors that are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _work(order: _Order, pipe: Connection) -> None:
    """Be one of the processes: open the work, then write the part of every span that comes."""
    opened, folder = order.work.open(), order.kind.open(order.path)
    pipe.send(None)
    # Named, so that an error is sent before this is closed: closing waits for its thread, and that waits for rows.
    chunks = ahead(_encoded(pipe, opened), depth=IN_FLIGHT - 1)
    for chunk in chunks:
        if isinstance(chunk, Unreadable):
            pipe.send(chunk)
            continue
        tables = opened(chunk)
        folder.write_part(chunk.span, *tables)
        pipe.send(_Done(chunk.span, Work.of(tables.rows)))


def _encoded(pipe: Connection, opened: OpenWork) -> Iterator[Chunk | Unreadable]:
    while True:
        read: SpanRows = pipe.recv()
        try:
            yield opened.encode(read)
        except CurateError as error:
            yield Unreadable(shard=read.span.shard, error=error)
