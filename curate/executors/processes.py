"""Work on spans in several processes of this machine: this one reads rows, they encode, work and write parts.

A span's bytes do not depend on its process, and all processes share a large shard. Parts are finished out of order, so
a kill leaves holes; the next start fills them.
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

# One is worked on and one encoded: no process waits for this one, and memory stays bounded.
IN_FLIGHT = 2


def make(workers: int, device: str) -> Executor:
    """Return the executor; with several CUDA devices the processes take them in turn."""
    return Processes(workers=workers, device=device)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The executor that works in several processes."""

    workers: int
    device: str = "auto"

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the missing parts in any order; see `Executor.run`. The first error of a process ends all."""
        with keeping(work, shards, folder, reporter) as ledger:
            if shards:
                _give_memory_back()
                orders = [_Order(work, type(folder), folder.path)] * self.workers
                with started(_work, orders, devices=cuda_devices(self.device, self.workers)) as children:
                    crew = _Crew(children=children, ledger=ledger)
                    for span_rows in ahead(read_all(shards, lambda span_rows: span_rows)):
                        ledger.give_up(span_rows) if isinstance(span_rows, Unreadable) else crew.give(span_rows)
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
    """The processes, and the number of unfinished spans of each."""

    children: Sequence[Child]
    ledger: Ledger
    busy: dict[Child, int] = field(default_factory=dict)
    """By process, once it is ready."""

    def give(self, span_rows: SpanRows) -> None:
        """Send a span to the process with the fewest unfinished ones, once one has room."""
        self.listen(timeout=0)
        while not self.busy or min(self.busy.values()) >= IN_FLIGHT:
            self.listen()
        if span_rows.span.shard not in self.ledger.unreadable:
            child = min(self.busy, key=lambda child: self.busy[child])
            child.send(span_rows)
            self.busy[child] += 1

    def finish(self) -> None:
        """Wait until all is done."""
        while any(self.busy.values()):
            self.listen()

    def listen(self, timeout: float | None = None) -> None:
        """Receive the processes' messages, waiting for the first. Raises the error of one that failed."""
        for child, message in heard(self.children, timeout):
            self.busy[child] = self.busy.get(child, 1) - 1  # the first message says that it is ready
            if isinstance(message, Unreadable):
                self.ledger.give_up(message)
            elif isinstance(message, _Done):
                self.ledger.finish(message.span, message.work)


def _give_memory_back() -> None:
    """Release device memory that torch caches, for the processes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _work(order: _Order, pipe: Connection) -> None:
    """Run in each process: open the work, then write the part of every span that arrives."""
    opened, folder = order.work.open(), order.kind.open(order.path)
    pipe.send(None)
    # Held in a variable, so that an error is sent before closing, which waits for a thread that waits for rows.
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
        span_rows: SpanRows = pipe.recv()
        try:
            yield opened.encode(span_rows)
        except CurateError as error:
            yield Unreadable(shard=span_rows.span.shard, error=error)
